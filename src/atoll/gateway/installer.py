"""Gets what is known into use: translates, has Envoy take it, leaves out what Envoy refuses, and tells how that went."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import Any

from atoll.errors import Bug, EngineOutage
from atoll.gateway.apply import Applier
from atoll.gateway.files import version, write
from atoll.gateway.ir import Gateway, Listener
from atoll.gateway.known import Known, LeftOut
from atoll.gateway.refused import refused, with_what_is_urgent
from atoll.gateway.report import Report
from atoll.gateway.translate import translate
from atoll.gateway.xds.resources import render
from atoll.gateway.xds.typed import Json

__all__ = ["Installer", "Outcome"]

logger = logging.getLogger("atoll.gateway")


class Outcome(Enum):
    """What became of a change."""

    IN_USE = auto()
    """By Envoy, but for the contracts that it refuses."""
    REFUSED = auto()
    """It would be refused again: the next one is awaited."""
    LATER = auto()
    """Envoy, or the disk, is not to be had: the same change is to be tried again."""


class Installer:
    """`last` is what Envoy began with. `left_out` is what the last `install` found that Envoy refuses."""

    def __init__(self, listener: Listener, applier: Applier, report: Report, last: Known) -> None:
        self.left_out: Mapping[str, LeftOut] = {}
        self._listener = listener
        self._applier = applier
        self._report = report
        self._last = last
        # What was refused although it is no contract's fault, and why: it is not judged again for every replica that comes.
        self._hopeless: tuple[Any, Bug] | None = None

    async def install(self, known: Known) -> Outcome:
        """Raises nothing: what goes wrong is reported."""
        self.left_out = {}
        try:
            await self._install(known)
        except EngineOutage as outage:
            self._report.failed(outage.detail)
            return Outcome.LATER
        except OSError as error:
            self._report.failed(f"a change could not be written: {error}; it is tried again")
            return Outcome.LATER
        except Bug as refusal:
            self._report.failed(str(refusal))
            return Outcome.REFUSED
        except Exception as error:
            logger.exception("a change could not be applied; the last good state stays")
            self._report.failed(str(error))
            return Outcome.REFUSED
        return Outcome.IN_USE

    async def _install(self, known: Known) -> None:
        if self._hopeless and self._hopeless[0] == _declared(known):
            await self._use(with_what_is_urgent(self._last, known), complete=False)
            raise self._hopeless[1]
        try:
            await self._use(known)
        except Bug as refusal:
            await self._use_without_what_is_refused(known, refusal)
        self._hopeless = None

    async def _use_without_what_is_refused(self, known: Known, refusal: Bug) -> None:
        """Raises `refusal` when it can't be told which contract's it is; keys, sessions and replicas are in use then."""
        self.left_out = await refused(known, self._last, self._judge)
        if self.left_out:
            await self._use(known.leaving_out(self.left_out))
            return
        self._hopeless = (_declared(known), refusal)
        await self._use(with_what_is_urgent(self._last, known), complete=False)
        raise refusal

    async def _use(self, known: Known, *, complete: bool = True) -> None:
        gateway, resources = self._rendered(known)
        await self._applier.apply(resources)
        self._last = known
        write(Path(self._applier.folders.inputs), known.serialize())
        self._report.succeeded(gateway, known.system.services, version(self._applier.meant["rds"]), complete=complete)

    async def _judge(self, known: Known) -> str:
        return await self._applier.refusal(self._rendered(known)[1])

    def _rendered(self, known: Known) -> tuple[Gateway, Mapping[str, list[Json]]]:
        with _no_collection():
            gateway = translate(known, self._listener)
            return gateway, render(gateway, self._applier.folders)


def _declared(known: Known) -> Any:
    """What Envoy's opinion may be about."""
    return known.system, sorted(known.contracts)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A snapshot of many services is a million small objects and no garbage: looking for some would double its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
