"""The process that keeps Envoy's files up to date: watches the bus, translates, writes, confirms, reports.

Traffic does not pass through it: killed, paused or cut off from the bus, it leaves Envoy with what it has. What it knows
is saved (`inputs.json`), so that a restart goes on from there, whatever the bus has lost meanwhile. (That is why it reads
the registry itself: `registry.Watch` starts from nothing.)
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from atoll.bus.ports import Bus, Received
from atoll.errors import AtollError, Bug, BusOutage, EngineOutage, SystemMistake
from atoll.gateway.admin import Admin
from atoll.gateway.apply import Applier
from atoll.gateway.files import digest, write, write_initial, write_listener
from atoll.gateway.ir import Endpoint, Gateway, Listener, Tls, Upstream
from atoll.gateway.known import GATEWAY, Known, Replica, ServiceEntry, SystemEntry
from atoll.gateway.secrets import Follower, Origin, write_secrets
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.registry.announcement import Announcement
from atoll.registry.replica import canaries, on_trial, removal

__all__ = ["Controller", "Environment", "run"]

logger = logging.getLogger("atoll.gateway")

_DEBOUNCE_S = 0.005
_RETRY_S = 0.1
# How often files and versions are compared with what was confirmed.
_DRIFT_S = 2.0
_SNAPSHOT_RETRY_S, _SNAPSHOT_RETRY_MOST_S = 0.1, 5.0
# What is watched: stream, subjects, and the prefix that is not part of a key.
_REGISTRY = ("KV_registry", "$KV.registry.>", "$KV.registry.")
_CONTRACTS = ("KV_contracts", "$KV.contracts.>", "$KV.contracts.")
_KEYS = ("keys", "keys.>", "keys.")
_NOBODY = SystemEntry(name="", public_url="", issuer="nobody", audience="nobody")


@dataclass(frozen=True, slots=True)
class Environment:
    """Read once, at start. `name` tells one gateway from another; the same for every controller of one Envoy."""

    bus_url: str
    root: Path
    listener: Listener
    admin: Endpoint
    name: str
    origins: tuple[Origin, ...] = ()

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Environment:
        """From ATOLL_BUS_URL, ATOLL_GATEWAY_DIR, ATOLL_GATEWAY_PORT, ATOLL_ENVOY_ADMIN (host:port) and, optionally,
        ATOLL_GATEWAY_HOST (127.0.0.1), ATOLL_GATEWAY_NAME (host name and port), ATOLL_MIRROR_ADDRESS (host:port of the process
        that compares answers) and what docs/reference/environment.md says of TLS. Raises SystemMistake that names what is
        missing or wrong.
        """
        try:
            return cls(
                bus_url=env["ATOLL_BUS_URL"],
                root=Path(env["ATOLL_GATEWAY_DIR"]).absolute(),
                listener=_listener(env),
                admin=Endpoint.parse(env["ATOLL_ENVOY_ADMIN"]),
                name=_key(env.get("ATOLL_GATEWAY_NAME") or f"{socket.gethostname()}-{env['ATOLL_GATEWAY_PORT']}"),
                origins=_origins(env),
            )
        except KeyError as missing:
            raise SystemMistake(f"{missing.args[0]} is not set", hint="`atoll up` sets it") from None
        except ValueError as error:
            raise SystemMistake(
                f"a port of the gateway's environment, ATOLL_ENVOY_ADMIN or ATOLL_MIRROR_ADDRESS: {error}"
            ) from None


def _listener(env: Mapping[str, str]) -> Listener:
    host, port = env.get("ATOLL_GATEWAY_HOST", "127.0.0.1"), int(env["ATOLL_GATEWAY_PORT"])
    comparer = env.get("ATOLL_MIRROR_ADDRESS")
    at = Endpoint.parse(comparer) if comparer else None
    return Listener(host, port, tls=_tls(env), upstream=_upstream(env), comparer=at)


def _upstream(env: Mapping[str, str]) -> Upstream:
    said = env.get("ATOLL_GATEWAY_UPSTREAM", "")
    if said not in ("", "plain"):
        raise SystemMistake(f"ATOLL_GATEWAY_UPSTREAM is {said!r}", hint="it is `plain`, or not set")
    return Upstream(certified=bool(env.get("ATOLL_GATEWAY_UPSTREAM_CERTIFICATE")), plain=said == "plain")


def _tls(env: Mapping[str, str]) -> Tls | None:
    if not env.get("ATOLL_GATEWAY_CERTIFICATE"):
        return None
    redirect_port = env.get("ATOLL_GATEWAY_REDIRECT_PORT")
    return Tls(
        hsts_s=int(env.get("ATOLL_GATEWAY_HSTS_S") or 0),
        redirect_port=int(redirect_port) if redirect_port else None,
        http3=env.get("ATOLL_GATEWAY_QUIC") == "1",
    )


def _origins(env: Mapping[str, str]) -> tuple[Origin, ...]:
    """Of all that the environment names. A part of what belongs together is a mistake."""
    server = _together(env, "ATOLL_GATEWAY_CERTIFICATE", "ATOLL_GATEWAY_KEY")
    upstream = _together(env, "ATOLL_GATEWAY_UPSTREAM_CERTIFICATE", "ATOLL_GATEWAY_UPSTREAM_KEY", "ATOLL_GATEWAY_UPSTREAM_CA")
    found = [Origin("server_certificate", server)] if server else []
    if upstream:
        found += [Origin("upstream_certificate", upstream[:2]), Origin("upstream_authorities", upstream[2:])]
    return tuple(found)


def _together(env: Mapping[str, str], *names: str) -> tuple[Path, ...]:
    """The files that these variables name: all, or none."""
    files = [env.get(name, "") for name in names]
    if any(files) and not all(files):
        missing = names[files.index("")]
        raise SystemMistake(f"{missing} is not set", hint=f"{', '.join(names)} go together")
    return tuple(map(Path, filter(None, files)))


def _key(name: str) -> str:
    """One word of a subject."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


class Controller:
    """One gateway's control plane. `run` ends only when it is cancelled."""

    def __init__(self, environment: Environment, bus: Bus) -> None:
        self._environment = environment
        self._bus = bus
        self._folders = Folders(str(environment.root))
        self.known = _start(environment, self._folders)
        admin = Admin(environment.admin)
        self._applier = Applier(self._folders, admin)
        self._report = _Report(Path(self._folders.applied))
        self._secrets = Follower(environment.origins, self._folders, admin, self._report.certificates)
        self._changed = asyncio.Event()
        self._live: set[str] = set()
        self._snapshots: asyncio.Task[None] | None = None
        # Never withdrawn: this process may end and Envoy go on, which is what counts.
        self._announcement = Announcement(bus, _entry(environment))

    async def run(self) -> None:
        endings = [self._bus.subscribe(subjects, self._receive_live) for _, subjects, _ in (_REGISTRY, _CONTRACTS, _KEYS)]
        endings.append(self._bus.on_connected(self._read_all))
        self._changed.set()
        secrets = asyncio.create_task(self._secrets.follow())
        try:
            await self._bus.start()
            await self._announcement.start()
            await self._follow()
        finally:
            secrets.cancel()
            for end in endings:
                end()
            await self._announcement.stop()
            if self._snapshots:
                self._snapshots.cancel()

    async def _follow(self) -> None:
        applied: Any = None
        clock = asyncio.get_running_loop().time
        look_at = clock() + _DRIFT_S
        while True:
            changed = await self._wait_for_change(look_at - clock())
            if clock() >= look_at:
                # (What could not be applied yet is on disk already, for the Envoy that starts next.)
                if applied is not None:
                    await self._look_for_drift()
                look_at = clock() + _DRIFT_S
            if not changed:
                continue
            await asyncio.sleep(_DEBOUNCE_S)
            self._changed.clear()
            known = self.known
            if known.view == applied:
                continue
            applied = known.view if await self._apply(known) else None

    async def _wait_for_change(self, timeout_s: float) -> bool:
        """Heartbeats are changes too, so one may come before every look around."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._changed.wait()
        except TimeoutError:
            return self._changed.is_set()
        return True

    async def _look_for_drift(self) -> None:
        """Envoy or its files are not as they were left: told, then put right, as a reconciler does."""
        drifted = await self._applier.drifted()
        if not drifted:
            return
        self._report.drifted(drifted)
        try:
            await self._applier.heal()
        except AtollError as error:
            logger.debug("what has drifted could not be put right: %s", error)
        else:
            self._report.healed()

    async def _apply(self, known: Known) -> bool:
        """Whether Envoy uses it now; otherwise it will be tried again."""
        try:
            with _no_collection():
                gateway = translate(known, self._environment.listener)
                resources = render(gateway, self._folders)
            await self._applier.apply(resources)
        except EngineOutage as outage:
            self._again(outage)
            return False
        except Bug as refusal:
            self._report.failed(str(refusal))
            return True
        except Exception as error:
            logger.exception("a change could not be applied; the last good state stays")
            self._report.failed(str(error))
            return True
        write(Path(self._folders.inputs), known.serialize())
        self._report.succeeded(gateway, known.system.services)
        return True

    def _again(self, outage: EngineOutage) -> None:
        self._report.failed(outage.detail)
        asyncio.get_running_loop().call_later(_RETRY_S, self._changed.set)

    def _read_all(self) -> None:
        """After every connect: what was missed meanwhile."""
        if self._snapshots:
            self._snapshots.cancel()
        self._live.clear()
        self.known = replace(self.known, listening_since=time.time())
        self._snapshots = asyncio.get_running_loop().create_task(self._take_snapshots())

    async def _take_snapshots(self) -> None:
        await asyncio.gather(*(self._take_snapshot(*watched) for watched in (_CONTRACTS, _KEYS, _REGISTRY)))

    async def _take_snapshot(self, stream: str, subjects: str, _prefix: str) -> None:
        pause_s = _SNAPSHOT_RETRY_S
        while True:
            try:
                found = await self._bus.latest(stream, subjects)
            except BusOutage as outage:
                logger.debug("no snapshot of %s yet: %s", stream, outage)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _SNAPSHOT_RETRY_MOST_S)
                continue
            for received in found:
                # What came live since the connect is newer than the snapshot, or the same.
                if received.subject not in self._live:
                    self._receive(received)
            return

    def _receive_live(self, received: Received) -> None:
        self._live.add(received.subject)
        self._receive(received)

    def _receive(self, received: Received) -> None:
        """A value that can't be read changes nothing."""
        try:
            self.known = _updated(self.known, received)
        except AtollError as error:
            logger.error("%s: %s; what was known before stays", received.subject, error)
            return
        self._changed.set()


def _entry(environment: Environment) -> Replica:
    listener = environment.listener
    return Replica(GATEWAY, environment.name, str(Endpoint(listener.host, listener.port)))


@contextmanager
def _no_collection() -> Iterator[None]:
    """A snapshot of many services is a million small objects and no garbage: looking for some would double its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _Report:
    """`applied.json`: what Envoy uses, for the host. `error` tells why something newer is not in use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now: dict[str, Any] = {"version": 0, "endpoints": {}, "routes": "", "keys": [], "faults": []}
        self._now |= {"error": None, "drift": None, "certificates": {}, "canaries": {}}
        self._of_input: tuple[str, ...] = ()
        self._of_certificates: tuple[str, ...] = ()
        with suppress(OSError, msgspec.DecodeError, ValueError, TypeError):
            self._now["version"] = int(msgspec.json.decode(path.read_bytes())["version"])

    def succeeded(self, gateway: Gateway, services: Mapping[str, ServiceEntry]) -> None:
        if gateway.faults != self._of_input:
            for fault in gateway.faults:
                logger.warning("%s", fault)
        self._of_input = gateway.faults
        groups = {one.service: one.service for one in gateway.clusters}
        groups |= {on_trial(service): canaries(service) for service in groups}
        whole = {groups[one.name]: one.endpoints for one in gateway.clusters if one.name in groups}
        self._write(
            version=self._now["version"] + 1,
            endpoints={group: [str(one) for one in endpoints] for group, endpoints in whole.items()},
            canaries={name: entry.canary_percent for name, entry in services.items() if entry.canary_percent},
            routes=digest([str(route) for route in gateway.routes]),
            keys=[key.kid for key in gateway.issuer.keys.keys],
            gateways=gateway.limits.gateways,
            faults=[*self._of_input, *self._of_certificates],
            error=None,
        )

    def certificates(self, shown: Mapping[str, Any], faults: Sequence[str]) -> None:
        """What is shown to whom connects; who says so has written it into the log."""
        self._of_certificates = tuple(faults)
        self._write(certificates=dict(shown), faults=[*self._of_input, *self._of_certificates])

    def drifted(self, what: tuple[str, ...]) -> None:
        """Told once, however often it is tried to put it right."""
        last = self._now["drift"]
        if last is None or last["healed"] or last["what"] != list(what):
            logger.warning("drift: %s; it is put right now", "; ".join(what))
            self._write(drift={"what": list(what), "seen": _now(), "healed": None})

    def healed(self) -> None:
        self._write(drift={**self._now["drift"], "healed": _now()})

    def failed(self, error: str) -> None:
        if self._now["error"] != error:
            logger.warning("%s", error)
            self._write(error=error)

    def _write(self, **changes: Any) -> None:
        self._now.update(changes)
        write(self._path, msgspec.json.format(msgspec.json.encode(self._now), indent=1) + b"\n")


def _start(environment: Environment, folders: Folders) -> Known:
    """What the last controller knew, or the host wrote. Makes Envoy's first files when nobody has."""
    try:
        known = Known.parse(Path(folders.inputs).read_bytes())
    except (OSError, AtollError) as error:
        logger.warning("starting without %s (%s): waiting for the bus", folders.inputs, error)
        known = Known(_NOBODY)
    # What was good once stays, whatever its files are now.
    write_secrets(folders, [one for one in environment.origins if not Path(folders.file(one.kind)).exists()])
    if not Path(folders.bootstrap).exists():
        write_initial(environment.root, environment.listener, environment.admin, known)
    write_listener(folders, environment.listener)
    return known


def _updated(known: Known, received: Received) -> Known:
    deleted = removal(received)
    subject = received.subject
    if subject.startswith(_REGISTRY[2]):
        key = subject.removeprefix(_REGISTRY[2])
        return known.without_replica(key) if deleted else known.with_replica(key, received.body)
    if subject.startswith(_CONTRACTS[2]):
        key = subject.removeprefix(_CONTRACTS[2])
        return known.without_contract(key) if deleted else known.with_contract(key, received.body)
    if subject == "keys.providers":
        return known.with_providers(received.body)
    if subject.startswith("keys.revoked."):
        return known.with_revocations(received.body)
    return known.with_keys(received.body) if subject == "keys.set" else known


def run(environ: Mapping[str, str] | None = None, connect: Callable[[str], Bus] | None = None) -> None:
    """The process. Ends with SIGTERM or SIGINT; Envoy goes on."""
    environment = Environment.read(os.environ if environ is None else environ)
    asyncio.run(_main(environment, connect or _connect))


def _connect(url: str) -> Bus:
    from atoll.bus.jetstream import JetStreamBus

    return JetStreamBus(url)


async def _main(environment: Environment, connect: Callable[[str], Bus]) -> None:
    bus = connect(environment.bus_url)
    task = asyncio.create_task(Controller(environment, bus).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
    await bus.close()
