"""Passwords and client secrets: argon2id (RFC 9106), off the event loop, a bounded number at a time."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from atoll.errors import Refused

__all__ = ["Busy", "Passwords"]

# OWASP's first choice for argon2id: 19 MiB, two passes, one lane. Each running hash holds that much memory, hence the bounds.
_MEMORY_KIB = 19_456
_PASSES = 2
_LANES = 1
_AT_ONCE = 2
_WAITING_MAX = 64

T = TypeVar("T")


def _nobodys() -> str:
    """A hash of the usual cost that no password fits."""
    salt, digest = (base64.b64encode(os.urandom(size)).rstrip(b"=").decode() for size in (16, 32))
    return f"$argon2id$v=19$m={_MEMORY_KIB},t={_PASSES},p={_LANES}${salt}${digest}"


class Busy(Refused, status=503, code="busy"):
    """More passwords wait to be checked than can be in time."""

    def __init__(self) -> None:
        super().__init__(hint="try again in a few seconds")


class Passwords:
    """Hashes and verifies. `close` when done: it holds threads. Raises Busy when more wait than can be in time."""

    def __init__(self, at_once: int = _AT_ONCE, waiting_max: int = _WAITING_MAX) -> None:
        from argon2 import PasswordHasher

        self._hasher = PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=_LANES)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="argon2")
        self._waiting = 0
        self._waiting_max = waiting_max

    async def hash(self, password: str) -> str:
        """The encoded hash with its salt and cost."""
        return await self._in_thread(partial(self._hasher.hash, password))

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether it fits. Without a hash the answer is False after the same work, so that time tells no usernames."""
        fits = await self._in_thread(partial(self._fits, encoded or _nobodys(), password))
        return fits and encoded is not None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fits(self, encoded: str, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            return self._hasher.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._waiting >= self._waiting_max:
            raise Busy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
