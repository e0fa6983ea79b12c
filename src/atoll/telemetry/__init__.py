"""What a process says of itself to machines: spans of traces that the gateway chose, sent as OTLP.

The rule: what nobody watches costs nothing, and a collector that is gone harms nothing. Nothing here waits for anybody: what
can't be sent in time is dropped and counted. Why no SDK: docs/decisions/0009-telemetry.md. Read `spans` first.
"""
