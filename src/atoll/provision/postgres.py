"""A PostgreSQL server made ready for services: the superuser's own password, and one role and database per service.

A service's role owns the database of its own name and may connect to no other. Everything here may be repeated, also after
a crash half-way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from atoll.engines import postgres as engine
from atoll.errors import EngineOutage

if TYPE_CHECKING:
    import asyncpg

__all__ = ["Server", "provision", "socket_url", "url"]


@dataclass(frozen=True, slots=True)
class Server:
    """A server of ours that listens on loopback, and the password its superuser has or shall have."""

    settings: engine.Settings
    password: str


def url(port: int, service: str, password: str) -> str:
    """What the service `service` connects with, over TCP."""
    return f"postgresql://{_escaped(service)}:{_escaped(password)}@127.0.0.1:{port}/{_escaped(service)}"


def socket_url(settings: engine.Settings, service: str, password: str) -> str:
    """The same over the Unix socket, a quarter cheaper per round trip; over TCP where its path would be too long."""
    place = engine.socket_folder(settings)
    if place is None:
        return url(settings.port, service, password)
    return f"postgresql://{_escaped(service)}:{_escaped(password)}@/{_escaped(service)}?host={_escaped(str(place))}&port={settings.port}"


async def provision(server: Server, services: Mapping[str, str]) -> None:
    """Every service in `services` (name → password) has its role and its database when this returns.

    Idempotent. Raises EngineOutage: it does not answer, or its superuser has another password.
    """
    import asyncpg

    try:
        async with _superuser(server) as admin:
            for name, password in services.items():
                await _ensure_role(admin, name, password, server.settings.port)
                await _ensure_database(admin, name)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise EngineOutage(f"PostgreSQL on port {server.settings.port} can't be provisioned: {error}") from error


@asynccontextmanager
async def _superuser(server: Server) -> AsyncIterator[asyncpg.Connection[Any]]:
    import asyncpg

    try:
        connection = await _connect(server.settings.port, engine.SUPERUSER, server.password)
    except asyncpg.InvalidPasswordError:
        connection = await _take_over(server)
    try:
        yield connection
    finally:
        await connection.close(timeout=2.0)


async def _take_over(server: Server) -> asyncpg.Connection[Any]:
    """A new cluster still has the template's password: give it its own."""
    import asyncpg

    try:
        connection = await _connect(server.settings.port, engine.SUPERUSER, engine.initial_password(server.settings))
    except asyncpg.InvalidPasswordError:
        raise EngineOutage(
            f"PostgreSQL on port {server.settings.port} has a superuser with another password",
            hint="its data folder belongs to other secrets: restore `.atoll/secrets.json`, or remove the data folder",
        ) from None
    await connection.execute(f"ALTER ROLE {_name(engine.SUPERUSER)} PASSWORD {_text(server.password)}")
    await connection.execute("REVOKE ALL ON DATABASE postgres FROM PUBLIC")
    engine.forget_initial_password(server.settings)
    return connection


async def _ensure_role(admin: asyncpg.Connection[Any], name: str, password: str, port: int) -> None:
    if not await admin.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", name):
        await admin.execute(f"CREATE ROLE {_name(name)} LOGIN PASSWORD {_text(password)}")
    elif not await _may_sign_in(name, password, port):
        await admin.execute(f"ALTER ROLE {_name(name)} LOGIN PASSWORD {_text(password)}")


async def _ensure_database(admin: asyncpg.Connection[Any], name: str) -> None:
    if not await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
        await admin.execute(f"CREATE DATABASE {_name(name)} OWNER {_name(name)}")
    await admin.execute(f"REVOKE ALL ON DATABASE {_name(name)} FROM PUBLIC")


async def _may_sign_in(name: str, password: str, port: int) -> bool:
    """A role whose database isn't there yet signs in too: the server says so after it has taken the password."""
    import asyncpg

    try:
        connection = await _connect(port, name, password, name)
    except asyncpg.InvalidPasswordError:
        return False
    except asyncpg.InvalidCatalogNameError:
        return True
    await connection.close(timeout=2.0)
    return True


async def _connect(port: int, user: str, password: str, database: str = "postgres") -> asyncpg.Connection[Any]:
    import asyncpg

    return await asyncpg.connect(
        host="127.0.0.1", port=port, user=user, password=password, database=database, timeout=5.0, ssl=False
    )


def _escaped(text: str) -> str:
    """As a part of a URL."""
    return quote(text, safe="")


def _name(text: str) -> str:
    """A quoted identifier: roles and databases can't be parameters."""
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    """A quoted literal, for the same reason."""
    return "'" + text.replace("'", "''") + "'"
