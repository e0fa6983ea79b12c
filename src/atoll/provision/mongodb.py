"""A MongoDB server made ready for services: replica set, administrator, and one user per service.

A service's user has `readWrite` on the database of its own name and on nothing else, and is kept in that database, so that
`authSource` is its own name too. Everything here may be repeated, also after a crash half-way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atoll.engines.mongodb import REPLICA_SET, Standing, standing
from atoll.errors import EngineOutage

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient

__all__ = ["Server", "provision", "url"]

_ADMINISTRATOR = "atoll"
_MECHANISMS = ["SCRAM-SHA-256"]
_REFUSED = frozenset((13, 18))  # Unauthorized, AuthenticationFailed
_NO_CONFIGURATION = 94
_ALREADY_INITIATED = 23
_USER_EXISTS = 51003
_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Server:
    """A mongod that listens on loopback, and the password its administrator has or shall have."""

    port: int
    password: str

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def url(port: int, service: str, password: str) -> str:
    """What the service `service` connects with."""
    return f"mongodb://{service}:{password}@127.0.0.1:{port}/{service}?replicaSet={REPLICA_SET}&authSource={service}"


async def provision(server: Server, services: Mapping[str, str], timeout_s: float = 20.0) -> None:
    """Every service in `services` (name → password) has its user when this returns, and the server is writable.

    The first call uses MongoDB's localhost exception: as long as there is no user, loopback may make the first one.
    Idempotent. Raises EngineOutage: it does not answer, or its administrator has another password.
    """
    from pymongo.errors import PyMongoError

    await _wait(server, "listening", timeout_s)
    try:
        if not await _make_users(server, services, timeout_s):
            await _initiate(server, timeout_s)
            await _make_users(server, services, timeout_s)
    except PyMongoError as error:
        raise EngineOutage(f"MongoDB on port {server.port} can't be provisioned: {error}") from error


async def _make_users(server: Server, services: Mapping[str, str], timeout_s: float) -> bool:
    """Makes the users; False when the administrator can't sign in, because there is none yet (or it is another's)."""
    from pymongo.errors import OperationFailure

    async with _client(server, authorized=True) as admin:
        try:
            await admin.admin.command("ping")
        except OperationFailure as error:
            if error.code in _REFUSED:
                return False
            raise
        await _follow_port(admin, server)
        await _wait(server, "primary", timeout_s)
        for name, password in services.items():
            await _ensure_user(admin, name, password)
    return True


async def _initiate(server: Server, timeout_s: float) -> None:
    """Replica set and administrator, by the localhost exception; with authorization on, a stranger may do nothing else."""
    async with _client(server, authorized=False) as stranger:
        await _start_replica_set(stranger, server)
        await _wait(server, "primary", timeout_s)
    # a client that connected before the set was initiated believes that the server has no sessions
    async with _client(server, authorized=False) as stranger:
        await _make_administrator(stranger, server)


async def _wait(server: Server, wanted: Standing, timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while (now := await standing("127.0.0.1", server.port)) not in {wanted, "primary"}:
        if loop.time() > end:
            raise EngineOutage(f"MongoDB on port {server.port} is {now} after {timeout_s:g} s, not {wanted}")
        await asyncio.sleep(_PAUSE_S)


async def _start_replica_set(stranger: AsyncMongoClient[dict[str, Any]], server: Server) -> None:
    from pymongo.errors import OperationFailure

    member = {"_id": 0, "host": server.address}
    try:
        await stranger.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
    except OperationFailure as error:
        if error.code in _REFUSED:
            raise _foreign(server) from error
        if error.code != _ALREADY_INITIATED:  # a former call died between this and the administrator
            raise


async def _make_administrator(stranger: AsyncMongoClient[dict[str, Any]], server: Server) -> None:
    from pymongo.errors import OperationFailure

    try:
        await stranger.admin.command(
            "createUser",
            _ADMINISTRATOR,
            pwd=server.password,
            roles=[{"role": "root", "db": "admin"}],
            mechanisms=_MECHANISMS,
        )
    except OperationFailure as error:
        raise _foreign(server) if error.code in _REFUSED else error from error


async def _follow_port(admin: AsyncMongoClient[dict[str, Any]], server: Server) -> None:
    """A set of one whose address changed elects nobody: it must be told its new address, by force (no primary can agree)."""
    from pymongo.errors import OperationFailure

    try:
        config = (await admin.admin.command("replSetGetConfig"))["config"]
    except OperationFailure as error:
        if error.code != _NO_CONFIGURATION:
            raise
        await _start_replica_set(admin, server)
        return
    if config["members"][0]["host"] == server.address:
        return
    member = {"_id": 0, "host": server.address}
    changed = {"_id": REPLICA_SET, "version": config["version"] + 1, "members": [member]}
    await admin.admin.command("replSetReconfig", changed, force=True)


async def _ensure_user(admin: AsyncMongoClient[dict[str, Any]], name: str, password: str) -> None:
    from pymongo.errors import OperationFailure

    rights: dict[str, Any] = {"pwd": password, "roles": [{"role": "readWrite", "db": name}], "mechanisms": _MECHANISMS}
    try:
        await admin[name].command("createUser", name, **rights)
    except OperationFailure as error:
        if error.code != _USER_EXISTS:
            raise
        if not await _may_sign_in(admin, name, password):
            await admin[name].command("updateUser", name, **rights)


async def _may_sign_in(admin: AsyncMongoClient[dict[str, Any]], name: str, password: str) -> bool:
    """Asked first, because changing a user throws out its connections, also of services that are running."""
    from pymongo import AsyncMongoClient
    from pymongo.errors import OperationFailure

    host, port = next(iter(admin.nodes))
    with contextlib.suppress(OperationFailure):
        async with AsyncMongoClient[dict[str, Any]](
            host, port, username=name, password=password, authSource=name, directConnection=True
        ) as client:
            await client[name].command("ping")
            return True
    return False


def _client(server: Server, *, authorized: bool) -> AsyncMongoClient[dict[str, Any]]:
    from pymongo import AsyncMongoClient

    credentials: dict[str, Any] = {"username": _ADMINISTRATOR, "password": server.password} if authorized else {}
    return AsyncMongoClient(
        "127.0.0.1", server.port, directConnection=True, serverSelectionTimeoutMS=5000, authSource="admin", **credentials
    )


def _foreign(server: Server) -> EngineOutage:
    return EngineOutage(
        f"MongoDB on port {server.port} has an administrator with another password",
        hint="its data folder belongs to other secrets: restore `.atoll/secrets.json`, or remove the data folder",
    )
