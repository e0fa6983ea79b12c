"""`atoll wait`: for what has to be there first, and for one's own health. It imports little: it is run every few seconds."""

from __future__ import annotations

import math
import os
import socket
import time
from urllib.parse import urlsplit

import click

from atoll.errors import EngineOutage, SystemMistake

__all__ = ["command"]

_PAUSE_S = 0.1
_LOOK_S = 1.0
_ASK_S = 2.0
_LONGEST_S = 86400.0
_VARIABLES = {"bus": "ATOLL_BUS_URL", "database": "ATOLL_DATABASE_URL"}
_BUS = ("nats", "tls")
_PORTS = {"http": 80, "nats": 4222, "tls": 4222, "postgresql": 5432, "mongodb": 27017}


def _ending(_ctx: click.Context, _parameter: click.Parameter, seconds: float) -> float:
    """ "nan" is a number too, and no time is after it."""
    if math.isnan(seconds):
        raise click.BadParameter("'nan' is not a time")
    return seconds


@click.command()
@click.argument("what", metavar="health|bus|database|schema|URL")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(0, _LONGEST_S),
    callback=_ending,
    default=60.0,
    show_default=True,
    help="When it gives up.",
)
def command(what: str, timeout_s: float) -> None:
    """Wait until something answers, or end with an error that says what did not.

    `health` is this process's own container, `bus` and `database` are what ATOLL_BUS_URL and ATOLL_DATABASE_URL name. An http
    URL must answer 200, a bus must greet (one of its servers), anything else must take a connection. `schema` is that database
    with every migration applied that this service's code has.
    """
    url = "" if what == "schema" else _url(what)
    end = time.monotonic() + timeout_s
    while fault := _fault(url) if url else _unmigrated():
        if time.monotonic() >= end:
            raise EngineOutage(f"{_shown(url) if url else 'the schema is not there'} after {timeout_s:g} s: {fault}")
        time.sleep(min(_PAUSE_S if url else _LOOK_S, max(0.0, end - time.monotonic())))


def _unmigrated() -> str:
    """What is still to be applied, or why that can't be told; "" when nothing is. Raises SystemMistake."""
    import asyncio

    from atoll.errors import DatabaseOutage
    from atoll.service.migrate import pending
    from atoll.system.auth import AUTH_MODULE
    from atoll.system.plan import AUTH

    name = os.environ.get("ATOLL_SERVICE", "")
    if not name:
        raise SystemMistake("ATOLL_SERVICE is not set", hint="`atoll wait schema` runs where the service would: its code tells")
    try:
        waiting = asyncio.run(pending(AUTH_MODULE if name == AUTH else ""))
    except DatabaseOutage as outage:
        return str(outage)
    return f"{name} waits for {', '.join(waiting)}" if waiting else ""


def _url(what: str) -> str:
    if what == "health":
        return _own_health()
    if what in _VARIABLES:
        from atoll.system.variables import with_files

        name = _VARIABLES[what]
        if not (found := with_files(os.environ).get(name)):
            raise SystemMistake(f"{name} is not set", hint=f"`atoll wait {what}` waits for what it names")
        what = found
    if _scheme(what) not in {*_PORTS, "tcp"}:
        raise SystemMistake(f"{what!r} can't be waited for", hint=f"{', '.join([*_PORTS, 'tcp'])}:// and host:port")
    return what


def _own_health() -> str:
    """Where a service or a gateway says that it is ready."""
    if listen := os.environ.get("ATOLL_LISTEN"):
        return f"http://127.0.0.1:{listen.rpartition(':')[2]}/health/ready"
    if admin := os.environ.get("ATOLL_ENVOY_ADMIN"):
        return f"http://{admin}/ready"
    raise SystemMistake(
        "this process has no health of its own", hint="`atoll wait health` runs beside a service or a gateway: ATOLL_LISTEN"
    )


def _fault(url: str) -> str:
    """Why it is not there; "" when it is. Of a bus, one server is enough: it greets in the clear, before TLS."""
    if _scheme(url) in _BUS and "," in url:
        faults = [_fault(one if "://" in one else f"nats://{one}") for one in url.split(",")]
        return "" if "" in faults else faults[0]
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0))
        with socket.create_connection(address, _ASK_S) as connection:
            connection.settimeout(_ASK_S)
            if parts.scheme == "http":
                return _asked(connection, parts.path or "/")
            greeted = parts.scheme not in _BUS or connection.recv(5) == b"INFO "
            return "" if greeted else "it is no bus"
    except OSError as error:
        return str(error) or type(error).__name__


def _asked(connection: socket.socket, path: str) -> str:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    with connection.makefile("rb") as answer:
        status = answer.readline().split()
    return "" if status[1:2] == [b"200"] else f"it answers {status[1].decode() if status[1:] else 'nothing'}"


def _scheme(url: str) -> str:
    return urlsplit(url.partition(",")[0]).scheme


def _shown(url: str) -> str:
    """Without a password."""
    parts = urlsplit(url.partition(",")[0])
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS.get(parts.scheme, 0)} does not answer"
