"""Keeps a copy of every note."""

from uuid import UUID

from msgspec import Struct

from atoll import Service, Settings
from atoll.sqlite import Transaction


class RightSettings(Settings):
    greeting: str


class NoteTaken(Struct):
    id: UUID
    text: str


class Copy(Struct):
    id: UUID
    text: str
    times: int


service = Service("right", database="sqlite")


@service.on("left.note_taken")
async def keep(event: NoteTaken, tx: Transaction) -> None:
    await tx.execute(
        "INSERT INTO copy (id, text) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET times = times + 1",
        str(event.id),
        event.text,
    )


@service.get("/right/copies", public=True)
async def copies(tx: Transaction) -> list[Copy]:
    return await tx.all(Copy, "SELECT id, text, times FROM copy ORDER BY id")


@service.get("/right/greeting", public=True)
async def greeting(settings: RightSettings) -> dict[str, str]:
    return {"greeting": settings.greeting}
