"""Publishes and consumes events, over NATS JetStream or inside one process.

The rule it keeps: order since a reset, or `Interrupted`; stored, or `BusOutage`. It knows nothing of services, outboxes or
inboxes, and only `jetstream` and `wire` know NATS. Read `ports` first: it is the promise; `jetstream` and `memory` keep it.
"""
