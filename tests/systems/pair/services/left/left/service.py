"""Takes notes and tells everybody."""

from uuid import UUID, uuid4

from msgspec import Struct

from atoll import Event, Principal, Service
from atoll.sqlite import Transaction


class Text(Struct, forbid_unknown_fields=True):
    text: str


class Note(Struct):
    id: UUID
    text: str


class NoteTaken(Event, name="note_taken", key="id"):
    id: UUID
    text: str


class NoteShouted(Event, name="note_shouted", key="id"):
    id: UUID
    text: str


service = Service("left", database="sqlite", publishes=[NoteTaken, NoteShouted])


@service.post("/left/notes", scope="left:write")
async def take(note: Text, me: Principal, tx: Transaction) -> Note:
    taken = Note(uuid4(), note.text)
    await tx.execute("INSERT INTO note (id, text) VALUES ($1, $2)", str(taken.id), taken.text)
    await tx.publish(NoteTaken(id=taken.id, text=taken.text))
    await tx.publish(NoteShouted(id=taken.id, text=taken.text.upper()))
    return taken


@service.get("/left/notes", public=True)
async def notes(tx: Transaction) -> list[Note]:
    return await tx.all(Note, "SELECT id, text FROM note ORDER BY id")
