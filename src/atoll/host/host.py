"""The host: brings a system up in dependency order, keeps it up, obeys commands, takes it down.

contracts (derived beside each other) ─┬─ databases ── services ─┐
                                       ├─ bus ── provision ──────┼─ confirmed by the gateway ── settled
                                       └─ gateway ───────────────┘
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atoll.errors import AtollError, EngineOutage, SystemMistake
from atoll.host import canaries, logs, processes, state, targets, tls
from atoll.host.announce import Announcer
from atoll.host.bus import BusHost
from atoll.host.commands import Commands
from atoll.host.contracts import Deriver, check
from atoll.host.control import Control
from atoll.host.databases import Databases
from atoll.host.gateway import ENVOY, GatewayHost
from atoll.host.guard import Reaper
from atoll.host.layout import Layout
from atoll.host.lock import Lock
from atoll.host.machine import Machine, Options
from atoll.host.ports import Ports
from atoll.host.probes import probe
from atoll.host.processes import Known, ProcessSpec, Slot
from atoll.host.replicas import Replicas
from atoll.host.sessions import start_time
from atoll.host.settle import settle
from atoll.host.supervise import Supervisor
from atoll.host.versions import Versions
from atoll.provision.secrets import Secrets
from atoll.system import files
from atoll.system.auth import auth_service
from atoll.system.contract import Contract
from atoll.system.manifest import ServiceSpec
from atoll.system.plan import AUTH

__all__ = ["Host", "Report", "run"]

_CANCEL_AGAIN_S = 0.5
_STARTS_S = 10.0
_ENDS_S = 5.0
_TIDY_EVERY_S = 3600.0
_LOGS_EVERY_S = 5.0
_CONFIRM_S = 10.0
_RECORD_S = 0.02
_SERVING = ("client", "service", "auth")


@dataclass(frozen=True, slots=True)
class Report:
    """Whom the host tells: single lines, and once that the system is up (with the summary)."""

    say: Callable[[str], None]
    ready: Callable[[dict[str, Any]], None]


@dataclass
class Host:
    """One running system. Made with the lock held and the reaper running; `serve` is its whole life.

    `specs` are services that are not as the manifest has them any more: their canaries were promoted or taken away.
    """

    machine: Machine
    options: Options
    report: Report
    reaper: Reaper
    contracts: dict[str, Contract] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    specs: dict[str, ServiceSpec] = field(default_factory=dict)
    down: dict[str, str] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    ready: bool = False

    def __post_init__(self) -> None:
        self.system = self.machine.system
        self.layout = self.machine.layout
        self.supervisor = self.machine.supervisor
        self.say = self.machine.say
        self.started = start_time(os.getpid())
        self.stopping = asyncio.Event()
        self._settling = "contracts and the bus are made"
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recording: asyncio.TimerHandle | None = None
        self._opening: dict[str, asyncio.Task[None]] = {}
        self.bus = BusHost(self.machine)
        self.gateway = GatewayHost(self.machine)
        self.databases = Databases(self.machine)
        self.announcer = Announcer(self.bus)
        self.replicas = Replicas(self.machine, self.plan, self.gateway.confirm, self.arrived, self._leaving)
        self.deriver = Deriver(self.system, self.layout.contracts, self.machine.variables, self.say)
        self.commands = Commands(self)
        self.control = Control(self.layout.control, self.commands.obey)

    # the life

    async def serve(self) -> None:
        """Up, until a signal or `down`; then down, whatever happened. Raises what made it impossible."""
        self.supervisor.watch()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stopping.set)
        try:
            await self.control.start()
            if await self._unless_stopped(self._audibly(self.up(), self._starting, _STARTS_S)):
                self.go(self._tidy())
                self.go(self._limit_logs())
                self.go(self.gateway.renew())
                reloading = self.go(self._reload())
                await asyncio.sleep(0)  # it watches before anybody is told that the system is up
                self.report.ready(self.summary())
                await self._unless_stopped(reloading)
                await self.stopping.wait()
        finally:
            await self._audibly(self.end(), self._stopping, _ENDS_S)

    async def _audibly(self, work: Awaitable[None], said: Callable[[], str], every_s: float) -> None:
        """Awaits `work`, and tells again and again what is said of it while it lasts."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(every_s)
                self.say(said())

        telling = asyncio.create_task(tell())
        try:
            await work
        finally:
            telling.cancel()

    def _starting(self) -> str:
        late = [name for name, child in self.supervisor.children.items() if child.state != "ready"]
        return f"still starting: {', '.join(late) or self._settling}"

    def _stopping(self) -> str:
        kinds = {name: child.spec.kind for name, child in self.supervisor.children.items() if child.state != "stopped"}
        first = [name for name, kind in kinds.items() if kind in _SERVING]
        return f"still stopping: {', '.join(first or kinds)}"

    async def _unless_stopped(self, work: Awaitable[Any]) -> bool:
        """Whether `work` was finished before somebody wanted the host to stop. Raises what it raises."""
        working, stopping = asyncio.ensure_future(work), asyncio.create_task(self.stopping.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
            return False
        working.result()
        return True

    async def up(self) -> None:
        """Returns when everything is ready; what has not settled is told. Raises what makes it impossible; `end` tidies up."""
        self.gateway.check_ports()
        await self._derive_all()
        await self.gateway.write(self.contracts)
        started = [self.go(self.gateway.start(self.bus.url("gateway")))]
        started += [self.go(self._start_simulator(spec)) for spec in self._simulators()]
        await self.bus.start(self.contracts)
        await self.bus.forget_all()
        await self.announcer.start()
        started.append(self.go(self.bus.provision(self.contracts)))
        started += [self.go(self._start_service(spec)) for spec in self._own_services()]
        await _all(started)
        await self._settle()
        self.engines = {"nats": self.bus.version(), "envoy": self.gateway.version(), **self.databases.versions}
        self.ready = True
        self.record()

    def go(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Does it beside everything else; what is left of it when the host ends is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _own_services(self) -> list[ServiceSpec]:
        """Everything with a contract; auth first."""
        return [auth_service(self.system), *(spec for spec in self.system.services if spec.kind != "simulator")]

    def _simulators(self) -> list[ServiceSpec]:
        return [spec for spec in self.system.services if spec.kind == "simulator"]

    def spec(self, service: str) -> ServiceSpec:
        """Of a service, or of its canaries as a group."""
        if (tried := canaries.spec_of(self.system, service)) is not None:
            return tried
        if service in self.specs:
            return self.specs[service]
        return auth_service(self.system) if service == AUTH else self.system.service(service)

    async def _derive_all(self) -> None:
        await _all([self.go(self._derive(spec)) for spec in self._own_services()])
        check(self.system, self.contracts)
        self._compare()

    async def _derive(self, spec: ServiceSpec) -> None:
        """The contract; the database is opened as soon as its kind is known, without waiting for other contracts."""
        contract = await self.deriver.contract(spec)
        self.contracts[spec.name] = contract
        if spec.canary:
            self.bus.trials[spec.name] = await canaries.derive(self.deriver, spec, contract)
        self._opening[spec.name] = self.go(self._open_database(spec, contract))

    async def _open_database(self, spec: ServiceSpec, contract: Contract) -> None:
        external = self.system.auth.database_url if spec.name == AUTH else spec.database_url
        self.urls[spec.name] = await self.databases.open(spec.name, contract.database, external)

    async def _start_simulator(self, spec: ServiceSpec) -> None:
        slot = self.replicas.slot(spec.name, 1)
        await self.supervisor.start(processes.simulator(self.system, spec, slot, self.known()), probe)

    async def _start_service(self, spec: ServiceSpec) -> None:
        """A database that can't be had takes down this service only; code that can't start is a mistake of the whole."""
        try:
            await self._opening[spec.name]
        except EngineOutage as outage:
            self._is_down(spec.name, outage)
            return
        count = self._count(spec)
        if count and spec.name not in self.options.excluded:
            await self.replicas.start(spec.name, count)
            if spec.canary:
                await self.replicas.start(canaries.group(spec.name), spec.canary.replicas)

    def _count(self, spec: ServiceSpec) -> int:
        if self.contracts[spec.name].database == "sqlite" and spec.replicas > 1:
            self.say(f"warning: {spec.name} has its data in SQLite, so it runs once, not {spec.replicas} times")
            return 1
        return spec.replicas

    def _is_down(self, service: str, outage: AtollError) -> None:
        hint = f" ({outage.hint})" if outage.hint else ""
        self.down[service] = f"{outage.detail}{hint}"
        self.say(f"{service} is down: {self.down[service]}")

    def _compare(self) -> None:
        own = {name: one for name, one in self.contracts.items() if name != AUTH and not self.spec(name).command}
        differences = files.compare(self.system, own)
        if differences and self.options.frozen:
            raise SystemMistake("\n".join(map(str, differences)), hint="`up --frozen` runs accepted contracts only")
        for difference in differences:
            self.say(f"warning: {difference}")

    async def _settle(self) -> None:
        routed = {
            name: {slot.address for slot in slots}
            for name, slots in self.replicas.filled.items()
            if slots and self.contracts[self.spec(name).name].operations
        }
        self._settling = "the gateway has not found every replica"
        if not await self.gateway.confirm_all(routed, _CONFIRM_S):
            self.say(f"the gateway has not found every replica within {_CONFIRM_S:g} s; `atoll logs gateway` says why")
        self._settling = "events that were left behind are handled"
        running = {name: self.replicas.slots(name) for name in self.contracts}
        await settle(self.bus.lag, {name: slots[0].port for name, slots in running.items() if slots}, self.say)

    async def end(self) -> None:
        """Nobody new comes, services finish what they have, the gateway ends, then the engines. What can't end is killed.

        The controller ends first: that replicas leave needs no change of routes any more.
        """
        await self.control.close()
        await _cancel([*self._tasks, *self._opening.values()])
        await self.announcer.close()
        self.commands.end()
        await self.gateway.drain()
        await self._stop(lambda spec: spec.kind == "gateway" and spec.name != ENVOY)
        await self._stop(lambda spec: spec.kind in _SERVING, hurry=True)
        await self.gateway.finish()
        await self._stop(lambda spec: spec.name == ENVOY)
        await self._stop(lambda spec: True)
        if self._recording is not None:
            self._recording.cancel()
        self.layout.state.unlink(missing_ok=True)
        self.layout.targets.unlink(missing_ok=True)

    async def _stop(self, whom: Callable[[ProcessSpec], bool], *, hurry: bool = False) -> None:
        names = [name for name, child in self.supervisor.children.items() if whom(child.spec)]
        await self.supervisor.stop_all(names, hurry=hurry)

    def is_mute(self, service: str) -> bool:
        """Whether its replicas can't announce themselves."""
        spec = self.spec(service)
        return spec.kind == "client" or bool(spec.command)

    async def arrived(self, slot: Slot) -> None:
        if self.is_mute(slot.service):
            await self.announcer.announce(slot, self.contracts[slot.service].digest)

    async def _leaving(self, slot: Slot) -> None:
        """A process that knows nothing of draining gets no requests any more before it is told to stop."""
        if slot.name in self.announcer.announcements:
            await self.announcer.withdraw(slot)
            await self.gateway.confirm_gone(slot.service, slot.address)

    # the plan

    def known(self) -> Known:
        return Known(
            layout=self.layout,
            database_urls=self.urls,
            bus_urls={spec.name: self.bus.url(spec.name) for spec in self._own_services() if spec.kind == "service"},
            gateway_ca=self.gateway.ca,
            simulator_urls={spec.name: f"http://{self.replicas.slot(spec.name, 1).address}" for spec in self._simulators()},
            variables=self.machine.variables,
            operator_secret=self.operator_secret(),
        )

    def operator_secret(self) -> str:
        """What `atoll auth` proves itself to auth with."""
        secret = self.machine.secrets.of("auth.operator")
        self.machine.secrets.save()
        return secret

    def plan(self, service: str, slot: Slot) -> ProcessSpec:
        """What fills `slot`, as contracts and databases are now."""
        if service == AUTH:
            return processes.auth(self.system, self.contracts[service], slot, self.known())
        spec = self.spec(service)
        contract = self.contracts[service] if service == spec.name else self.bus.trials[spec.name].contract
        return processes.replica(self.system, spec, contract, slot, self.known())

    # reload

    async def _reload(self) -> None:
        if not self.options.reload:
            return
        from atoll.host.reload import Reloader

        await Reloader(self).watch()

    async def _tidy(self) -> None:
        """Streams keep events as long as inboxes remember them, and longer only for a consumer that has not read them."""
        while True:
            with contextlib.suppress(AtollError):
                await self.bus.purge()
            await asyncio.sleep(_TIDY_EVERY_S)

    async def _limit_logs(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self.gateway.limit_log()
                await asyncio.to_thread(logs.set_aside, self.layout.logs)
            await asyncio.sleep(_LOGS_EVERY_S)

    # the record

    def snapshot(self) -> state.HostState:
        children = self.supervisor.children.values()
        return state.HostState(
            system=self.system.name,
            url=self.system.gateway.url,
            ca=str(self.gateway.ca or ""),
            pid=os.getpid(),
            started=self.started,
            reaper=(self.reaper.pid, self.reaper.started),
            processes=tuple(map(_process_state, children)),
            engines=dict(self.engines),
            down=dict(self.down),
            ready=self.ready,
        )

    def changed(self) -> None:
        """Something is to be recorded: soon, because replacing a file may wait for the disk and changes come in swarms."""
        if self._recording is None:
            self._recording = asyncio.get_running_loop().call_later(_RECORD_S, self.record)

    def record(self) -> None:
        """Now."""
        if self._recording is not None:
            self._recording.cancel()
            self._recording = None
        state.write(self.layout.state, self.snapshot())
        targets.write(self.layout.targets, targets.document(self._measured(), self.gateway.admin))

    def _measured(self) -> Iterable[Slot]:
        """The replicas that say something of themselves: a `command` has no atoll inside."""
        own = [service for service in self.replicas.filled if not self.spec(service).command]
        yield from (slot for service in own for slot in self.replicas.slots(service))
        yield from (lent.slot for service, lent in self.commands.lent.items() if not self.spec(service).command)

    def summary(self) -> dict[str, Any]:
        """What `up` tells a person; see cli.up."""
        return {
            **state.shown(self.snapshot()),
            "routes": {
                name: self.spec(name).prefix
                for name, one in self.contracts.items()
                if one.operations and name not in self.system.seconds
            },
            "examples": [
                {"path": one.path, "public": one.public, "scope": one.scope}
                for name, contract in self.contracts.items()
                if self.spec(name).kind == "service" and name != AUTH and name not in self.system.seconds
                for one in contract.operations
                if one.method == "GET" and "{" not in one.path and not one.streaming
            ],
            "logins": {
                name: account.get("password", "") for name, account in self.system.auth.options.get("users", {}).items()
            },
        }


def _process_state(child: Any) -> state.ProcessState:
    spec: ProcessSpec = child.spec
    return state.ProcessState(
        name=spec.name,
        kind=spec.kind,
        service=spec.service,
        state=child.state,
        pid=child.pid,
        started=child.started,
        port=spec.port,
        restarts=child.restarts,
        why=child.why,
        log=str(spec.log),
    )


async def _all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """All, or the first failure with the others cancelled."""
    tasks = list(tasks)
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        await _cancel(tasks)
        raise


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels until they are gone: a library may swallow a cancellation (asyncio.wait_for before Python 3.12 does)."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


def run(folder: Path, options: Options, report: Report) -> None:
    """The system in `folder` from up to down, in this process. Raises AtollError when it can't come up; then nothing runs."""
    system = files.read(folder).with_variables(processes.host_variables())
    tls.check(system.gateway, datetime.now(UTC))
    layout = Layout(folder)
    layout.make((AUTH, *(spec.name for spec in system.services)))
    reaper = Reaper()
    try:
        lock = Lock(layout.lock)
        try:
            if killed := state.clean_up(layout.state):
                report.say(f"killed {len(killed)} processes that a former host had left")
            ports = Ports(layout.ports)
            if options.tls:
                system = system.with_tls()
            if options.isolated:
                system = system.at_ports(*ports.lease_all(["gateway", "gateway.redirect"]))
            asyncio.run(_serve(system, layout, ports, (options, report, reaper)))
        finally:
            lock.release()
    finally:
        reaper.close()


async def _serve(system: Any, layout: Layout, ports: Ports, rest: tuple[Options, Report, Reaper]) -> None:
    options, report, reaper = rest
    hosts: list[Host] = []
    supervisor = Supervisor(reaper, report.say, lambda: hosts[0].changed() if hosts else None)
    variables: Mapping[str, str] = processes.host_variables()
    if options.reload:
        # Python takes bytecode for fresh when its source has the same size and second: two edits may have.
        variables = {**variables, "PYTHONDONTWRITEBYTECODE": "1"}
    machine = Machine(
        system=system,
        layout=layout,
        ports=ports,
        secrets=Secrets(layout.secrets),
        versions=Versions(layout.versions),
        supervisor=supervisor,
        variables=variables,
        say=report.say,
    )
    hosts.append(Host(machine, options, report, reaper))
    await hosts[0].serve()
