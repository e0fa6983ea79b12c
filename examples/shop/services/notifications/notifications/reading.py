"""What customers ask: their own messages, as a list or as they come."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.responses import StreamingResponse

from atoll import Header, Invalid, Page, Principal, Router
from atoll.sqlite import Database, Transaction
from notifications.message import Message, messages_before
from notifications.settings import NotificationSettings
from notifications.tail import Tail

__all__ = ["router"]

router = Router()


@router.get("/notifications", scope="notifications:read")
async def own_messages(
    me: Principal, tx: Transaction, limit: Annotated[int, Meta(ge=1, le=100)] = 20, after: str = ""
) -> Page[Message]:
    """The caller's messages, newest first. `after` is the `next` of the page before."""
    rows = await messages_before(tx, me.id, _number(after, "after") if after else None, limit + 1)
    shown = list(rows[:limit])
    return Page(items=shown, next=str(shown[-1].id) if len(rows) > limit else None)


@router.get("/notifications/stream", scope="notifications:read", streaming=True)
async def stream(
    me: Principal,
    database: Database,
    settings: NotificationSettings,
    last_event_id: Annotated[str, Header("last-event-id")] = "0",
) -> StreamingResponse:
    """Server-sent events: all messages after Last-Event-ID, then each new one. Ends when the token does."""
    tail = Tail(
        database=database,
        customer_id=me.id,
        after=_number(last_event_id, "last-event-id"),
        ends_at=float(me.claims.get("exp", 0)),
        pause_s=settings.stream_pause_s,
        heartbeat_s=settings.stream_heartbeat_s,
    )
    return StreamingResponse(tail.lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


def _number(text: str, field: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise Invalid(faults=[{"field": field, "detail": "must be the number of a message"}])
    return int(text)
