"""What the controller is told by its environment."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from atoll.errors import SystemMistake
from atoll.gateway.ir import Endpoint, Listener, Tls, Upstream
from atoll.gateway.secrets import Origin

__all__ = ["Environment"]


@dataclass(frozen=True, slots=True)
class Environment:
    """Read once, at start. `name` tells one gateway from another; the same for every controller of one Envoy."""

    bus_url: str
    root: Path
    listener: Listener
    admin: Endpoint
    name: str
    origins: tuple[Origin, ...] = ()
    bus_ca: str = ""

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Environment:
        """From ATOLL_BUS_URL, ATOLL_GATEWAY_DIR, ATOLL_GATEWAY_PORT, ATOLL_ENVOY_ADMIN (host:port) and, optionally,
        ATOLL_BUS_CA, ATOLL_GATEWAY_HOST (127.0.0.1), ATOLL_GATEWAY_NAME (host name and port), ATOLL_GATEWAY_INSIDE_PORT,
        ATOLL_MIRROR_ADDRESS (host:port of the process that compares answers) and what docs/reference/environment.md says of
        TLS.

        Raises SystemMistake that names what is missing or wrong.
        """
        try:
            return cls(
                bus_url=env["ATOLL_BUS_URL"],
                root=Path(env["ATOLL_GATEWAY_DIR"]).absolute(),
                listener=_listener(env),
                admin=Endpoint.parse(env["ATOLL_ENVOY_ADMIN"]),
                name=_key(env.get("ATOLL_GATEWAY_NAME") or f"{socket.gethostname()}-{env['ATOLL_GATEWAY_PORT']}"),
                origins=_origins(env),
                bus_ca=env.get("ATOLL_BUS_CA", ""),
            )
        except KeyError as missing:
            raise SystemMistake(f"{missing.args[0]} is not set", hint="`atoll up` sets it") from None
        except ValueError as error:
            raise SystemMistake(
                f"a port of the gateway's environment, ATOLL_ENVOY_ADMIN or ATOLL_MIRROR_ADDRESS: {error}"
            ) from None


def _listener(env: Mapping[str, str]) -> Listener:
    host, port = env.get("ATOLL_GATEWAY_HOST", "127.0.0.1"), int(env["ATOLL_GATEWAY_PORT"])
    comparer, inside = env.get("ATOLL_MIRROR_ADDRESS"), env.get("ATOLL_GATEWAY_INSIDE_PORT")
    at = Endpoint.parse(comparer) if comparer else None
    made = Listener(host, port, tls=_tls(env), upstream=_upstream(env), comparer=at)
    return replace(made, inside_port=int(inside)) if inside else made


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
