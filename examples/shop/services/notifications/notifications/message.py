"""A message to one customer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct

from atoll.sqlite import Transaction

__all__ = ["Message", "messages_after", "messages_before"]

_COLUMNS = "id, kind, order_id, text, created_at"


class Message(Struct, frozen=True):
    """`id` rises with time: the stream resumes by it."""

    id: int
    kind: Literal["order_confirmed", "order_cancelled"]
    order_id: UUID
    text: str
    created_at: datetime


async def messages_before(tx: Transaction, customer_id: str, before: int | None, limit: int) -> Sequence[Message]:
    """Newest first."""
    return await tx.all(
        Message,
        f"""SELECT {_COLUMNS} FROM messages WHERE customer_id = $1 AND ($2 IS NULL OR id < $2)
            ORDER BY id DESC LIMIT $3""",
        customer_id,
        before,
        limit,
    )


async def messages_after(tx: Transaction, customer_id: str, after: int, limit: int) -> Sequence[Message]:
    """Oldest first."""
    return await tx.all(
        Message,
        f"SELECT {_COLUMNS} FROM messages WHERE customer_id = $1 AND id > $2 ORDER BY id LIMIT $3",
        customer_id,
        after,
        limit,
    )
