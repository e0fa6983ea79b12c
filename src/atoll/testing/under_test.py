"""`under_test(service)`: the service as its process runs it, without the process.

async with under_test(service) as orders:
    await orders.deliver("catalog.product_added", {"sku": "mug", "price": "12.50"})
    answer = await orders.as_user("ada", scopes=["orders:write"]).post("/orders", json=…)
    [event] = orders.published
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from atoll.bus.memory import Broker, MemoryBus
from atoll.bus.ports import Message
from atoll.database.ports import Database, Parked
from atoll.delivery import envelope
from atoll.delivery.handling import Delivery, Handler, Handlers, Patience
from atoll.delivery.loops import Loops, Station
from atoll.errors import Outage, Unauthorized
from atoll.service.events import Event
from atoll.service.handlers import build_handlers, run_hooks
from atoll.service.http import build_app
from atoll.service.injection import Injector
from atoll.service.principal import Principal
from atoll.service.service import Service
from atoll.service.settings import Sources
from atoll.testing.databases import fresh_database

if TYPE_CHECKING:
    import httpx

    from atoll.testing.sockets import Socket

__all__ = ["UnderTest", "under_test"]

_PAUSE_S = 0.001
_OUTBOX_TIMEOUT_S = 5.0
_PATIENCE = Patience(after_failure_s=(0.005,), after_outage_s=(0.005,))
_TOKEN_LIFETIME_S = 300


class UnderTest:
    """A running service. `client` calls it without a token, `database` is its own database (None without one)."""

    def __init__(self, service: Service, database: Any, injector: Injector, stack: AsyncExitStack) -> None:
        self.service = service
        self.database = database
        self._injector = injector
        self._stack = stack
        self._principals: dict[str, Principal] = {}
        self._app: Any = build_app(service, database=database, verify=self._verify, injector=injector)
        self._broker = _broker(service)
        self._failures: dict[str, Exception] = {}
        self.client = self._client({})

    def as_user(self, user: str, *, scopes: Iterable[str] = ()) -> httpx.AsyncClient:
        """A client whose token says `user` and `scopes`. When a call returns, its events have been published."""
        return self._client(self._bearer(user, scopes))

    @asynccontextmanager
    async def websocket(
        self, path: str, *, user: str = "", scopes: Iterable[str] = (), protocols: Sequence[str] = ()
    ) -> AsyncIterator[Socket]:
        """A WebSocket, of nobody or of `user`. When the block ends, its handler has, and its events have been published.

        Raises httpx.HTTPStatusError, with the answer, when it is refused.
        """
        from atoll.testing.sockets import opened

        async with opened(self._app, path, self._bearer(user, scopes) if user else {}, protocols) as socket:
            yield socket
        await self._outbox_empty()

    @property
    def published(self) -> list[Any]:
        """Every event that was published since the start, in order, as instances of their classes."""
        classes = {found.name: cls for cls, found in zip(self.service.publishes, self.service.declarations, strict=True)}
        messages = self._broker.messages(self.service.name)
        return [msgspec.json.decode(one.body, type=classes[one.subject.split(".")[2]]) for one in messages]

    async def deliver(self, event: str | Event, data: Any = None, *, key: str | None = None) -> None:
        """An event of another service, `deliver("orders.order_placed", {…})`, or one of its own, `deliver(OrderPlaced(…))`.

        Returns when it was handled, and raises what its handler raised, unless that was an Outage: such an event waits and is
        tried again (`settle`). `key` is by default the data's first field.
        """
        type_, body, key = self._opened(event, data, key)
        subscribed = [one.type for one in self.service.subscriptions]
        if type_ not in subscribed:
            raise LookupError(f"{self.service.name} handles {', '.join(subscribed) or 'no events'}; not {type_}")
        source, name = type_.split(".")
        row = envelope.encode(source, name, key, body)
        self._broker.publish(Message(row.subject, row.headers, row.body))
        await self._until(lambda: self._all_seen([row.id]), f"{type_} to be handled")
        await self._outbox_empty()
        failure = self._failures.pop(row.id, None)
        if failure is not None and not isinstance(failure, Outage):
            raise failure

    async def settle(self, timeout_s: float = 10.0) -> None:
        """Returns when nothing is left to do: every event handled (or a dead letter), its own events published.

        Raises AssertionError that says what is left.
        """
        if self.database is not None:
            await self._until(self._settled, "the service to settle", timeout_s)

    async def dead_letters(self) -> list[Parked]:
        """Events that failed at their last attempt."""
        found: list[Parked] = await self.database.journal.parked("dead")
        return found

    def override(self, kind: type[Any], value: Any) -> AbstractContextManager[None]:
        """`value` is injected wherever `kind` is asked for."""
        return self._injector.override(kind, value)

    def forget_answers(self) -> None:
        """What the service keeps because of `cache=` is gone, as if its time had passed."""
        self._app.answers.clear()

    # how it runs

    async def _run(self) -> None:
        await self._injector.start()
        self._stack.push_async_callback(self._injector.close)
        await run_hooks(self.service.start_hooks, self._injector)
        self._stack.push_async_callback(run_hooks, self.service.stop_hooks, self._injector)
        if self.database is not None:
            await self._start_loops(self.database)

    async def _start_loops(self, database: Database) -> None:
        bus: MemoryBus = self._broker.bus()
        await bus.start()
        self._stack.push_async_callback(bus.close)
        station = Station(self.service.name, "test-1", database, bus)
        loops = Loops(station, self._remembering(build_handlers(self.service, self._injector)), _PATIENCE)
        loops.start()
        self._stack.push_async_callback(loops.stop, 0.0)

    def _remembering(self, handlers: Handlers) -> Handlers:
        """Handlers that also note what they raised."""

        def noting(handler: Handler) -> Handler:
            async def invoke(body: bytes, delivery: Delivery, transaction: Any) -> None:
                self._failures.pop(delivery.id, None)
                try:
                    await handler.invoke(body, delivery, transaction)
                except Exception as error:
                    self._failures[delivery.id] = error
                    raise

            return replace(handler, invoke=invoke)

        return {type_: noting(handler) for type_, handler in handlers.items()}

    def _bearer(self, user: str, scopes: Iterable[str]) -> dict[str, str]:
        token = secrets.token_hex(8)
        now = int(time.time())
        scope = " ".join(scopes)
        claims = {"sub": user, "scope": scope, "iat": now, "exp": now + _TOKEN_LIFETIME_S, "jti": token, "sid": f"s-{user}"}
        self._principals[token] = Principal(user, frozenset(scope.split()), f"s-{user}", claims)
        return {"authorization": f"Bearer {token}"}

    def _verify(self, token: str) -> Principal:
        if token not in self._principals:
            raise Unauthorized("this token was not made by as_user")
        return self._principals[token]

    def _client(self, headers: Mapping[str, str]) -> httpx.AsyncClient:
        import httpx

        from atoll.testing.transport import Settling

        transport = Settling(self._app, self._outbox_empty)
        client = httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers, trust_env=False)
        self._stack.push_async_callback(client.aclose)
        return client

    def _opened(self, event: str | Event, data: Any, key: str | None) -> tuple[str, bytes, str]:
        if isinstance(event, str):
            body = msgspec.json.encode(data if data is not None else {})
            fields = msgspec.json.decode(body)
            return event, body, key if key is not None else str(next(iter(fields.values()), ""))
        row = self.service.encode(event)
        return f"{self.service.name}.{row.subject.split('.')[2]}", row.body, row.key

    # how it is waited for

    async def _until(self, condition: Callable[[], Any], what: str, timeout_s: float = _OUTBOX_TIMEOUT_S) -> None:
        end = time.monotonic() + timeout_s
        while not await condition():
            if time.monotonic() > end:
                raise AssertionError(f"waited {timeout_s:g} s for {what}\n{await self._left()}")
            await asyncio.sleep(_PAUSE_S)

    async def _outbox_empty(self) -> None:
        async def empty() -> bool:
            return bool((await self.database.journal.backlog()).count == 0)

        if self.database is not None:
            await self._until(empty, "the outbox to empty")

    async def _settled(self) -> bool:
        journal = self.database.journal
        waiting = await journal.parked("waiting")
        return not waiting and await self._all_seen(self._arrived()) and (await journal.backlog()).count == 0

    async def _all_seen(self, ids: list[str]) -> bool:
        async with self.database.reader() as reader:
            return len(await self.database.journal.seen(reader, ids)) == len(ids)

    def _arrived(self) -> list[str]:
        """The ids of all events that this service is subscribed to."""
        found = []
        for one in self.service.subscriptions:
            for message in self._broker.messages(one.source):
                opened = envelope.decode(message.headers)
                if opened.type == one.type:
                    found.append(opened.id)
        return found

    async def _left(self) -> str:
        parked = await self.database.journal.parked("waiting")
        return "\n".join(f"{one.type} {one.id}, {one.attempts} attempts: {one.error}\n{one.trace}" for one in parked)


@asynccontextmanager
async def under_test(
    service: Service, *, settings: Mapping[str, Any] | None = None, folder: Path | None = None
) -> AsyncIterator[UnderTest]:
    """`service`, running until the block ends. `settings` are its only ones: neither `.env` nor environment is read.

    `folder` is the service's, with its migrations; by default the one that its package lies in.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(fresh_database(service, folder or service.folder))
        injector = Injector(service, database=database, sources=Sources(manifest=settings or {}))
        running = UnderTest(service, database, injector, stack)
        await running._run()
        yield running


def _broker(service: Service) -> Broker:
    """The streams and durables that provision would make."""
    broker = Broker()
    broker.add_stream(service.name, f"event.{service.name}.>")
    for declared in service.declarations:
        if declared.subject:
            prefix = declared.subject.split(".")[0]
            broker.add_stream(prefix, f"{prefix}.>")
    filters: dict[str, list[str]] = {}
    for one in service.subscriptions:
        filters.setdefault(one.source, []).append(f"event.{one.source}.{one.name}.*")
    for source, subjects in filters.items():
        broker.add_stream(source, f"event.{source}.>")
        broker.add_durable(source, service.name, *subjects)
    return broker
