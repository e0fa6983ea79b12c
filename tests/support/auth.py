"""The auth service in this process: its real application on a real database, with the memory bus and a real relay."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import atoll.auth
from atoll.auth import service as auth_service
from atoll.auth.configuration import Account, Configuration
from atoll.bus.memory import Broker
from atoll.database import open_database
from atoll.database.ports import Database
from atoll.delivery.loops import Loops, Station
from atoll.service.handlers import run_hooks
from atoll.service.http import build_app
from atoll.service.injection import Injector
from atoll.service.principal import Principal
from atoll.tokens import Claims, KeySet, Revocations, Verifier
from tests.support.waiting import until

__all__ = ["AUDIENCE", "CONFIGURATION", "ISSUER", "RunningAuth", "auth", "auth_url", "claims_of", "kid_of", "running_auth"]

ISSUER, AUDIENCE = "http://localhost:8080/auth", "shop"
CONFIGURATION = Configuration(
    issuer=ISSUER,
    audience=AUDIENCE,
    default_scopes=("orders:read", "orders:write"),
    users={"ada": Account("correct horse", ("orders:read", "orders:write"))},
    clients={"batch": Account("its: secret", ("inventory:read", "inventory:write"))},
    operator_secret="known to whoever runs the system, and long",
)
_MIGRATIONS = Path(atoll.auth.__file__).parent / "migrations"


@dataclass
class RunningAuth:
    """Auth as clients see it (`http`), as the bus does (`broker`), and its database."""

    http: httpx.AsyncClient
    database: Database
    broker: Broker
    station: Station
    verifier: Verifier
    loops: Loops | None = field(default=None)

    async def connect(self) -> None:
        """The relay starts: what waits in the outbox is published and acknowledged."""
        self.loops = Loops(self.station, {})
        self.loops.start()
        await until(self._signs, what="auth signs tokens")

    async def _signs(self) -> bool:
        return (await self.refresh("made up")).status_code != 503

    @property
    def published_sets(self) -> list[KeySet]:
        return [KeySet.parse(message.body) for message in self.broker.messages("keys") if message.subject == "keys.set"]

    @property
    def published_revocations(self) -> Revocations:
        found = Revocations()
        for message in self.broker.messages("keys"):
            found = found.received(message.body) if message.subject.startswith("keys.revoked.") else found
        return found

    async def operator(self) -> dict[str, str]:
        """The headers of whoever runs the system."""
        secret = CONFIGURATION.operator_secret
        answer = await self.token(grant_type="client_credentials", client_id="operator", client_secret=secret)
        assert answer.status_code == 200, answer.text
        return {"authorization": f"Bearer {answer.json()['access_token']}"}

    async def token(self, headers: dict[str, str] | None = None, /, **form: str) -> httpx.Response:
        return await self.http.post("/auth/token", data=form, headers=headers)

    async def sign_in(self, username: str = "ada", password: str = "correct horse", **more: str) -> dict[str, Any]:
        """The token response of a sign-in that must work."""
        answer = await self.token(grant_type="password", username=username, password=password, **more)
        assert answer.status_code == 200, answer.text
        granted: dict[str, Any] = answer.json()
        return granted

    async def refresh(self, refresh_token: str, **more: str) -> httpx.Response:
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token, **more)

    def verified(self, token: str) -> Claims:
        """The claims, as a service sees them that has the last published key set."""
        self.verifier.update(self.published_sets[-1])
        self.verifier.refuse(self.published_revocations.sessions)
        return self.verifier.verify(token, time.time())


@contextlib.asynccontextmanager
async def running_auth(
    url: str, *, configuration: Configuration = CONFIGURATION, broker: Broker | None = None, connected: bool = True
) -> AsyncIterator[RunningAuth]:
    """Auth on the database at `url`. Not `connected`: nothing leaves the outbox until `connect`."""
    service = auth_service.auth(url.partition(":")[0])
    broker = broker or _broker()
    database, bus = open_database(url, service.encode), broker.bus()
    await database.open()
    await database.migrate(_MIGRATIONS)
    await bus.start()
    injector = Injector(service, database=database)
    verifier = Verifier(configuration.issuer, configuration.audience, KeySet())

    def verify(token: str) -> Principal:
        claims = running.verified(token)
        return Principal(claims.sub, claims.scopes, claims.sid)

    app = build_app(service, database=database, verify=verify, injector=injector)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://auth") as http:
        running = RunningAuth(http, database, broker, Station("auth", "auth-1", database, bus), verifier)
        with injector.override(Configuration, configuration):
            try:
                await injector.start()
                await run_hooks(service.start_hooks, injector)
                if connected:
                    await running.connect()
                yield running
            finally:
                if running.loops is not None:
                    await running.loops.stop()
                await injector.close()
                await bus.close()
                await database.close()


def _broker() -> Broker:
    broker = Broker()
    broker.add_stream("auth", "event.auth.>")
    broker.add_stream("keys", "keys.>")
    return broker


@pytest.fixture(params=["sqlite", "postgresql"])
def auth_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of its own, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/auth.sqlite"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
async def auth(auth_url: str) -> AsyncIterator[RunningAuth]:
    """Auth with `CONFIGURATION`, signing."""
    async with running_auth(auth_url) as running:
        yield running


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, unverified."""
    return _part(token, 1)


def kid_of(token: str) -> str:
    """The key that a token says it was signed with."""
    return str(_part(token, 0)["kid"])


def _part(token: str, number: int) -> dict[str, Any]:
    part = token.split(".")[number]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
