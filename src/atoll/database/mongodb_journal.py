"""Delivery's collections on MongoDB, prefix `atoll_`. Times are decided by the server's clock (`$$NOW`).

Order of the outbox: a position is drawn from one document, `atoll_order`, outside the transaction that it is for, as PostgreSQL
draws from a sequence. (Inside it, every two transactions that publish would conflict.) It is drawn as one of the
transaction's last acts, when what it changed is locked: whoever changes the same document next begins after this commit and
draws a higher one. That is what makes positions rise in commit order per key. A draw that a crash of the server undoes
was for a transaction that was not committed either, because the journal is one log. A position is the server's time in
microseconds, or the last one plus one, so it also tells a row's age. The relay reads one snapshot, or it might see the second
row of a key without the first.

Lease and cursor are two documents: the one is renewed while transactions write the other, and would conflict with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from atoll.database.mongodb_driver import WriteConflict, answered, outage
from atoll.database.ports import Backlog, Kept, KeyInUse, Lease, LeaseLost, OutboxRow, Parked
from atoll.errors import Conflict

if TYPE_CHECKING:
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.collection import AsyncCollection

    from atoll.database.mongodb import Database

__all__ = ["MongoJournal", "prepare", "write_outbox"]

T = TypeVar("T")

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_NOW_S: dict[str, Any] = {"$divide": [{"$toLong": "$$NOW"}, 1000]}
_NOW_US: dict[str, Any] = {"$multiply": [{"$toLong": "$$NOW"}, 1000]}
_ATTEMPTS_KEPT_S = 30 * 86_400
_PLAIN = ("order", "lease", "cursor")  # the others come with their indexes


async def prepare(database: Database) -> None:
    """Makes the collections and their indexes. May be repeated."""
    of = database.collection
    await asyncio.gather(
        *(database.make(f"atoll_{name}") for name in _PLAIN),
        of("atoll_outbox").create_index([("position", 1)]),
        of("atoll_inbox").create_index("at"),
        of("atoll_answer").create_index("at"),
        of("atoll_attempt").create_index("at", expireAfterSeconds=_ATTEMPTS_KEPT_S),
        of("atoll_parked").create_index([("source", 1), ("key", 1), ("sequence", 1)]),
    )


async def write_outbox(database: Database, session: AsyncClientSession, rows: Sequence[OutboxRow]) -> None:
    """The last statements of a transaction."""
    first = await _draw(database, len(rows))
    documents = [_outbox_document(row, first + place) for place, row in enumerate(rows)]
    await database.collection("atoll_outbox").insert_many(documents, session=session)


async def _draw(database: Database, count: int) -> int:
    """The first of `count` positions, each above all that were drawn before. In no transaction."""
    last = {"$add": [{"$max": [_NOW_US, {"$ifNull": ["$last", 0]}]}, count]}
    order = await database.positions().find_one_and_update(
        {"_id": "outbox"}, [{"$set": {"last": last}}], upsert=True, return_document=True
    )
    assert order is not None  # it was made if it was missing
    first: int = order["last"] - count + 1
    return first


def _outbox_document(row: OutboxRow, position: int) -> dict[str, Any]:
    return {
        "_id": row.id,
        "position": position,
        "subject": row.subject,
        "key": row.key,
        "headers": row.headers,
        "body": row.body,
    }


class MongoJournal:
    """`ports.Journal` on MongoDB."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._attempted: set[str] = set()

    def _of(self, name: str) -> AsyncCollection[dict[str, Any]]:
        return self._database.collection(f"atoll_{name}")

    # outbox

    async def outbox(self, limit: int) -> list[OutboxRow]:
        """The oldest committed rows, in order per key."""
        async with self._database.reader() as reader:
            found = await reader.all(dict, "atoll_outbox", {}, sort="position", limit=limit)
        return [OutboxRow(id=row.pop("_id"), **row) for row in found]

    @answered
    async def remove_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Deletes them; in the journal when it returns, or the next snapshot would show them again."""
        await self._of("outbox").delete_many({"_id": {"$in": [row.id for row in rows]}})

    @answered
    async def backlog(self) -> Backlog:
        """How many rows wait, and for how long the oldest has."""
        count = await self._of("outbox").count_documents({})
        pipeline: list[dict[str, Any]] = [
            {"$sort": {"position": 1}},
            {"$limit": 1},
            {"$project": {"age_us": {"$subtract": [_NOW_US, "$position"]}}},
        ]
        oldest = await (await self._of("outbox").aggregate(pipeline)).to_list()
        return Backlog(count, max(0.0, oldest[0]["age_us"] / 1e6) if oldest else 0.0)

    # leases and cursors

    async def take_lease(self, source: str, owner: str, duration_s: float) -> Lease | None:
        """The lease, or None while another holds it."""

        async def take() -> Lease | None:
            async with self._database.transaction() as tx:
                lease = await tx.run(lambda session: self._take(session, source, owner, duration_s))
                if lease is None:
                    return None
                cursor = await tx.collection("atoll_cursor").find_one_and_update(
                    {"_id": source},
                    {"$set": {"epoch": lease["epoch"]}, "$setOnInsert": {"identity": "", "sequence": 0}},
                    upsert=True,
                    return_document=True,
                )
                return Lease(source, owner, lease["epoch"], cursor["identity"], cursor["sequence"], lease["former_released"])

        return await _repeated(take)

    async def _take(self, session: AsyncClientSession, source: str, owner: str, duration_s: float) -> dict[str, Any] | None:
        expired = {"$expr": {"$lt": ["$expires", "$$NOW"]}}
        free = {"_id": source, "$or": [{"owner": owner}, {"released": True}, expired]}
        taken = {
            "owner": {"$literal": owner},
            "epoch": {"$add": ["$epoch", 1]},
            "former_released": "$released",
            "released": False,
            "expires": _in(duration_s),
        }
        leases = self._of("lease")
        if not await leases.find_one({"_id": source}, session=session):
            fresh = {"_id": source, "owner": owner, "epoch": 0, "released": True, "expires": _LONG_AGO}
            await leases.insert_one(fresh, session=session)
        return await leases.find_one_and_update(free, [{"$set": taken}], return_document=True, session=session)

    @answered
    async def renew_leases(self, leases: Iterable[Lease], duration_s: float) -> set[str]:
        """The sources still held."""
        held = set()
        for lease in leases:
            renewed = await self._of("lease").update_one(_held(lease), [{"$set": {"expires": _in(duration_s)}}])
            if renewed.matched_count:
                held.add(lease.source)
        return held

    @answered
    async def release_lease(self, lease: Lease) -> None:
        """Frees it, if it is still held."""
        await self._of("lease").update_one(_held(lease), {"$set": {"expires": _LONG_AGO, "released": True}})

    @answered
    async def restart_cursor(self, lease: Lease, identity: str, sequence: int) -> Lease:
        """Sets the cursor. Raises LeaseLost."""
        place = {"_id": lease.source, "epoch": lease.epoch}
        set_ = await self._of("cursor").update_one(place, {"$set": {"identity": identity, "sequence": sequence}})
        if not set_.matched_count:
            raise LeaseLost(lease.source)
        return replace(lease, identity=identity, sequence=sequence)

    # inbox

    async def seen(self, tx: Any, ids: Sequence[str]) -> set[str]:
        """Those of `ids` handled before."""
        found = await tx.collection("atoll_inbox").find({"_id": {"$in": list(ids)}}, {"_id": 1})
        return {row["_id"] for row in found}

    async def advance(self, tx: Any, lease: Lease, sequence: int, ids: Sequence[str]) -> Lease:
        """Moves the cursor and remembers `ids`. Raises LeaseLost."""
        place = {"_id": lease.source, "epoch": lease.epoch, "sequence": lease.sequence}
        if not await tx.update("atoll_cursor", place, {"$set": {"sequence": sequence}}):
            raise LeaseLost(lease.source)
        if ids:
            await self._remember(tx, ids)
        return replace(lease, sequence=sequence)

    async def _remember(self, tx: Any, ids: Sequence[str]) -> None:
        from pymongo import UpdateOne

        entry = {"$setOnInsert": {"at": datetime.now(UTC)}}
        await tx.collection("atoll_inbox").bulk_write([UpdateOne({"_id": id}, entry, upsert=True) for id in ids], ordered=False)
        await self._forget_attempts(tx, ids)

    @answered
    async def handled_at(self, id: str) -> float | None:
        """When it was handled (epoch s)."""
        found = await self._of("inbox").find_one({"_id": id})
        return found["at"].replace(tzinfo=UTC).timestamp() if found else None

    @answered
    async def position(self, source: str) -> int | None:
        """The cursor's sequence."""
        found = await self._of("cursor").find_one({"_id": source})
        return found["sequence"] if found else None

    @answered
    async def forget_inbox(self, older_than_s: float) -> int:
        """The number of ids forgotten."""
        old = datetime.now(UTC) - timedelta(seconds=older_than_s)
        gone = await self._of("inbox").delete_many({"at": {"$lt": old}})
        return gone.deleted_count

    # the attempt of an event that may have killed its process

    @answered
    async def begin_attempt(self, source: str, id: str) -> int:
        """Commits that an attempt begins; its number."""
        attempt = await self._of("attempt").find_one_and_update(
            {"_id": id},
            {"$inc": {"number": 1}, "$set": {"source": source}, "$currentDate": {"at": True}},
            upsert=True,
            return_document=True,
        )
        assert attempt is not None  # it was made if it was missing
        self._attempted.add(id)
        number: int = attempt["number"]
        return number

    async def _forget_attempts(self, tx: Any, ids: Sequence[str]) -> None:
        """Only this process's own: whoever finishes an event that was attempted has begun an attempt itself."""
        begun = self._attempted.intersection(ids)
        if begun:
            await tx.delete("atoll_attempt", {"_id": {"$in": list(begun)}})

    # answers to requests that may be sent again

    async def claim(self, tx: Any, id: str) -> Kept | None:
        """Takes the id, or gives what was answered before. Raises KeyInUse."""
        found = await self._kept(id)
        if found is None:
            await tx.open(lambda session: self._take_id(session, id))
            return None
        return Kept(found["fingerprint"], found["status"], found["headers"], found["body"])

    @answered
    async def _kept(self, id: str) -> dict[str, Any] | None:
        """As a majority has it: what a failover can still take back was not answered."""
        from pymongo.read_concern import ReadConcern

        return await self._of("answer").with_options(read_concern=ReadConcern("majority")).find_one({"_id": id})

    async def _take_id(self, session: AsyncClientSession, id: str) -> None:
        from pymongo.errors import PyMongoError

        try:
            await self._of("answer").insert_one({"_id": id, "at": datetime.now(UTC)}, session=session)
        except PyMongoError as error:
            if isinstance(outage(error), WriteConflict | Conflict):  # somebody has written it, or is about to
                raise KeyInUse(id) from None
            raise

    async def keep(self, tx: Any, id: str, answer: Kept) -> None:
        """Fills in the document that `claim` wrote. Raises KeyInUse when this transaction has none."""
        filled = {name: getattr(answer, name) for name in Kept.__struct_fields__}
        if not await tx.update("atoll_answer", {"_id": id}, {"$set": filled}):
            raise KeyInUse(id)

    @answered
    async def forget_answers(self, older_than_s: float) -> int:
        """The number of answers forgotten."""
        old = datetime.now(UTC) - timedelta(seconds=older_than_s)
        gone = await self._of("answer").delete_many({"at": {"$lt": old}})
        return gone.deleted_count

    # parked events and dead letters

    async def park(self, tx: Any, event: Parked) -> None:
        """Inserts or replaces it, and clears its attempt."""
        await tx.replace("atoll_parked", {"_id": event.id}, event, upsert=True)
        await self._forget_attempts(tx, [event.id])

    async def unpark(self, tx: Any, id: str) -> bool:
        """Deletes it; False when it was gone."""
        gone: int = await tx.delete("atoll_parked", {"_id": id})
        return gone > 0

    @answered
    async def parked_keys(self, source: str) -> set[str]:
        """Keys whose later events must queue."""
        return set(await self._of("parked").distinct("key", {"source": source}))

    async def due(self, source: str, limit: int) -> list[Parked]:
        """The heads of keys that are due, oldest first."""
        due = {"$match": {"$expr": {"$lte": ["$due_at", _NOW_S]}}}
        return await self._parked([*_heads(source), due, {"$sort": {"sequence": 1}}, {"$limit": limit}])

    async def parked(self, state: str | None = None, limit: int = 1000) -> list[Parked]:
        """All, or those of one state, by source and sequence."""
        wanted = {"state": state} if state else {}
        return await self._parked([{"$match": wanted}, {"$sort": {"source": 1, "sequence": 1}}, {"$limit": limit}])

    async def parked_event(self, id: str) -> Parked | None:
        """One of them."""
        found = await self._parked([{"$match": {"_id": id}}])
        return found[0] if found else None

    @answered
    async def next_due_in(self, source: str) -> float | None:
        """Seconds until the next head is due; None when nothing waits."""
        left = {"$group": {"_id": None, "left_s": {"$min": {"$subtract": ["$due_at", _NOW_S]}}}}
        found = await (await self._of("parked").aggregate([*_heads(source), left])).to_list()
        return max(0.0, found[0]["left_s"]) if found else None

    @answered
    async def _parked(self, pipeline: list[dict[str, Any]]) -> list[Parked]:
        found = await (await self._of("parked").aggregate(pipeline)).to_list()
        return [Parked(id=row.pop("_id"), **row) for row in found]


def _heads(source: str) -> list[dict[str, Any]]:
    """The first parked event of every key, where it is waiting."""
    return [
        {"$match": {"source": source}},
        {"$sort": {"key": 1, "sequence": 1}},
        {"$group": {"_id": "$key", "head": {"$first": "$$ROOT"}}},
        {"$replaceRoot": {"newRoot": "$head"}},
        {"$match": {"state": "waiting"}},
    ]


def _held(lease: Lease) -> dict[str, Any]:
    return {"_id": lease.source, "owner": lease.owner, "epoch": lease.epoch}


def _in(duration_s: float) -> dict[str, Any]:
    return {"$add": ["$$NOW", int(duration_s * 1000)]}


async def _repeated(work: Callable[[], Awaitable[T]]) -> T:
    """Our own short transactions have no effects outside, so a conflict is simply tried again."""
    for _attempt in range(5):
        try:
            return await work()
        except (WriteConflict, Conflict):
            continue
    return await work()
