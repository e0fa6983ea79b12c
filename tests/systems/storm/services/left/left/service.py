"""Has a database, so its replica overlaps with its successor for a moment."""

from uuid import uuid4

from msgspec import Struct

from atoll import Service
from atoll.sqlite import Transaction


class Note(Struct, forbid_unknown_fields=True):
    text: str


service = Service("left", database="sqlite")


@service.post("/left/notes", scope="left:write")
async def take(note: Note, tx: Transaction) -> Note:
    await tx.execute("INSERT INTO note (id, text) VALUES ($1, $2)", str(uuid4()), note.text)
    return note


@service.get("/left/notes")
async def count(tx: Transaction) -> dict[str, int]:
    return {"notes": await tx.scalar("SELECT count(*) FROM note")}
