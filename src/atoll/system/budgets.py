"""The one table of time budgets: each layer gives up before the one above it does, so that the cause is what is reported.

gateway > handler > idle in transaction > statement: a transaction that waits for its client ends before the handler does.
"""

from __future__ import annotations

import msgspec

__all__ = ["BUDGETS", "Budgets"]


class Budgets(msgspec.Struct, frozen=True):
    """All times in seconds."""

    gateway_s: float = 15.0
    handler_s: float = 10.0
    statement_s: float = 5.0
    idle_in_transaction_s: float = 8.0
    publish_ack_s: float = 5.0
    batch_events: int = 256
    batch_s: float = 0.020
    lease_s: float = 5.0
    drain_s: float = 2.0
    attempts: int = 6
    inbox_kept_s: float = 7 * 86_400.0
    answers_kept_s: float = 86_400.0


BUDGETS = Budgets()
