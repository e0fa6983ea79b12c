"""The bus on this machine: nats-server under supervision, provisioned from contracts, changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.engines import nats as engine
from atoll.errors import BusOutage
from atoll.host.canaries import Trial
from atoll.host.machine import Machine
from atoll.host.probes import until_ready
from atoll.host.processes import LOOPBACK, ProcessSpec, engine_process
from atoll.provision import nats
from atoll.provision.bus import Administrator, Made
from atoll.provision.document import system_document
from atoll.system.budgets import BUDGETS
from atoll.system.contract import Contract
from atoll.system.plan import BusPlan

__all__ = ["BusHost"]

NATS = "nats"


@dataclass
class BusHost:
    """`contracts` are those whose permissions hold now, clients left out."""

    machine: Machine
    trials: dict[str, Trial] = field(default_factory=dict)
    contracts: dict[str, Contract] = field(default_factory=dict)
    _provisioned: Mapping[str, Contract] = field(default_factory=dict)

    @property
    def server(self) -> nats.BusServer:
        system, layout = self.machine.system, self.machine.layout
        port = self.machine.ports.lease(NATS)
        return nats.BusServer(system.name, port, layout.data / NATS, sync_always=system.bus.sync_always)

    def url(self, user: str) -> str:
        return self.server.url(user, self._password(user))

    def version(self) -> str:
        return self.machine.versions.of(engine.find(), engine.version)

    async def start(self, contracts: Mapping[str, Contract]) -> None:
        """Returns when it takes connections; streams and durables come with `provision`. Raises EngineOutage."""
        self.contracts = self._with_user(contracts)
        self._administrator().write(self.machine.layout.nats_config)
        await self.machine.supervisor.start(self._spec(), self._probe)

    async def provision(self, contracts: Mapping[str, Contract]) -> None:
        """Everything the contracts need."""
        for warning in BusPlan.of(self.contracts).warnings:
            self.machine.say(f"warning: {warning}")
        made = await self._administrator().make()
        if made.leftovers:
            self.machine.say(f"durables that nobody uses hold events back: {', '.join(made.leftovers)}")
        self._say_late(made)
        self._compare(made.streams)
        await self.announce(contracts)
        self._provisioned = contracts

    def _compare(self, streams: Mapping[str, str]) -> None:
        """Tells what it means when the bus has lost its store, which only who remembers the old streams can know."""
        layout = self.machine.layout
        try:
            before = msgspec.json.decode(layout.streams.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.MsgspecError):
            before = {}
        if lost := sorted(name for name, made in streams.items() if before.get(name, made) != made):
            self.machine.say(
                f"the bus has lost what it stored of {', '.join(lost)}. Nothing that is in a database is lost: what waits in "
                "an outbox is published now, and nothing is handled twice. Events that a subscriber had not read yet can't be "
                "delivered again; the subscribers' logs say at which event each of them stood: atoll logs NAME"
            )
        draft = layout.streams.with_suffix(".draft")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode({**before, **streams}), indent=1))
        draft.replace(layout.streams)

    async def announce(self, contracts: Mapping[str, Contract]) -> None:
        weights = {name: trial.weight for name, trial in self.trials.items()}
        beside = [trial.contract for trial in self.trials.values()]
        await self._administrator().announce(system_document(self.machine.system, weights), contracts, beside)

    async def widen(self, contracts: Mapping[str, Contract]) -> None:
        """Permissions for the new contracts beside the old ones, as long as old replicas and their events are there."""
        wanted = self._with_user(contracts)
        both = {name: contract.beside(self.contracts.get(name, contract)) for name, contract in wanted.items()}
        await self._change(both, prune=False)

    async def narrow(self, contracts: Mapping[str, Contract]) -> None:
        """Exactly what the contracts need."""
        await self._change(self._with_user(contracts), prune=True)

    async def forget(self, key: str) -> None:
        """Takes a replica (`orders.orders-1`) out of the registry, because it can't do so itself any more."""
        bus = JetStreamBus(self.url(nats.PLATFORM_ADMIN), name="host")
        await bus.start()
        try:
            await bus.wait_connected(2.0)
            await bus.publish([Message(f"$KV.registry.{key}", b"KV-Operation: DEL\r\n", b"")])
        finally:
            await bus.close()

    async def forget_all(self) -> None:
        """After a kill -9 of everything the registry still has replicas, and nothing of this system runs yet."""
        bus = JetStreamBus(self.url(nats.PLATFORM_ADMIN), name="host")
        await bus.start()
        try:
            await bus.wait_connected(5.0)
            with suppress(BusOutage):  # there is no registry before the first start
                entries = await bus.latest(nats.REGISTRY, "$KV.registry.>", timeout_s=1.0)
                alive = [entry.subject for entry in entries if b"KV-Operation" not in entry.headers]
                await bus.publish([Message(subject, b"KV-Operation: DEL\r\n", b"") for subject in alive])
        finally:
            await bus.close()

    async def lag(self) -> dict[str, int]:
        """Events that consumers have not acknowledged yet, by `source → consumer`, where there are any."""
        found: dict[str, int] = {}
        for stream, consumers in BusPlan.of(self.contracts).consumers.items():
            if consumers:
                found |= await self._lag_of(stream, list(consumers))
        return {name: count for name, count in found.items() if count}

    async def _lag_of(self, stream: str, consumers: list[str]) -> dict[str, int]:
        bus = JetStreamBus(self.url(nats.admin(stream)), name="host")
        await bus.start()
        try:
            await bus.wait_connected(5.0)
            answers = [msgspec.json.decode(await bus.request(f"$JS.API.CONSUMER.INFO.{stream}.{one}")) for one in consumers]
        finally:
            await bus.close()
        pairs = zip(consumers, answers, strict=True)
        return {f"{stream} → {one}": info.get("num_pending", 0) + info.get("num_ack_pending", 0) for one, info in pairs}

    async def purge(self) -> None:
        """Drops events that every consumer has acknowledged and that no inbox remembers any more."""
        await self._administrator().purge(BUDGETS.inbox_kept_s)

    async def _change(self, contracts: dict[str, Contract], *, prune: bool) -> None:
        self.contracts = contracts
        administrator = self._administrator()
        if administrator.write(self.machine.layout.nats_config):
            await administrator.reload()
        self._say_late(await administrator.make(prune=prune))

    def _say_late(self, made: Made) -> None:
        for subscription in made.late:
            self.machine.say(
                f"{subscription}: a new subscription to a stream that is read already; it starts with what comes now"
            )

    def _with_user(self, contracts: Mapping[str, Contract]) -> dict[str, Contract]:
        clients = {spec.name for spec in self.machine.system.services if spec.kind != "service"}
        own = {name: contract for name, contract in contracts.items() if name not in clients}
        return own | {name: own[name].beside(trial.contract) for name, trial in self.trials.items() if name in own}

    def _administrator(self) -> Administrator:
        plan = BusPlan.of(self.contracts)
        passwords = {user: self._password(user) for user in nats.users(plan)}
        self.machine.secrets.save()
        return Administrator(plan, self.server, passwords)

    def _password(self, user: str) -> str:
        return self.machine.secrets.of(f"bus.{user}")

    def _spec(self) -> ProcessSpec:
        layout = self.machine.layout
        command = engine.command(engine.find(), layout.nats_config, layout.log(NATS))
        return engine_process(NATS, "bus", command, port=self.server.port, variables=self.machine.variables)

    async def _probe(self, _spec: ProcessSpec) -> None:
        await until_ready(lambda: engine.ready(LOOPBACK, self.server.port))
        if self._provisioned:  # it has been restarted, perhaps without what it stored
            try:
                await self.provision(self._provisioned)
            except BusOutage as outage:
                self.machine.say(f"the bus is back, but not as it should be: {outage}; `atoll down` and `atoll up` mend that")
