"""A card provider, simulated: somebody else's system, which the shop reaches over HTTP and shares nothing with.

It keeps what a real one promises: a charge or refund repeated under its `Idempotency-Key` is made once, and what was
answered is in the ledger, whatever is killed. `card-ok` is approved, `card-declined` declined. Read `app.py` first.
"""
