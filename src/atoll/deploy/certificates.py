"""An authority of the system's own, and the certificate by which its bus is known: made once, kept beside passwords."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from atoll.certificates.authority import Authority
from atoll.certificates.pair import Pair

__all__ = ["BusCertificates"]

_LIFETIME = timedelta(days=3650)
_ANEW_BEFORE_END = timedelta(days=365)


class BusCertificates:
    """`folder` is that of secrets. What is asked for is made when it is missing, is for other names, or ends within a year;
    `save` it before it is used. Nothing mounts the authority's key: who has it can pretend to be the bus.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "authority"
        self._made: dict[str, Pair] = {}

    def of(self, names: Sequence[str]) -> dict[str, str]:
        """Files of the bus, by name. Raises SystemMistake: what was kept can't be read."""
        now = datetime.now(UTC)
        authority = self._kept("ca", now)
        own = self._kept("bus", now) if authority else None
        if authority is None:
            authority = self._made["ca"] = Authority.make("the bus", now, _LIFETIME).pair
        if own is None or set(own.names) != set(names):
            own = self._made["bus"] = Authority(authority).issue(names, "peer", now, _LIFETIME)
        return {"tls.crt": own.chain.decode(), "tls.key": own.key.decode(), "ca.crt": authority.chain.decode()}

    def save(self) -> None:
        """Readable by us only."""
        if self._made:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, pair in self._made.items():
            pair.save(self._folder / f"{name}.crt", self._folder / f"{name}.key")

    def _kept(self, name: str, now: datetime) -> Pair | None:
        if name in self._made:
            return self._made[name]
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        if not files[0].exists():
            return None
        pair = Pair.parse(files[0].read_bytes(), files[1].read_bytes(), (str(files[0]), str(files[1])))
        return pair if pair.ends - now > _ANEW_BEFORE_END else None
