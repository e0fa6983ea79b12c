"""The comparing process: takes samples from Envoy, asks the second service, keeps the reports.

What mirrors there are and where replicas are it reads from what the gateway's controller saves, so it needs no bus and goes on
with the last good state. Samples that come faster than they can be compared are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn

from atoll.errors import AtollError, Malformed, SystemMistake
from atoll.gateway.ir import Endpoint
from atoll.gateway.known import Known
from atoll.gateway.mirror import plan
from atoll.gateway.mirror.asking import Failed, ask, copied
from atoll.gateway.mirror.differences import compare
from atoll.gateway.mirror.report import Moment, Report
from atoll.gateway.mirror.samples import LIMIT_BYTES, Captured, parse
from atoll.gateway.sampling import SAFE

__all__ = ["Arrivals", "Comparer", "Environment", "run"]

logger = logging.getLogger("atoll.gateway.mirror")

_AT_ONCE = 8
_WAITING = 64
_SAVE_S = 0.25
# A request in Base64, an answer, and headers.
_MESSAGE_BYTES = 3 * LIMIT_BYTES
_KEEP_ALIVE_S = 75
_FAILED_FIRST = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Environment:
    """Read once, at start."""

    gateway: Path
    reports: Path
    address: Endpoint

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Environment:
        """From ATOLL_GATEWAY_DIR (what the controller saves), ATOLL_MIRROR_DIR (where reports go) and ATOLL_MIRROR_ADDRESS
        (host:port, where Envoy sends samples). Raises SystemMistake that names what is missing or wrong.
        """
        try:
            return cls(
                gateway=Path(env["ATOLL_GATEWAY_DIR"]).absolute(),
                reports=Path(env["ATOLL_MIRROR_DIR"]).absolute(),
                address=Endpoint.parse(env["ATOLL_MIRROR_ADDRESS"]),
            )
        except KeyError as missing:
            raise SystemMistake(f"{missing.args[0]} is not set", hint="`atoll up` sets it") from None
        except ValueError as error:
            raise SystemMistake(f"ATOLL_MIRROR_ADDRESS: {error}") from None


class Comparer:
    """An ASGI application: `POST /samples` is answered at once, compared afterwards."""

    def __init__(self, environment: Environment) -> None:
        self._reports = _Reports(environment.reports)
        self._inputs = _Inputs(environment.gateway / "inputs.json")
        self._arrivals = Arrivals()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status = await self._take(receive) if scope["type"] == "http" else 400
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def _take(self, receive: Any) -> int:
        try:
            captured = parse(await _body(receive))
            mirror = plan.Plan.of(self._inputs.known, captured.mirror)
        except AtollError as error:
            logger.warning("%s", error)
            return 400
        report = self._reports.of(mirror)
        report.dropped = max(0, report.dropped + self._arrivals.missing(captured))
        if len(self._tasks) >= _WAITING:
            report.dropped += 1
            return 503
        task = asyncio.create_task(self._compare(mirror, captured, self._changing.get(mirror.name)))
        if captured.request.method not in SAFE:
            self._changing[mirror.name] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return 202

    async def _compare(self, mirror: plan.Plan, captured: Captured, change: asyncio.Task[None] | None) -> None:
        """After the `change` that came before it, so that a client who writes and then reads is not told as a difference."""
        if change:
            await asyncio.wait({change})
        try:
            async with self._turns:
                await self._compared(mirror, captured)
        except Exception:
            logger.exception("a sample of %s could not be compared", mirror.name)

    async def _compared(self, mirror: plan.Plan, captured: Captured) -> None:
        request, first = captured.request, captured.answer.unpacked()
        operation = mirror.operation(request)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        moment = Moment(now, request.header("x-request-id"))
        why = request.fault or first.fault or ("first_failed" if first.status in _FAILED_FIRST else "")
        if why:
            self._reports.of(mirror).left_out(operation, why, moment)
            return
        replicas = random.sample(mirror.replicas, len(mirror.replicas))
        try:
            second = await ask(replicas, copied(request, mirror.path(request.path), mirror.name))
        except Failed as failed:
            self._reports.of(mirror).failed(operation, str(failed), first.status, moment)
            return
        if why := second.fault or _unlike(first.status, second.status):
            self._reports.of(mirror).left_out(operation, why, moment)
        else:
            self._reports.of(mirror).compared(operation, compare(first, second, mirror.rules), moment)

    async def save_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_S)
            self.save()

    def save(self) -> None:
        self._reports.save()


def _unlike(first: int, second: int) -> str:
    """A client that has the first one's body in its cache gets none to compare with."""
    return "not_modified" if 304 in (first, second) and first != second and {first, second} <= {200, 304} else ""


class Arrivals:
    """Which samples Envoy has numbered and lost, because too many were on their way."""

    def __init__(self) -> None:
        self._highest: dict[tuple[str, str], int] = {}

    def missing(self, captured: Captured) -> int:
        """How many more are missing, now that this one is here. One that comes late was counted before: -1."""
        key = (captured.mirror, captured.thread)
        highest = self._highest.get(key, captured.number - 1)
        self._highest[key] = max(highest, captured.number)
        return captured.number - highest - 1 if captured.number > highest else -1


class _Inputs:
    """What the controller knew last, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] = (0, 0)
        self._known: Known | None = None

    @property
    def known(self) -> Known:
        """Raises Malformed when there has never been anything that could be read."""
        with contextlib.suppress(OSError, AtollError):
            found = self._path.stat()
            if self._seen != (found.st_mtime_ns, found.st_ino):
                self._known = Known.parse(self._path.read_bytes())
                self._seen = (found.st_mtime_ns, found.st_ino)
        if self._known is None:
            raise Malformed(f"{self._path} can't be read")
        return self._known


class _Reports:
    """By mirror. One whose file somebody has removed begins anew: that is `atoll mirror --reset`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Report] = {}
        self._saved: set[str] = set()
        self._touched: set[str] = set()

    def of(self, mirror: plan.Plan) -> Report:
        """To be changed at once: what is changed later is not saved."""
        path = self._path(mirror.name)
        self._touched.add(mirror.name)
        known = self._known.get(mirror.name)
        if known is None or (mirror.name in self._saved and not path.exists()):
            known = self._known[mirror.name] = self._begin(mirror, Report.read(path))
        return known

    def _begin(self, mirror: plan.Plan, before: Report | None) -> Report:
        """What a former process counted goes on, unless it was about other services."""
        if before and (before.first, before.second) == (mirror.first, mirror.second):
            self._saved.add(mirror.name)
            return before
        self._saved.discard(mirror.name)
        return Report(mirror.name, mirror.first, mirror.second, _now())

    def save(self) -> None:
        """What was removed meanwhile stays so."""
        touched, self._touched = self._touched, set()
        for name in touched:
            path = self._path(name)
            if name in self._saved and not path.exists():
                continue
            try:
                self._known[name].save(path)
                self._saved.add(name)
            except OSError as error:
                logger.warning("the report can't be written: %s", error)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _body(receive: Any) -> bytes:
    found = bytearray()
    while True:
        message = await receive()
        found += message.get("body", b"")
        if len(found) > _MESSAGE_BYTES:
            raise Malformed("this sample is larger than any that Envoy sends")
        if not message.get("more_body"):
            return bytes(found)


def run(environ: Mapping[str, str] | None = None) -> None:
    """The process. Ends with SIGTERM or SIGINT, its reports written."""
    asyncio.run(_main(Environment.read(os.environ if environ is None else environ)))


class _Server(uvicorn.Server):
    """Leaves signals alone: uvicorn's own way ends the process before the reports are written."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _configuration(comparer: Comparer, address: Endpoint) -> uvicorn.Config:
    return uvicorn.Config(
        comparer,
        host=address.host,
        port=address.port,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )


async def _main(environment: Environment) -> None:
    comparer = Comparer(environment)
    server = _Server(_configuration(comparer, environment.address))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    saving = asyncio.create_task(comparer.save_for_ever())
    try:
        await server.serve()
    finally:
        saving.cancel()
        comparer.save()
