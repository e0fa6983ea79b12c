"""What the controller tells: `applied.json` for the host and for people, and its log."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from atoll.errors import SystemMistake
from atoll.gateway.files import write
from atoll.gateway.ir import Gateway
from atoll.gateway.known import ServiceEntry
from atoll.registry.replica import canaries, on_trial
from atoll.telemetry.metrics import Family, Sample

__all__ = ["Report", "families", "is_whole", "of_bus"]

logger = logging.getLogger("atoll.gateway")


class Report:
    """`applied.json`: what Envoy uses, for the host. `error` tells why something newer is not in use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now: dict[str, Any] = {"version": 0, "endpoints": {}, "routes": "", "keys": [], "faults": []}
        self._now |= {"error": None, "drift": None, "certificates": {}, "canaries": {}, "whole": False}
        self._of_input: tuple[str, ...] = ()
        self._of_certificates: tuple[str, ...] = ()
        self._unhealed: set[str] = set()
        self._unwritten = False
        with suppress(OSError, msgspec.DecodeError, ValueError, TypeError):
            told = msgspec.json.decode(path.read_bytes())
            self._now["version"] = int(told["version"])
            self._now["whole"] = bool(told.get("whole", False))

    def succeeded(self, gateway: Gateway, services: Mapping[str, ServiceEntry], routes: str, *, complete: bool = True) -> None:
        """`routes` is the version of the table. Not `complete`: something else of the same change is not in use, and why stays
        told until `failed` says it anew.
        """
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
            routes=routes,
            keys=[key.kid for key in gateway.issuer.keys.keys],
            gateways=gateway.limits.gateways,
            faults=[*self._of_input, *self._of_certificates],
            error=None if complete else self._now["error"],
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
            self._unhealed.clear()
            self._write(drift={"what": list(what), "seen": _now(), "healed": None})

    def healed(self) -> None:
        """Nothing differs any more, whoever has seen to it."""
        if self._now["drift"] and not self._now["drift"]["healed"]:
            self._now["drift"]["healed"] = _now()
            self._write()

    def not_healed(self, why: str) -> None:
        """Likewise each reason is told once."""
        if why not in self._unhealed:
            logger.warning("what has drifted could not be put right: %s", why)
        self._unhealed.add(why)

    def failed(self, error: str) -> None:
        if self._now["error"] != error:
            logger.warning("%s", error)
            self._write(error=error)

    def whole(self) -> None:
        """All that the bus knows is in use. It stays said: whoever was whole once has what it needs while the bus is away."""
        if not self._now["whole"]:
            self._write(whole=True)

    def write_again(self) -> None:
        """What could not be written when it happened."""
        if self._unwritten:
            self._write()

    def _write(self, **changes: Any) -> None:
        """A full disk costs the report for as long as it is full, and nothing else."""
        self._now.update(changes)
        try:
            write(self._path, msgspec.json.format(msgspec.json.encode(self._now), indent=1) + b"\n")
        except OSError as error:
            if not self._unwritten:
                logger.warning("%s can't be written (%s); it is tried again", self._path, error)
            self._unwritten = True
        else:
            self._unwritten = False


def is_whole(path: Path) -> bool:
    """Whether all that the bus knew was in use once."""
    told = _read(path)
    return told is not None and told.whole


def families(path: Path) -> list[Family]:
    """The same for monitoring; nothing while there is no report."""
    if (told := _read(path)) is None:
        return []
    # When, not whether: it is put right before anybody asks.
    drifted = datetime.fromisoformat(told.drift.seen).timestamp() if told.drift else 0
    found = {
        "refused": ("1 while something newer is meant than what is used", int(told.error is not None)),
        "left_out": ("operations, contracts and certificates that are not used for what is wrong with them", len(told.faults)),
        "drift_timestamp_seconds": ("when something else was last found than what was written, 0 for never", drifted),
    }
    return [Family(f"atoll_gateway_{name}", "gauge", help, [Sample(value)]) for name, (help, value) in found.items()]


def of_bus(authorities: str) -> list[Family]:
    """When whoever vouches for the bus ends; nothing without TLS, or when the file can't be read."""
    from atoll.certificates.pair import authorities_end

    if not authorities:
        return []
    try:
        ends = authorities_end(Path(authorities)).timestamp()
    except SystemMistake:
        return []
    name = "atoll_gateway_bus_authority_expiration_timestamp_seconds"
    return [Family(name, "gauge", "when the authority that vouches for the bus ends", [Sample(ends)])]


class _Drift(msgspec.Struct):
    seen: str


class _Told(msgspec.Struct):
    """What of it is of interest here."""

    error: str | None
    faults: list[str]
    drift: _Drift | None = None
    whole: bool = False


def _read(path: Path) -> _Told | None:
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=_Told)
    return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
