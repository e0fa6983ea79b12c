"""MongoDB: documents, in transactions of a replica set.

A transaction that writes a document which another one has written meanwhile is refused by MongoDB: there are no row locks to
wait for. So **begin a handler with its write**: the first statement of a transaction is repeated, unnoticed, until the
document is free (at most 5 s), and from then on the document is this transaction's own. A conflict at a later statement ends
the transaction as `WriteConflict`, an Outage: the client is told 503 and may try again, an event is handled again. A handler
is never run twice within one request, because what it did outside the database can't be taken back.

Every commit is acknowledged after it is in the journal (w: majority, j: true). Readers see one snapshot throughout.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from atoll.database import mongodb_migrations
from atoll.database.documents import codec, from_document, from_documents, plain, to_document
from atoll.database.mongodb_driver import WriteConflict, answered, conflict, may_repeat, outage, whole
from atoll.database.mongodb_journal import MongoJournal, write_outbox
from atoll.database.ports import Encode, Kind, OutboxRow
from atoll.database.statements import ended, publishes_nothing
from atoll.errors import Bug, DatabaseOutage, NotFound, SystemMistake
from atoll.system.budgets import BUDGETS

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

    Document = dict[str, Any]

__all__ = ["Collection", "Database", "Transaction", "WriteConflict"]

T = TypeVar("T")
Filter = Mapping[str, Any]
Statement = Callable[["AsyncClientSession"], Coroutine[Any, Any, T]]

_FRESH, _HELD, _ENDED = range(3)
_WRITE_IN_SNAPSHOT = 72
_EXISTS = 48
_SELECTION_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.02


class Transaction:
    """One transaction. It starts at its first statement; leaving the block commits, an exception rolls back.

    Filters and changes are MongoDB's own (`{"_id": sku}`, `{"$set": {…}}`); they may hold Decimal, UUID and datetime.
    """

    def __init__(self, database: Database, encode: Encode) -> None:
        self._database = database
        self._encode = encode
        self._outbox: list[OutboxRow] = []
        self._state = _FRESH
        self._failure: Exception | None = None
        self._session: AsyncClientSession | None = None
        self._turn: asyncio.Lock | None = None
        self._opening: Statement[Any] | None = None

    async def one(self, type_: type[T], collection: str, filter: Filter) -> T:
        """The first document that matches. Raises NotFound when there is none, Bug when it doesn't fit `type_`."""
        found = await self.one_or_none(type_, collection, filter)
        if found is None:
            raise NotFound(f"there is no such {'document' if type_ is dict else type_.__name__.lower()}")
        return found

    async def one_or_none(self, type_: type[T], collection: str, filter: Filter) -> T | None:
        """The first document that matches, or None. Raises Bug when it doesn't fit `type_`."""
        found = await self.run(lambda session: self._raw(collection).find_one(plain(filter), session=session))
        return None if found is None else from_document(type_, found)

    async def all(
        self, type_: type[T], collection: str, filter: Filter | None = None, *, sort: str | Sequence[str] = (), limit: int = 0
    ) -> list[T]:
        """Every document that matches. `sort` names fields, `-price` is descending; `limit` 0 is none."""
        fields = (sort,) if isinstance(sort, str) else sort
        order = [(field.removeprefix("-"), -1 if field.startswith("-") else 1) for field in fields]

        async def find(session: AsyncClientSession) -> list[Document]:
            found = self._raw(collection).find(plain(filter or {}), sort=order or None, limit=limit, session=session)
            return await found.to_list()

        return from_documents(type_, await self.run(find))

    async def insert(self, collection: str, document: Any, *, id: Any = None) -> Any:
        """Stores a Struct, dataclass or dict and gives its `_id`: `id`, the field `id`, or one that MongoDB's driver makes.

        Raises Conflict when there is one with that `_id`, or with a value that a unique index wants only once.
        """
        stored = to_document(document, id)
        await self._make(collection)
        result = await self.run(lambda session: self._raw(collection).insert_one(stored, session=session))
        return result.inserted_id

    async def update(self, collection: str, filter: Filter, change: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
        """Changes every document that matches, and gives their number. `change` is `{"$set": …}` or a pipeline."""
        result = await self.run(
            lambda session: self._raw(collection).update_many(plain(filter), plain(change), session=session),
            (collection, filter),
        )
        return result.matched_count

    async def updated(self, type_: type[T], collection: str, filter: Filter, change: Any, *, before: bool = False) -> T | None:
        """Changes the first document that matches and gives it as it is now (`before`: as it was), or None.

        A handler that reads, decides and writes begins with this one: from here on nobody else can change the document.
        """
        found = await self.run(
            lambda session: self._raw(collection).find_one_and_update(
                plain(filter), plain(change), return_document=not before, session=session
            ),
            (collection, filter),
        )
        return None if found is None else from_document(type_, found)

    async def replace(self, collection: str, filter: Filter, document: Any, *, upsert: bool = False) -> int:
        """Replaces the first document that matches and gives how many did. `upsert`: stores it when none does."""
        stored = to_document(document)
        if upsert:
            await self._make(collection)
        result = await self.run(
            lambda session: self._raw(collection).replace_one(plain(filter), stored, upsert=upsert, session=session),
            (collection, filter),
        )
        return result.matched_count

    async def delete(self, collection: str, filter: Filter) -> int:
        """Deletes every document that matches, and gives their number."""
        result = await self.run(
            lambda session: self._raw(collection).delete_many(plain(filter), session=session), (collection, filter)
        )
        return result.deleted_count

    def collection(self, name: str) -> Collection:
        """Everything else pymongo can do with a collection, as part of this transaction."""
        return Collection(self, self._raw(name))

    async def publish(self, event: Any) -> None:
        """The event becomes part of this transaction: published after the commit, or never. Order is call order."""
        if self._state == _ENDED:
            raise self._failure or ended()
        self._outbox.append(self._encode(event))

    async def run(self, statement: Statement[T], what: object = None) -> T:
        """One statement, given this transaction's session. The first one of a transaction may be called several times.

        `what` names the document it wants: transactions of this process that want the same take turns, once they conflict.
        """
        if self._state == _HELD and self._session is not None:
            return await self._guarded(statement, self._session)
        if self._state == _ENDED:
            raise self._failure or ended()
        return await self._first(statement, repr(what) if what else "")

    async def open(self, statement: Statement[Any]) -> None:
        """Begins with `statement`. It is never waited for, but repeated with the first one, which still is. atoll calls it."""
        self._session = session = await self._begin()
        await self._guarded(statement, session)
        self._opening = statement

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._commit()
        finally:
            self._state = _ENDED
            await self._end_session()
            if self._turn is not None:
                self._turn.release()
        if error is None and self._outbox:
            self._database.published()

    def _raw(self, collection: str) -> AsyncCollection[Document]:
        return self._database.collection(collection)

    async def _make(self, collection: str) -> None:
        """Two transactions that both make a collection conflict, so it is made beforehand. Migrations should do that."""
        if self._state == _FRESH:
            await self._database.make(collection)

    async def _first(self, statement: Statement[T], what: str) -> T:
        """Waits for the document by trying again: nothing has been done yet, so nobody can tell."""
        from pymongo.errors import PyMongoError

        end = time.monotonic() + BUDGETS.statement_s
        pause_s = _FIRST_PAUSE_S
        if self._database.turns.contested(what):
            await self._take_turn(what, end)
        while True:
            session = self._session or await self._reopened()
            try:
                result = await whole(statement(session))
            except PyMongoError as error:
                await self._end_session()
                if not may_repeat(error) or time.monotonic() > end:
                    raise self._fault(error) from error
            else:
                self._state = _HELD
                return result
            if what and self._turn is None:
                await self._take_turn(what, end)
            else:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    async def _reopened(self) -> AsyncClientSession:
        self._session = session = await self._begin()
        if self._opening is not None:
            await self._guarded(self._opening, session)
        return session

    async def _take_turn(self, what: str, end: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                self._turn = await self._database.turns.take(what)
        except TimeoutError:
            self._state = _ENDED
            self._failure = conflict()
            raise self._failure from None

    async def _begin(self) -> AsyncClientSession:
        session = self._database.client.start_session(causal_consistency=False)
        await session.start_transaction()
        return session

    async def _guarded(self, statement: Statement[T], session: AsyncClientSession) -> T:
        from pymongo.errors import PyMongoError

        try:
            return await whole(statement(session))
        except PyMongoError as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> Exception:
        """What to raise. MongoDB has rolled back by now, whatever the statement's fault was."""
        self._state = _ENDED
        self._failure = outage(error) or error
        return self._failure

    async def _commit(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._outbox:
            await self.run(lambda session: write_outbox(self._database, session, self._outbox), self._outbox[0].key)
        if self._session is not None:
            await _commit(self._session)

    async def _end_session(self) -> None:
        """Ends the session, which rolls back what was not committed. A server that is gone has forgotten it anyway."""
        from pymongo.errors import PyMongoError

        session, self._session = self._session, None
        if session is not None:
            with suppress(PyMongoError):
                await whole(session.end_session())


class Reader(Transaction):
    """The same for reading only: every statement sees the snapshot of the first, and MongoDB refuses writes."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, _no_encode)

    async def publish(self, event: Any) -> None:
        """Raises Bug: a reader changes nothing."""
        raise publishes_nothing()

    async def _make(self, collection: str) -> None:
        """Nothing: the write that follows is refused."""

    async def _begin(self) -> AsyncClientSession:
        return self._database.client.start_session(snapshot=True)

    async def _commit(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fault(self, error: Exception) -> Exception:
        if getattr(error, "code", None) == _WRITE_IN_SNAPSHOT:
            return Bug("a reader can't write", hint="GET handlers are given a reader; change things in post, put or delete")
        return super()._fault(error)


class _Turns:
    """Who is next for a document that this process's transactions fight for. A transaction takes one turn at most."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def contested(self, what: str) -> bool:
        return bool(what) and what in self._locks

    async def take(self, what: str) -> asyncio.Lock:
        """First come, first served. The caller releases it when its transaction has ended."""
        lock = self._locks.get(what)
        if lock is None:
            lock = self._locks[what] = asyncio.Lock()
        await lock.acquire()
        return lock


class Collection:
    """pymongo's AsyncCollection within a transaction: `await tx.collection("x").count_documents({})`. Cursors come as lists."""

    def __init__(self, transaction: Transaction, raw: AsyncCollection[Document]) -> None:
        self._transaction = transaction
        self._raw = raw

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._raw, name)

        async def call(*args: Any, **options: Any) -> Any:
            async def statement(session: AsyncClientSession) -> Any:
                result = method(*args, session=session, **options)
                if isinstance(result, Awaitable):
                    result = await result
                return await result.to_list() if hasattr(result, "to_list") else result

            return await self._transaction.run(statement)

        return call


class Database:
    """One service's database: the one that `url` names in its path."""

    kind: Final[Kind] = "mongodb"

    def __init__(self, url: str, encode: Encode) -> None:
        self._url = url
        self._name = urlsplit(url).path.strip("/")
        if not self._name:
            raise SystemMistake(f"{_hidden(url)} names no database", hint="mongodb://host:port/NAME?replicaSet=rs0")
        self._encode = encode
        self._callbacks: list[Callable[[], None]] = []
        self._client: AsyncMongoClient[Document] | None = None
        self._made: set[str] = set()
        self.turns = _Turns()
        self.journal = MongoJournal(self)

    @property
    def client(self) -> AsyncMongoClient[Document]:
        """pymongo's client. Raises DatabaseOutage before `open`."""
        if self._client is None:
            raise DatabaseOutage("the database is not open")
        return self._client

    @property
    def raw(self) -> AsyncDatabase[Document]:
        """pymongo's database, for what has no place in a transaction: indexes, validators."""
        return self.client.get_database(self._name, codec_options=codec())

    def collection(self, name: str) -> AsyncCollection[Document]:
        """pymongo's collection, outside any transaction."""
        return self.raw[name]

    def positions(self) -> AsyncCollection[Document]:
        """Where outbox positions are drawn. Needs no journal of its own: the commit that uses one writes it along."""
        from pymongo.write_concern import WriteConcern

        return self.raw.get_collection("atoll_order", write_concern=WriteConcern(w=1, j=False))

    async def make(self, collection: str) -> None:
        """Makes the collection unless it is there; asks once. Raises DatabaseOutage."""
        if collection not in self._made:
            await self._create(collection)
            self._made.add(collection)

    @answered
    async def _create(self, collection: str) -> None:
        from pymongo.errors import OperationFailure

        try:
            await self.raw.command("create", collection)
        except OperationFailure as error:
            if error.code != _EXISTS:
                raise

    async def open(self) -> None:
        """Connects. Raises DatabaseOutage: it can't be reached, is not writable yet, or refuses the credentials."""
        from pymongo import AsyncMongoClient

        if self._client is None:
            await _reach(self._url)
            self._client = AsyncMongoClient(
                self._url,
                w="majority",
                journal=True,  # majority alone waits for the journal's timer, 100 ms
                timeoutMS=int(BUDGETS.statement_s * 1000),
                serverSelectionTimeoutMS=int(_SELECTION_S * 1000),
                connectTimeoutMS=int(_SELECTION_S * 1000),
                serverMonitoringMode="poll",
                maxPoolSize=32,
            )
        try:
            await self.ping(_SELECTION_S)
        except DatabaseOutage:
            await self.close()
            raise

    async def migrate(self, folder: Path | None) -> list[str]:
        """Runs what is pending, under a lock; gives the service's own by name. Raises SystemMistake that names the file."""
        return await mongodb_migrations.migrate(self, folder)

    async def pending(self, folder: Path | None) -> list[str]:
        """What `migrate` would apply. Raises SystemMistake that names the file."""
        return await mongodb_migrations.pending(self, folder)

    async def close(self) -> None:
        """Ends every connection."""
        client, self._client = self._client, None
        if client is not None:
            await whole(client.close())

    @answered
    async def ping(self, timeout_s: float = 1.0) -> None:
        """Asks for something that needs the credentials. Raises DatabaseOutage."""
        import pymongo

        with pymongo.timeout(timeout_s):
            await self.collection("atoll_migration").find_one({"_id": 0})

    def transaction(self, *, patient: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """A transaction. `patient` changes nothing here: there is no single writer."""
        return Transaction(self, self._encode)

    def reader(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction's shape on one snapshot; MongoDB refuses writes in it."""
        return Reader(self)

    def on_published(self, callback: Callable[[], None]) -> None:
        """Called on the loop after a commit with outbox rows."""
        self._callbacks.append(callback)

    def published(self) -> None:
        """Tells those who asked."""
        for callback in self._callbacks:
            callback()


async def _reach(url: str) -> None:
    """Knocks before a client is made: one that meets a dead server leaves half-open sockets behind when it is closed."""
    from pymongo.uri_parser import parse_uri

    if not url.startswith("mongodb://"):  # mongodb+srv:// asks DNS for its servers
        return
    failure: Exception | None = None
    for host, port in parse_uri(url)["nodelist"]:
        try:
            async with asyncio.timeout(_SELECTION_S):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            failure = error
        else:
            writer.close()
            return
    raise DatabaseOutage(f"MongoDB can't be reached: {failure}") from failure


async def _commit(session: AsyncClientSession) -> None:
    """Repeats the commit itself for as long as its outcome is unknown: MongoDB does it once."""
    from pymongo.errors import PyMongoError

    end = time.monotonic() + BUDGETS.statement_s
    while True:
        try:
            await whole(session.commit_transaction())
            return
        except PyMongoError as error:
            if not error.has_error_label("UnknownTransactionCommitResult") or time.monotonic() > end:
                raise outage(error) or error from error
            await asyncio.sleep(_LONGEST_PAUSE_S)


def _no_encode(event: Any, /) -> OutboxRow:
    raise publishes_nothing()


def _hidden(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
