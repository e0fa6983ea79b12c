"""Exactly-once effects from an at-least-once bus.

`relay` moves a service's outbox to the bus in order; `consumer` turns a source into transactions that hold inbox ids,
effects and cursor together; `dead_letters` is what an operator does with the events that failed for good.
The rule this room keeps: nothing is told to the bus before the database has committed it, and a holder that lost its lease
commits nothing. Read `consumer.py` first; why it is so stands in docs/explanation/delivery.md.
"""
