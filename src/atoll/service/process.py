"""One service process from start to exit: HTTP server, relay, consumers and registry announcement on one event loop.

read environment → open the bus in the background → serve /health → migrate and open the database
→ delivery loops → announce in the registry → … → SIGTERM: leave the registry, ready says 503, serve for the drain
time, finish requests and the batch in hand → exit 0
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.errors import DatabaseOutage
from atoll.registry.address import reachable_at
from atoll.service.answers import refuse
from atoll.service.environment import Environment
from atoll.service.handlers import Observed, build_handlers, run_hooks
from atoll.service.health import Health
from atoll.service.http import build_app
from atoll.service.injection import Injector
from atoll.service.keys import KeyFeed
from atoll.service.metrics import Metrics
from atoll.service.principal import Principal
from atoll.service.problems import Problem
from atoll.service.server import Server, message_limit_bytes
from atoll.service.settings import Sources
from atoll.service.stalls import StallWatch
from atoll.service.storage import database_of, migrations_of
from atoll.system.budgets import BUDGETS
from atoll.telemetry.spans import Spans
from atoll.tokens.claims import Claims
from atoll.tokens.keys import KeySet
from atoll.tokens.verify import Verifier

if TYPE_CHECKING:
    from atoll.bus.ports import Bus
    from atoll.database.ports import Database
    from atoll.delivery.loops import Loops
    from atoll.registry.announcement import Announcement
    from atoll.service.service import Service
    from atoll.service.tls import GatewayOnly
    from atoll.service.tracing import Tracing
    from atoll.telemetry.exporter import Exporter

__all__ = ["Process"]

_PRINCIPALS = 4096
# A part of the drain time: the rest is for a gateway that hears by checks alone, one each second.
_HEARD_S = 0.5
_log = logging.getLogger("atoll.service")


class Process:
    """`run` until a signal, then leave politely. Raises SystemMistake for what a restart can't mend."""

    def __init__(self, service: Service, environment: Environment) -> None:
        self._service = service
        self._environment = environment
        self._bus = _bus(environment)
        self._database = database_of(service, environment.database_url)
        self._watch = StallWatch()
        self._spans = Spans()
        self._metrics = Metrics(environment.service, environment.replica, self._database, self._bus, self._watch, self._spans)
        self._health = Health(environment.service, self._database, self._bus, self._metrics.text)
        self._verifier = Verifier(environment.issuer, environment.audience, KeySet())
        self._keys = KeyFeed(self._verifier, environment.state_dir)
        self._principals: dict[str, tuple[Claims, Principal]] = {}
        self._tls = _tls(environment)
        self._app: Any = None
        self._ready = asyncio.Event()
        self._injector: Injector | None = None
        self._loops: Loops | None = None
        self._announcement: Announcement | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._tracing = _tracing(service, environment, self._spans)
        self._exporter: Exporter | None = None
        self._exporting: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        self._keys.load()
        limit_bytes = message_limit_bytes(self._service)
        server = Server(self._route, tls=self._tls.context if self._tls else None, message_limit_bytes=limit_bytes)
        following = asyncio.create_task(self._tls.follow()) if self._tls else None
        with self._signals(), _listening(self._environment.listen) as listener:
            await server.start(listener)
            starting = asyncio.create_task(self._start())
            stopping = asyncio.create_task(self._stop.wait())
            try:
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    starting.result()
                    await stopping
                await self._drain()
            finally:
                for task in (starting, stopping, following):
                    if task is not None:
                        task.cancel()
                self._ready.set()  # whoever still waits for the start is told that it did not come
                if self._app is not None:
                    self._app.calls.ending = True
                await server.stop(BUDGETS.handler_s)
                await self._close()

    async def _route(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/health/"):
            await self._health(scope, receive, send)
        elif self._app is not None or await self._stands():
            await self._app(scope, receive, send)
        else:
            await refuse(scope, send, Problem(503, "starting", "the service is starting", hint="try again"))

    async def _stands(self) -> bool:
        """Waits for the start to finish: a request that comes meanwhile is late, not lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BUDGETS.handler_s):
                await self._ready.wait()
        return self._app is not None

    def _sources(self) -> Sources:
        return Sources.of(self._environment.settings, self._environment.folder, os.environ)

    # start

    async def _start(self) -> None:
        if self._bus is not None:
            await self._bus.start()
            self._keys.start(self._bus)
        await self._open_database()
        self._export()
        database = self._traced(self._database)
        injector = self._injector = Injector(self._service, database=database, sources=self._sources())
        await injector.start()
        await run_hooks(self._service.start_hooks, injector)
        self._app = build_app(
            self._service, database=database, verify=self._principal, injector=injector, tracing=self._tracing
        )
        self._keys.watch(self._app.calls)
        self._metrics.operations, self._metrics.stands = self._app.meters, True
        self._ready.set()
        if self._database is not None and self._bus is not None:
            self._start_loops(self._database, self._bus, injector)
        self._health.stage = "serving"
        self._watch.start()
        if self._bus is not None:
            self._announcing = asyncio.create_task(self._announce(self._bus))
        _log.info("%s serves on %s", self._environment.replica, self._environment.address or self._environment.listen)

    async def _open_database(self) -> None:
        """Waits for it as long as it takes: a database that starts later than its service is not a mistake."""
        if self._database is None:
            return
        pause_s, told = 0.05, False
        while True:
            try:
                await self._database.open()
                applied = await self._database.migrate(migrations_of(self._environment.folder, self._database.kind))
                if applied:
                    _log.info("migrations applied: %s", ", ".join(applied))
                return
            except DatabaseOutage as outage:
                if not told:
                    _log.warning("waiting for the database: %s", outage)
                told = True
                await asyncio.sleep(pause_s)
                pause_s = min(1.0, pause_s * 2)

    def _start_loops(self, database: Database, bus: Bus, injector: Injector) -> None:
        from atoll.delivery.loops import Loops, Station

        station = Station(self._environment.service, self._environment.replica, database, bus, self._tracing)
        self._loops = Loops(station, build_handlers(self._service, injector, Observed(self._tracing, self._metrics.events)))
        self._metrics.behind = self._loops.behind
        self._loops.start()

    def _traced(self, database: Database | None) -> Any:
        if database is None or self._tracing is None:
            return database
        from atoll.service.tracing import TracedDatabase

        return TracedDatabase(database, self._tracing)

    def _export(self) -> None:
        if self._tracing is None:
            return
        from atoll.telemetry.exporter import Exporter

        environment = self._environment
        resource = {
            "service.name": environment.service,
            "service.instance.id": environment.replica,
            "service.version": self._service.version,
            "service.namespace": environment.audience,
        }
        self._exporter = Exporter(self._spans, environment.otlp_endpoint, resource)
        self._exporting = asyncio.create_task(self._exporter.run())

    async def _announce(self, bus: Bus) -> None:
        from atoll.registry.announcement import Announcement
        from atoll.registry.replica import Replica

        address = await reachable_at(self._environment.address, self._environment.bus_url)
        self._announcement = Announcement(
            bus,
            Replica(
                service=self._environment.service,
                replica=self._environment.replica,
                address=address,
                digest=self._environment.contract_digest,
                version=self._service.version,
                tls=self._tls is not None,
            ),
        )
        await self._announcement.start()

    def _principal(self, token: str) -> Principal:
        """The caller, as the token says; made once per token, judged at every call."""
        claims = self._verifier.verify(token, time.time())
        known = self._principals.get(token)
        if known is not None and known[0] is claims:
            return known[1]
        if len(self._principals) >= _PRINCIPALS:
            self._principals.clear()
        principal = Principal(claims.sub, claims.scopes, claims.sid, msgspec.structs.asdict(claims))
        self._principals[token] = (claims, principal)
        return principal

    # stop

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        """The first signal begins the drain time, a second ends it: nobody sends requests any more."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def _drain(self) -> None:
        """Leave first, then stop: a pooled connection closed under a request that was sent can't be retried safely.

        Checks are told a little later than the bus: while a replica is the only one of its kind (a canary), the gateway would
        refuse requests until it has heard where else to send them. Without a bus, checks are how it hears.
        """
        if self._health.stage != "serving":
            return
        _log.info("%s drains", self._environment.replica)
        leaving = time.monotonic()
        if self._announcing is not None:
            self._announcing.cancel()
        is_heard = self._announcement is not None and self._bus is not None and self._bus.connected
        asyncio.get_running_loop().call_later(_HEARD_S if is_heard else 0, self._health.drain)
        if self._announcement is not None:
            await self._announcement.withdraw()
        if self._loops is not None:
            await self._loops.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, BUDGETS.drain_s - (time.monotonic() - leaving))):
                await self._hurry.wait()

    async def _close(self) -> None:
        self._watch.stop()
        self._keys.stop()
        if self._loops is not None:
            await self._loops.stop()
        if self._injector is not None:
            await run_hooks(self._service.stop_hooks, self._injector)
            await self._injector.close()
        if self._bus is not None:
            await self._bus.close()
        if self._database is not None:
            await self._database.close()
        if self._exporting is not None and self._exporter is not None:
            self._exporter.stop()
            await self._exporting


def _tracing(service: Service, environment: Environment, spans: Spans) -> Tracing | None:
    """None where no collector is named: then nothing of it is even imported."""
    if not environment.otlp_endpoint:
        return None
    from atoll.service.tracing import Tracing

    return Tracing(spans, environment.service, service.database)


def _bus(environment: Environment) -> Bus | None:
    if not environment.bus_url:
        return None
    from atoll.bus.jetstream import JetStreamBus

    return JetStreamBus(environment.bus_url, name=environment.replica, authorities=environment.bus_ca)


def _tls(environment: Environment) -> GatewayOnly | None:
    if environment.tls is None:
        return None
    from atoll.service.tls import GatewayOnly

    return GatewayOnly(environment.tls)


@contextlib.contextmanager
def _listening(listen: str) -> Iterator[socket.socket]:
    """The inherited socket of `fd:N`, or a new one for `host:port`."""
    if listen.startswith("fd:"):
        listener = socket.socket(fileno=int(listen[3:]))
    else:
        host, _, port = listen.rpartition(":")
        listener = socket.create_server((host.strip("[]"), int(port)), reuse_port=False, backlog=2048)
    with listener:
        yield listener
