"""Where the bus is, as whom to enter, and how to be sure that it is the bus: what a bus URL says."""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterable
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from atoll.bus import nkeys
from atoll.errors import BusOutage, SystemMistake

__all__ = ["Endpoint", "Server", "Servers"]

PORT = 4222
_HINT = "nats://user:password@host:port, or tls://…; several servers are separated by commas"


class Server(msgspec.Struct, frozen=True):
    """One server of the bus. `name` is what its certificate must be for."""

    host: str
    port: int
    name: str = ""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Endpoint(msgspec.Struct, frozen=True):
    """`authorities` is the file of those who may vouch for the bus; without one it is whom this machine trusts."""

    servers: tuple[Server, ...]
    user: str = ""
    password: str = ""
    tls: bool = False
    authorities: str = ""

    @classmethod
    def parse(cls, url: str, authorities: str = "") -> Endpoint:
        """`nats://user:password@host:port` or `tls://…`; several with commas. Raises SystemMistake, also for the file."""
        scheme = urlsplit(url).scheme
        parts = [_part(one, scheme) for one in url.split(",")]
        entering = next((one for one in parts if one.username), parts[0])
        if len({one.scheme for one in parts}) > 1:
            raise SystemMistake(
                "a bus URL has servers with TLS and servers without", hint="tls:// for all of them, or for none"
            )
        found = cls(
            servers=tuple(Server(one.hostname or "", one.port or PORT, one.hostname or "") for one in parts),
            user=unquote(entering.username or ""),
            password=unquote(entering.password or ""),
            tls=scheme == "tls",
            authorities=authorities,
        )
        if found.tls:
            found.trust()
        return found

    def proof(self, nonce: str) -> dict[str, str]:
        """That it is this user: name and password; or, where that is an nkey's seed, a signature, and the seed stays here."""
        if nkeys.is_seed(self.password):
            return {"nkey": nkeys.public(self.password), "sig": nkeys.signature(self.password, nonce)}
        return {"user": self.user, "pass": self.password} if self.user else {}

    def trust(self) -> ssl.SSLContext:
        """Whom to believe that it is the bus: read anew each time, so that a changed file counts. Raises SystemMistake."""
        try:
            return ssl.create_default_context(cafile=self.authorities or None)
        except OSError as error:
            reason = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no certificate"
            raise SystemMistake(
                f"ATOLL_BUS_CA names {self.authorities}, which can't be used: {reason}",
                hint="it is a PEM file with the authority that made the bus's certificate",
            ) from None


def _part(text: str, scheme: str) -> SplitResult:
    """One server of a URL. Those after the first may leave out the scheme."""
    try:
        found = urlsplit(text if "://" in text else f"{scheme}://{text}")
        if found.scheme in ("nats", "tls") and found.hostname and (found.port or PORT):
            return found
    except ValueError:
        pass
    raise SystemMistake(f"{scheme or 'this'} is not a bus URL", hint=_HINT)


class Servers:
    """Which server to try next: those that were named, and those that a server told of."""

    def __init__(self, named: Iterable[Server]) -> None:
        self._named = list(named)
        self._told: list[Server] = []
        self._last: Server | None = None

    @property
    def several(self) -> bool:
        return len(self._named) + len(self._told) > 1

    def learn(self, addresses: Iterable[str]) -> None:
        """`connect_urls`, as a server tells them. One that is no name must show a certificate for the name we know."""
        told = []
        for address in addresses:
            try:
                parts = urlsplit(f"nats://{address}")
                server = Server(parts.hostname or "", parts.port or PORT, _name(parts.hostname or "", self._named[0].name))
            except ValueError:
                continue
            if not any((known.host, known.port) == (server.host, server.port) for known in self._named):
                told.append(server)
        self._told = told

    def round(self) -> list[Server]:
        """All of them once, in an order by chance so that clients spread; the one that was tried last comes last."""
        found = [*self._named, *self._told]
        random.shuffle(found)
        return sorted(found, key=lambda server: server == self._last)

    def took(self, server: Server) -> None:
        self._last = server


def _name(host: str, known: str) -> str:
    return known if ":" in host or host.replace(".", "").isdigit() else host


def explained(error: ssl.SSLError, server: Server) -> BusOutage:
    """Why there is no TLS with this server, in words that say what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if "ostname mismatch" in error.verify_message or "IP address mismatch" in error.verify_message:
            return BusOutage(
                f"the bus at {server} shows a certificate that is not for {server.name}",
                hint="the host in the bus URL must be a name in the certificate",
            )
        return BusOutage(
            f"the bus at {server} shows a certificate that can't be trusted: {error.verify_message}",
            hint="ATOLL_BUS_CA names the file of the authority that made it",
        )
    return BusOutage(f"no TLS with the bus at {server}: {error.reason or error}")
