"""The gateway's certificate on this machine: the manifest's files, or one that a local authority in `.atoll/tls` vouches for.

Nothing is installed anywhere: who wants to trust the local authority is told which file it is. It can vouch for this
machine's own names only.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.certificates.files import write_private
from atoll.errors import SystemMistake
from atoll.system.manifest import GatewaySpec, TlsSpec

if TYPE_CHECKING:
    from atoll.certificates.authority import Authority
    from atoll.certificates.pair import Pair

__all__ = ["LocalTls", "check", "files", "renew_for_ever"]

NAMES = ("localhost", "127.0.0.1", "::1")
# Beside the names above, what browsers take for this machine: shop.localhost.
_ONLY = ("localhost", "127.0.0.0/8", "::1/128")
_AUTHORITY_LIFETIME = timedelta(days=3650)
_LIFETIME, _RENEWED_BEFORE_END = timedelta(days=14), timedelta(days=5)
_LOOK_S = 3600.0


@dataclass(frozen=True, slots=True)
class LocalTls:
    """What lies in `.atoll/tls`. `trusted` holds the authority beside all those that this machine trusts anyway."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.folder / "ca-key.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def trusted(self) -> Path:
        return self.folder / "trusted.pem"

    def renew(self, now: datetime, variables: Mapping[str, str]) -> None:
        """Makes what is missing, broken or about to end. The authority stays, so that whoever trusts it need not again."""
        from atoll.certificates.authority import Authority

        self.folder.mkdir(mode=0o700, exist_ok=True)
        authority = _kept(self.ca, self.ca_key, now)
        if authority is None:
            authority = Authority.make(
                f"atoll, {self.folder.parent.parent.name} on this machine", now, _AUTHORITY_LIFETIME, _ONLY
            )
            authority.pair.save(self.ca, self.ca_key)
            self.certificate.unlink(missing_ok=True)
        if not self._holds(now):
            authority.issue(NAMES, "server", now, _LIFETIME).save(self.certificate, self.key)
        write_private(self.trusted, authority.pair.chain + _others(variables))

    def _holds(self, now: datetime) -> bool:
        from atoll.certificates.pair import Pair

        with suppress(SystemMistake):
            return Pair.read(self.certificate, self.key, now).ends - now > _RENEWED_BEFORE_END
        return False


def files(spec: TlsSpec, local: LocalTls) -> tuple[Path, Path]:
    """Certificate and key."""
    if spec.certificate is None or spec.key is None:
        return local.certificate, local.key
    return spec.certificate, spec.key


def check(spec: GatewaySpec, now: datetime) -> Pair | None:
    """The manifest's pair, if it names one. Raises SystemMistake with the manifest's line, the file and the reason."""
    if spec.tls is None or spec.tls.certificate is None or spec.tls.key is None:
        return None
    from atoll.certificates.pair import Pair

    return Pair.read(spec.tls.certificate, spec.tls.key, now, spec.tls.where)


async def renew_for_ever(local: LocalTls, variables: Mapping[str, str]) -> None:
    """While the system runs; the gateway's controller finds the new files. A full disk is tried again."""
    while True:
        await asyncio.sleep(_LOOK_S)
        with suppress(OSError):
            local.renew(datetime.now(UTC), variables)


def _kept(ca: Path, key: Path, now: datetime) -> Authority | None:
    """None when it is not there, or of no use any more."""
    from atoll.certificates.authority import Authority
    from atoll.certificates.pair import Pair

    with suppress(SystemMistake, OSError):
        pair = Pair.parse(ca.read_bytes(), key.read_bytes())
        return Authority(pair) if pair.ends - now > _LIFETIME else None
    return None


def _others(variables: Mapping[str, str]) -> bytes:
    """The authorities that programs of this machine trust: those of SSL_CERT_FILE, else OpenSSL's."""
    default = variables.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    with suppress(OSError):
        return b"\n" + Path(default).read_bytes() if default else b""
    return b""
