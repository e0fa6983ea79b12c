"""The process that keeps Envoy's files up to date: watches the bus, translates, writes, confirms, reports.

Traffic does not pass through it: killed, paused or cut off from the bus, it leaves Envoy with what it has. What it knows
is saved (`inputs.json`), so that a restart goes on from there, whatever the bus has lost meanwhile. (That is why it reads
the registry itself: `registry.Watch` starts from nothing.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from atoll.bus.ports import Bus, Received
from atoll.errors import AtollError, BusOutage
from atoll.gateway.admin import Admin
from atoll.gateway.apply import Applier
from atoll.gateway.arrivals import Arrivals
from atoll.gateway.environment import Environment
from atoll.gateway.files import forget_unfinished, write_initial, write_listener, write_proof
from atoll.gateway.installer import Installer, Outcome
from atoll.gateway.ir import Endpoint
from atoll.gateway.known import GATEWAY, Known, Replica, SystemEntry
from atoll.gateway.report import Report
from atoll.gateway.secrets import Follower, write_secrets
from atoll.gateway.xds.folders import Folders
from atoll.registry.announcement import Announcement
from atoll.registry.replica import removal
from atoll.system.plan import AUTH
from atoll.system.variables import with_files

__all__ = ["Controller", "run"]

logger = logging.getLogger("atoll.gateway")

_DEBOUNCE_S = 0.005
_RETRY_S, _RETRY_MOST_S = 0.1, 2.0
# How often files and versions are compared with what was confirmed.
_DRIFT_S = 2.0
_READ_AGAIN_S = 10.0
_SNAPSHOT_RETRY_S, _SNAPSHOT_RETRY_MOST_S = 0.1, 5.0
# What is watched: stream, subjects, and the prefix that is not part of a key.
_REGISTRY = ("KV_registry", "$KV.registry.>", "$KV.registry.")
_CONTRACTS = ("KV_contracts", "$KV.contracts.>", "$KV.contracts.")
_KEYS = ("keys", "keys.>", "keys.")
_NOBODY = SystemEntry(name="", public_url="", issuer="nobody", audience="nobody")


class Controller:
    """One gateway's control plane. `run` ends only when it is cancelled."""

    def __init__(self, environment: Environment, bus: Bus) -> None:
        self._environment = environment
        self._bus = bus
        self._folders = Folders(str(environment.root))
        self.known = _start(environment, self._folders)
        admin = Admin(environment.admin)
        self._applier = Applier(self._folders, admin)
        self._report = Report(Path(self._folders.applied))
        self._installer = Installer(environment.listener, self._applier, self._report, self.known)
        self._secrets = Follower(environment.origins, self._folders, admin, self._report.certificates)
        self._changed = asyncio.Event()
        self._arrivals = Arrivals(self.known)
        self._ripening: asyncio.TimerHandle | None = None
        self._done: Any = None
        self._tried: Any = None
        self._in_use: Any = None
        self._retry: asyncio.TimerHandle | None = None
        self._pause_s = _RETRY_S
        self._live: set[str] = set()
        self._read: set[str] = set()
        self._snapshots: asyncio.Task[None] | None = None
        # Never withdrawn: this process may end and Envoy go on, which is what counts.
        self._announcement = Announcement(bus, _entry(environment))

    async def run(self) -> None:
        endings = [self._bus.subscribe(subjects, self._receive_live) for _, subjects, _ in (_REGISTRY, _CONTRACTS, _KEYS)]
        endings.append(self._bus.on_connected(self._read_all))
        self._changed.set()
        try:
            await self._bus.start()
            await self._announcement.start()
            # One that fails takes the other with it, so that whoever keeps this process running hears of it.
            async with asyncio.TaskGroup() as both:
                both.create_task(self._secrets.follow())
                both.create_task(self._follow())
        finally:
            for end in endings:
                end()
            await self._announcement.stop()
            if self._snapshots:
                self._snapshots.cancel()

    async def _follow(self) -> None:
        clock = asyncio.get_running_loop().time
        look_at = clock() + _DRIFT_S
        while True:
            changed = await self._wait_for_change(look_at - clock())
            if clock() >= look_at:
                await self._look_around()
                look_at = clock() + _DRIFT_S
            if changed:
                await asyncio.sleep(_DEBOUNCE_S)
                self._changed.clear()
                await self._take_over()
                self._tell_when_whole()

    async def _take_over(self) -> None:
        """What is known now, unless that is done, or waits for its next try while only heartbeats come."""
        self._weigh()
        known = self.known
        if not known.system.name:
            return  # Nobody has said yet what the system is: Envoy goes on with what it has.
        if known.view == self._done or (self._retry and known.view == self._tried):
            return
        outcome = await self._installer.install(known)
        self.known = self.known.leaving_out(self._installer.left_out)
        self._tried = known.view
        self._done = None if outcome is Outcome.LATER else known.view
        self._in_use = known.view if outcome is Outcome.IN_USE else self._in_use
        self._plan_retry(outcome)

    def _tell_when_whole(self) -> None:
        """Once everything that the bus had is read and in use: before that, a gateway would refuse what others answer."""
        has_keys = any(key.startswith(f"{AUTH}.") for key in self.known.contracts)
        needed = {stream for stream, *_ in (_REGISTRY, _CONTRACTS, *((_KEYS,) if has_keys else ()))}
        if needed <= self._read and self._in_use is not None and self._in_use == self.known.view:
            self._report.whole()

    def _weigh(self) -> None:
        """Who is new is so for a while, after which everything is written once more."""
        self.known = replace(self.known, fresh=self._arrivals.fresh(self.known))
        if self._ripening:
            self._ripening.cancel()
            self._ripening = None
        if (wait_s := self._arrivals.changes_in_s) is not None:
            self._ripening = asyncio.get_running_loop().call_later(wait_s, self._changed.set)

    def _plan_retry(self, outcome: Outcome) -> None:
        """After a while, which gets longer."""
        if self._retry:
            self._retry.cancel()
            self._retry = None
        if outcome is not Outcome.LATER:
            self._pause_s = _RETRY_S
            return
        self._retry = asyncio.get_running_loop().call_later(self._pause_s, self._try_again)
        self._pause_s = min(2 * self._pause_s, _RETRY_MOST_S)

    def _try_again(self) -> None:
        self._retry = None
        self._changed.set()

    async def _wait_for_change(self, timeout_s: float) -> bool:
        """Heartbeats are changes too, so one may come before every look around."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._changed.wait()
        except TimeoutError:
            return self._changed.is_set()
        return True

    async def _look_around(self) -> None:
        """Envoy or its files are not as they were left: told, then put right, as a reconciler does."""
        self._report.write_again()
        if self._done is None:
            return  # What could not be applied yet is on disk already, for the Envoy that starts next.
        if drifted := (*await self._secrets.drifted(), *await self._applier.drifted()):
            self._report.drifted(drifted)
            try:
                await self._secrets.heal()
                await self._applier.heal()
            except (AtollError, OSError) as error:
                self._report.not_healed(str(error))
                return
        self._report.healed()

    def _read_all(self) -> None:
        """After every connect: what was missed meanwhile."""
        if self._snapshots:
            self._snapshots.cancel()
        self._live.clear()
        self.known = replace(self.known, listening_since=time.time())
        self._snapshots = asyncio.get_running_loop().create_task(self._take_snapshots())

    async def _take_snapshots(self) -> None:
        """Of several servers again and again: two that have lost each other do not tell each other what is said live."""
        while True:
            await self._take_each()
            if not self._bus.several:
                return
            await asyncio.sleep(_READ_AGAIN_S)
            self._live.clear()

    async def _take_each(self) -> None:
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
                # What came live since the connect, or since it was asked again, is newer than the snapshot, or the same.
                if received.subject not in self._live:
                    self._receive(received)
            self._read.add(stream)
            self._changed.set()
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


def _start(environment: Environment, folders: Folders) -> Known:
    """What the last controller knew, or the host wrote. Makes Envoy's first files when nobody has."""
    forget_unfinished(folders)
    # An Envoy of an older version runs without.
    write_proof(folders)
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
    environment = Environment.read(with_files(os.environ) if environ is None else environ)
    asyncio.run(_main(environment, connect or partial(_connect, environment.bus_ca)))


def _connect(authorities: str, url: str) -> Bus:
    from atoll.bus.jetstream import JetStreamBus

    return JetStreamBus(url, authorities=authorities)


async def _main(environment: Environment, connect: Callable[[str], Bus]) -> None:
    bus = connect(environment.bus_url)
    task = asyncio.create_task(Controller(environment, bus).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
    await bus.close()
