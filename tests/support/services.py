"""A service's HTTP side in this process, without engines: tokens say who calls, `alice|orders:read orders:write`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from atoll.errors import Unauthorized
from atoll.service.handlers import run_hooks
from atoll.service.http import build_app
from atoll.service.injection import Injector
from atoll.service.principal import Principal
from atoll.service.service import Service
from atoll.service.settings import Sources


def verify(token: str) -> Principal:
    """The stand-in for auth's keys: what comes before the bar is who calls, what comes after are the scopes."""
    if token == "expired":
        raise Unauthorized("the token has expired")
    who, _, scopes = token.partition("|")
    return Principal(who, frozenset(scopes.split()))


def bearer(who: str = "alice", *scopes: str) -> dict[str, str]:
    return {"authorization": f"Bearer {who}|{' '.join(scopes)}"}


@asynccontextmanager
async def serving(service: Service, database: Any = None, sources: Sources | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `service`, started and stopped as its process does."""
    injector = Injector(service, database=database, sources=sources)
    app: Any = build_app(service, database=database, verify=verify, injector=injector)
    await injector.start()
    await run_hooks(service.start_hooks, injector)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        yield client
    await run_hooks(service.stop_hooks, injector)
    await injector.close()
