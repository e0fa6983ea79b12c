"""The administrator's work on a running bus: reload, streams, durables, buckets, contracts, purging. All of it idempotent.

`nats` says in text what the server must be; this makes it true and proves it by asking.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

from atoll.bus.jetstream import JetStreamBus, information
from atoll.bus.ports import Received
from atoll.errors import BusOutage
from atoll.provision import nats
from atoll.registry.replica import parse, removal
from atoll.system.contract import Contract, canonical
from atoll.system.plan import AUTH, BusPlan, BusService, BusSource

__all__ = ["Administrator", "Made"]

_CONNECT_S = 5.0
_RELOADS = 20
_SETTLE_S = 0.02
_PROBE_S = 0.5
_NANOSECONDS = 10**9
_NOT_FOUND = 404
_TOGETHER_S = 60.0
_TOGETHER_PAUSE_S = 0.2
_NOT_TOGETHER = (10005, 10008)  # "no suitable peers for placement", "temporarily unavailable"
# As everybody who watches the registry has it.
_SILENT_S = 30.0

_STREAM: dict[str, Any] = {
    "retention": "limits",
    "discard": "new",  # the usual `old` drops unread events when the stream is full
    "storage": "file",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "duplicate_window": 30 * _NANOSECONDS,
    "allow_direct": True,
    "deny_delete": True,
}
_DURABLE: dict[str, Any] = {
    "ack_policy": "all",
    "deliver_policy": "all",
    "max_deliver": -1,
    "max_ack_pending": -1,  # at a limit the server would stop delivering without a word
    "ack_wait": 3600 * _NANOSECONDS,  # order is kept by cursor and reset, never by redelivery
}


@dataclass(slots=True)
class Made:
    """What was not so before. `leftovers`: durables (`stream/durable`) that nobody in the plan uses; they hold back purging.

    `streams`: every service's, with the moment at which it was made; another moment is another stream. `late`: subscriptions
    that were added to a stream which their service reads already; one cursor can't go back for them, so they start now.
    """

    changes: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    streams: dict[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Administrator:
    """All that may be done to one bus. `passwords` has one for each of `nats.users(plan)`.

    `reached` is how the bus is entered, if not at `server`. What is stored is stored by each of its servers.
    """

    plan: BusPlan
    server: nats.BusServer
    passwords: Mapping[str, str]
    reached: nats.Entrance | None = None

    @property
    def entrance(self) -> nats.Entrance:
        return self.reached or self.server.entrance

    def write(self, file: Path) -> bool:
        """Puts the configuration in place, whole or not at all, readable by us only. True when it differs from before."""
        before = file.read_text() if file.exists() else ""
        retired = nats.accounts(before) - {nats.account(service.name) for service in self.plan.services}
        text = nats.configuration(self.plan, self.server, self.passwords, retired)
        if before == text:
            return False
        fresh = file.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
        fresh.replace(file)
        return True

    async def apply(self, file: Path, *, prune: bool = False) -> Made:
        """All of it on a running server: `write`, `reload`, `make`. Other connections go on undisturbed."""
        if self.write(file):
            await self.reload()
        return await self.make(prune=prune)

    async def reload(self) -> None:
        """Makes every server read its configuration. Raises BusOutage with its complaint: it goes on with the former.

        Twice, because what is new answers nobody after the first time; `make` sees to it that even more would be done.
        """
        for server in self.entrance.servers:
            async with self._at(server, nats.SYSTEM_USER) as bus:
                for _ in range(2):
                    answer = json.loads(await bus.request(f"$SYS.REQ.SERVER.{bus.wire.server_id}.RELOAD"))
                    if error := answer.get("error"):
                        reason = error.get("description", error)
                        raise BusOutage(f"the bus at {server} refused its configuration: {reason}")

    async def make(self, *, prune: bool = False) -> Made:
        """Streams, durables and buckets as planned; returns when every service is answered by all it may ask, at each server.

        With `prune`, leftover durables are deleted. Raises BusOutage.
        """
        made = await self._made(prune)
        for attempt in range(_RELOADS):
            if not (missing := await self._unanswered()):
                return made
            await asyncio.sleep(_SETTLE_S * attempt)
            await self.reload()
        raise BusOutage(f"the bus does not answer: {', '.join(missing)}")

    async def _made(self, prune: bool) -> Made:
        made, replicas = Made(), {"num_replicas": len(self.entrance.servers)}
        async with self._as(nats.PLATFORM_ADMIN) as bus:
            await self._together(bus)
            for bucket in ("registry", "contracts"):
                await _stream(bus, f"KV_{bucket}", {**replicas, **_bucket(bucket)}, made)
        for service, consumers in self.plan.consumers.items():
            async with self._as(nats.admin(service)) as bus:
                own = {**replicas, "subjects": [f"event.{service}.>"]}
                made.streams[service] = await _stream(bus, service, own, made)
                if service == AUTH:
                    await _stream(bus, nats.KEYS, {**replicas, "subjects": ["keys.>"], "max_msgs_per_subject": 1}, made)
                await _durables(bus, service, consumers, made)
                if prune:
                    await _prune(bus, service, made)
        return made

    async def _together(self, bus: JetStreamBus) -> None:
        """Several servers that have just started must find each other and choose who leads."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _TOGETHER_S
        while len(self.entrance.servers) > 1:
            try:
                answer = json.loads(await bus.request("$JS.API.STREAM.NAMES", timeout_s=_PROBE_S))
                if "error" not in answer:
                    return
            except BusOutage:
                await bus.wait_connected(_CONNECT_S)
            if loop.time() > end:
                raise BusOutage(f"the servers {', '.join(self.entrance.servers)} have not become one bus in {_TOGETHER_S:g} s")
            await asyncio.sleep(_TOGETHER_PAUSE_S)

    async def announce(
        self, system: Mapping[str, Any], contracts: Mapping[str, Contract], beside: Iterable[Contract] = ()
    ) -> bool:
        """Publishes contracts, then `system` naming them: each service's digest, and older ones that replicas still have.

        `system` is the bucket's document without digests, `beside` are contracts that hold beside the current ones. Contracts
        nobody names any more are removed. True if any changed.
        """
        async with self._as(nats.PLATFORM_ADMIN) as bus:
            running = [_decoded(entry) for entry in await bus.latest(nats.REGISTRY, "$KV.registry.>")]
            known = {
                entry.subject.removeprefix("$KV.contracts."): entry
                for entry in await bus.latest(nats.CONTRACTS, "$KV.contracts.>")
            }
            before = {key: entry.body for key, entry in known.items() if b"KV-Operation: DEL" not in entry.headers}
            named = [*contracts.items(), *((contract.service, contract) for contract in beside)]
            wanted = {f"{name}.{contract.digest}": canonical(contract.document) for name, contract in named}
            in_use = {f"{entry.get('service')}.{entry.get('digest')}" for entry in running}
            wanted |= {key: body for key, body in before.items() if key in in_use and key not in wanted and key != "system"}
            document = canonical(_with_digests(system, contracts, wanted))
            return await _replace(bus, before, {**wanted, "system": document})

    async def digests(self) -> dict[str, set[str]]:
        """By service, the contracts that its replicas say they have, "" for one that does not say. Who has been silent while
        others were heard does not count.
        """
        async with self._as(nats.PLATFORM_ADMIN) as bus:
            if await _ask(bus, f"STREAM.INFO.{nats.REGISTRY}") is None:
                return {}
            entries = [parse(entry) for entry in await bus.latest(nats.REGISTRY, "$KV.registry.>") if not removal(entry)]
        running = [entry for entry in entries if entry is not None]
        newest = max((entry.beat for entry in running), default=0.0)
        found: dict[str, set[str]] = {}
        for entry in running:
            if newest - entry.beat <= _SILENT_S:
                found.setdefault(entry.service, set()).add(entry.digest)
        return found

    async def drop(self, durables: Iterable[str]) -> None:
        """Deletes these, each `stream/consumer`."""
        for stream, _, consumer in (name.partition("/") for name in durables):
            async with self._as(nats.admin(stream)) as bus:
                await _ask(bus, f"CONSUMER.DELETE.{stream}.{consumer}")

    async def purge(self, older_than_s: float) -> dict[str, int]:
        """Deletes events that every durable has acknowledged and that are older than that; gives how many, by stream."""
        found = {}
        for service in self.plan.services:
            async with self._as(nats.admin(service.name)) as bus:
                if count := await _purge(bus, service.name, older_than_s):
                    found[service.name] = count
        return found

    @asynccontextmanager
    async def _as(self, user: str, entrance: nats.Entrance | None = None) -> AsyncIterator[JetStreamBus]:
        way = entrance or self.entrance
        url = way.url(user, self.passwords[user])
        bus = JetStreamBus(url, name=f"provision {user}", authorities=way.authorities)
        await bus.start()
        try:
            if not await bus.wait_connected(_CONNECT_S):
                reason = bus.wire.last_error or "nothing answers there"
                raise BusOutage(f"the bus at {', '.join(way.servers)} can't be entered as {user}: {reason}")
            yield bus
        finally:
            await bus.close()

    @asynccontextmanager
    async def _at(self, server: str, user: str) -> AsyncIterator[JetStreamBus]:
        """Of several servers this one, and no other in its place: each has a configuration of its own."""
        async with self._as(user, self.entrance.only(server)) as bus:
            yield bus
            if bus.wire.reconnects:
                raise BusOutage(f"the connection to the bus at {server} was lost")

    async def _unanswered(self) -> list[str]:
        """Imports that nobody answers yet, asked for in a way that changes nothing, at every server."""
        missing: list[str] = []
        for server, service in product(self.entrance.servers, self.plan.services):
            async with self._at(server, nats.admin(service.name)) as bus:
                subjects = list(_probes(self.plan, service))
                answers = await asyncio.gather(*(_answers(bus, subject) for subject in subjects))
                missing += [
                    f"{service.name} → {subject} at {server}"
                    for subject, there in zip(subjects, answers, strict=True)
                    if not there
                ]
        return missing


def _probes(plan: BusPlan, service: BusService) -> Iterator[str]:
    """What `service` asks of other accounts and what answers even a question that makes no sense, without acting on it."""
    yield f"$JS.API.DIRECT.GET.{nats.REGISTRY}.$KV.registry.{service.name}.nobody"
    if any(other.name == AUTH for other in plan.services):
        yield f"$JS.API.DIRECT.GET.{nats.KEYS}"
        yield information(nats.KEYS)
    for source in service.sources:
        yield information(source.stream)
        yield f"$JS.API.CONSUMER.MSG.NEXT.{source.stream}.{service.name}"
        yield f"$JS.API.CONSUMER.RESET.{source.stream}.{service.name}"


async def _answers(bus: JetStreamBus, subject: str) -> bool:
    with suppress(BusOutage):
        await bus.request(subject, b"{", timeout_s=_PROBE_S)
        return True
    return False


def _bucket(name: str) -> dict[str, Any]:
    """A key-value bucket is a stream that keeps one message per subject."""
    return {"subjects": [f"$KV.{name}.>"], "max_msgs_per_subject": 1, "allow_rollup_hdrs": True}


async def _stream(bus: JetStreamBus, name: str, own: Mapping[str, Any], made: Made) -> str:
    """The stream as it should be, and when it was made."""
    wanted = {"name": name, **_STREAM, **own}
    found = await _ask(bus, f"STREAM.INFO.{name}")
    if found is None:
        found = await _ask(bus, f"STREAM.CREATE.{name}", wanted) or {}
        made.changes.append(f"stream {name} made")
    elif any(found["config"].get(key) != value for key, value in wanted.items()):
        await _ask(bus, f"STREAM.UPDATE.{name}", {**found["config"], **wanted})
        made.changes.append(f"stream {name} changed")
    return str(found["created"])


async def _durables(bus: JetStreamBus, stream: str, consumers: Mapping[str, BusSource], made: Made) -> None:
    existing = await _existing(bus, stream)
    for consumer, source in consumers.items():
        found = existing.pop(consumer, None)
        # A durable is replicated as its stream is: 0 says so.
        wanted = {"durable_name": consumer, **_DURABLE, "filter_subjects": list(source.filters)}
        if found is not None and _serves(found["config"], wanted):
            continue
        await _ask(bus, f"CONSUMER.CREATE.{stream}.{consumer}", {"stream_name": stream, "config": wanted})
        made.changes.append(f"durable {stream}/{consumer} {'changed' if found else 'made'}")
        if found is not None and found["delivered"]["stream_seq"]:
            added = set(source.filters) - set(_filters(found["config"]))
            made.late += [f"{consumer} ← {subject.split('.', 1)[1].removesuffix('.*')}" for subject in sorted(added)]
    made.leftovers += [f"{stream}/{consumer}" for consumer in existing]


def _serves(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return set(_filters(config)) == set(wanted["filter_subjects"]) and all(
        config.get(key) == value for key, value in _DURABLE.items()
    )


def _filters(config: Mapping[str, Any]) -> list[str]:
    return config.get("filter_subjects") or [config.get("filter_subject", "")]


async def _prune(bus: JetStreamBus, stream: str, made: Made) -> None:
    for leftover in [name for name in made.leftovers if name.startswith(f"{stream}/")]:
        await _ask(bus, f"CONSUMER.DELETE.{leftover.replace('/', '.')}")
        made.leftovers.remove(leftover)
        made.changes.append(f"durable {leftover} deleted")


async def _existing(bus: JetStreamBus, stream: str) -> dict[str, dict[str, Any]]:
    """The stream's durables by name."""
    found: dict[str, dict[str, Any]] = {}
    while True:
        page = await _ask(bus, f"CONSUMER.LIST.{stream}", {"offset": len(found)}) or {}
        found |= {each["name"]: each for each in page.get("consumers") or []}
        if len(found) >= page.get("total", 0):
            return found


async def _purge(bus: JetStreamBus, stream: str, older_than_s: float) -> int:
    """Up to the lowest acknowledgement, and not what is younger than that."""
    state = ((await _ask(bus, f"STREAM.INFO.{stream}")) or {}).get("state", {})
    if not state.get("messages"):
        return 0
    ends = [_handled(durable, state["last_seq"]) for durable in (await _existing(bus, stream)).values()]
    moment = datetime.now(UTC) - timedelta(seconds=older_than_s)
    young = await _first_since(bus, stream, moment.isoformat().replace("+00:00", "Z"))
    keep_from = min([end + 1 for end in ends] + [young or state["last_seq"] + 1])
    if keep_from <= state["first_seq"]:
        return 0
    done = await _ask(bus, f"STREAM.PURGE.{stream}", {"seq": keep_from}) or {}
    return int(done.get("purged", 0))


def _handled(durable: Mapping[str, Any], last_sequence: int) -> int:
    """Everything up to here is done with: a durable without anything left has passed what its filter leaves out, too."""
    nothing_left = not durable.get("num_pending") and not durable.get("num_ack_pending")
    return last_sequence if nothing_left else int(durable["ack_floor"]["stream_seq"])


async def _first_since(bus: JetStreamBus, stream: str, moment: str) -> int | None:
    """The sequence of the first message stored at or after that moment, as the leader knows it: a server that is behind
    would find none among the youngest, and they would be purged.
    """
    found = await _ask(bus, f"STREAM.MSG.GET.{stream}", {"start_time": moment, "next_by_subj": ">"})
    return int(found["message"]["seq"]) if found else None


def _decoded(entry: Received) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(entry.body)
        if isinstance(found, dict):
            return found
    return {}


def _with_digests(
    system: Mapping[str, Any], contracts: Mapping[str, Contract], published: Mapping[str, bytes]
) -> dict[str, Any]:
    """The current digest first, then those of replicas not yet replaced."""
    services = {}
    for name, entry in system["services"].items():
        current = [contracts[name].digest] if name in contracts else []
        older = sorted(key.partition(".")[2] for key in published if key.partition(".")[0] == name)
        services[name] = {**entry, "digests": [*current, *(digest for digest in older if digest not in current)]}
    return {**system, "services": services}


async def _replace(bus: JetStreamBus, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bool:
    """Contracts first, `system` after them, removals last: a reader never meets a name without its contract."""
    changed = {key: body for key, body in after.items() if before.get(key) != body}
    for key in sorted(changed, key=lambda key: key == "system"):
        await _put(bus, key, changed[key])
    gone = [key for key in before if key not in after]
    for key in gone:
        await _put(bus, key, b"", b"KV-Operation: DEL\r\n")
    return bool(changed or gone)


async def _put(bus: JetStreamBus, key: str, body: bytes, headers: bytes = b"") -> None:
    answer = json.loads(await bus.request(f"$KV.contracts.{key}", body, headers))
    if error := answer.get("error"):
        raise BusOutage(f"the bus did not take contract {key}: {error.get('description')}")


async def _ask(bus: JetStreamBus, subject: str, question: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """JetStream's API. None when there is no such thing. Raises BusOutage with the server's reason."""
    answer = await _answer(bus, subject, json.dumps(question).encode() if question else b"")
    if error := answer.get("error"):
        if error.get("code") == _NOT_FOUND:
            return None
        raise BusOutage(f"the bus refused {subject}: {error.get('description')} ({error.get('err_code')})")
    return answer


async def _answer(bus: JetStreamBus, subject: str, body: bytes) -> dict[str, Any]:
    """Of several servers one may be late, or who leads: all that is asked here may be asked again."""
    end = asyncio.get_running_loop().time() + _TOGETHER_S
    while True:
        try:
            answer: dict[str, Any] = json.loads(await bus.request(f"$JS.API.{subject}", body))
            if not _not_together(answer) or asyncio.get_running_loop().time() > end:
                return answer
        except BusOutage:
            if not bus.several or asyncio.get_running_loop().time() > end:
                raise
            await bus.wait_connected(_CONNECT_S)
        await asyncio.sleep(_TOGETHER_PAUSE_S)


def _not_together(answer: Mapping[str, Any]) -> bool:
    """Whether a server of several is still missing, or who leads: that passes."""
    return (answer.get("error") or {}).get("err_code") in _NOT_TOGETHER
