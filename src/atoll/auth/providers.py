"""Keeps the keys of other issuers, and tells gateway and services which of their tokens are good and what they are worth.

The last good keys stay when an issuer can't be reached; nothing here waits for one. Everybody else hears of them over the bus:
there is one source, and nobody's start or request depends on somebody else's server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

import msgspec

from atoll.auth.configuration import Configuration, TrustedProvider
from atoll.auth.discovery import fetch
from atoll.auth.publication import acknowledged
from atoll.auth.sql import Transaction
from atoll.database.ports import Database
from atoll.errors import AtollError
from atoll.service.events import Event
from atoll.tokens.providers import ForeignKey, Provider

__all__ = ["PROVIDERS_SUBJECT", "ProviderKeys", "ProvidersPublished"]

PROVIDERS_SUBJECT = "keys.providers"
_REPEAT_EVERY_S = 60.0
_AFTER_FAILURE_S = 5.0
_log = logging.getLogger("atoll.auth")


class ProvidersPublished(Event, name="providers_published", key="version", subject=PROVIDERS_SUBJECT):
    """All of them with their keys, as `tokens.providers.Providers` reads it: whoever is not in it is trusted no more."""

    providers: list[Provider]
    version: int


class _Row(msgspec.Struct, frozen=True):
    name: str
    issuer: str
    jwks: str


class _List(msgspec.Struct, frozen=True):
    version: int
    body: str


class ProviderKeys:
    """`start` before use, `close` after. Without any provider nothing runs."""

    def __init__(self, database: Database, configuration: Configuration) -> None:
        self._database = database
        self._trusted: Mapping[str, TrustedProvider] = configuration.providers
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Publishes what the manifest says now, with the keys that were good last; then goes and asks for new ones."""
        await self._publish(repeat=True)
        self._tasks = [
            asyncio.create_task(self._follow(name, provider), name=f"auth keys of {name}")
            for name, provider in self._trusted.items()
        ]
        if self._trusted:
            self._tasks.append(asyncio.create_task(self._repeat(), name="auth providers"))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, name: str, provider: TrustedProvider) -> None:
        complained = ""
        while True:
            try:
                await self._take(name, provider, await asyncio.to_thread(fetch, provider))
                pause_s, complained = float(provider.fetch_every_s), ""
            except AtollError as error:
                pause_s = min(_AFTER_FAILURE_S, provider.fetch_every_s)
                if str(error) != complained:
                    _log.warning("the keys of %s stay what they were: %s", name, error)
                complained = str(error)
            except Exception:
                pause_s = min(_AFTER_FAILURE_S, provider.fetch_every_s)
                _log.exception("the keys of %s can't be kept", name)
            await asyncio.sleep(pause_s)

    async def _take(self, name: str, provider: TrustedProvider, keys: tuple[ForeignKey, ...]) -> None:
        if not keys:
            _log.warning("%s publishes no key that can be used: none of its tokens is taken", name)
        jwks = msgspec.json.encode(keys, order="deterministic").decode()
        async with self._database.transaction() as tx:
            await tx.execute(
                "INSERT INTO provider_keys (name, issuer, jwks, fetched_at) VALUES ($1, $2, $3, $4) ON CONFLICT (name)"
                " DO UPDATE SET issuer = excluded.issuer, jwks = excluded.jwks, fetched_at = excluded.fetched_at",
                *(name, provider.issuer, jwks, int(time.time())),
            )
        await self._publish()

    async def _repeat(self) -> None:
        """For a bus that lost its store."""
        while True:
            await asyncio.sleep(_REPEAT_EVERY_S)
            try:
                if await acknowledged(self._database, PROVIDERS_SUBJECT):
                    await self._publish(repeat=True)
            except AtollError as error:
                _log.warning("the providers wait: %s", error)

    async def _publish(self, *, repeat: bool = False) -> None:
        """A newer list when it changed; the same once more when asked to. A system that never had any publishes nothing."""
        async with self._database.transaction() as tx:
            await tx.execute("UPDATE provider_list SET version = version WHERE id = 1")  # takes the lock
            last = await tx.one(_List, "SELECT version, body FROM provider_list WHERE id = 1")
            providers = self._providers(await _keys(tx))
            body = msgspec.json.encode(providers, order="deterministic").decode()
            changed = body != last.body
            if not changed and not (repeat and last.version):
                return
            version = max(last.version + 1, time.time_ns() // 1_000_000) if changed else last.version
            await tx.execute("UPDATE provider_list SET version = $1, body = $2 WHERE id = 1", version, body)
            await tx.publish(ProvidersPublished(providers=providers, version=version))

    def _providers(self, rows: Mapping[str, _Row]) -> list[Provider]:
        found = []
        for name, trusted in sorted(self._trusted.items()):
            row = rows.get(name)
            known = row is not None and row.issuer == trusted.issuer
            keys = msgspec.json.decode(row.jwks, type=tuple[ForeignKey, ...]) if row and known else ()
            found.append(Provider(name, trusted.issuer, trusted.audience, trusted.scope_claim, trusted.grants, keys))
        return found


async def _keys(tx: Transaction) -> dict[str, _Row]:
    return {row.name: row for row in await tx.all(_Row, "SELECT name, issuer, jwks FROM provider_keys")}
