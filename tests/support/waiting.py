"""Wait for a condition instead of for time."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, overload

_PAUSE_S = 0.01
T = TypeVar("T")


@overload
async def until(condition: Callable[[], Awaitable[T]], timeout_s: float = 10.0, what: str = "") -> T: ...
@overload
async def until(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "") -> T: ...
async def until(condition: Callable[[], T | Awaitable[T]], timeout_s: float = 10.0, what: str = "") -> T:
    """The first truthy value of `condition`, which may be a coroutine function. Fails the test after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return cast(T, value)
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what or inspect.getsource(condition).strip()}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), _PAUSE_S)


def until_sync(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "") -> T:
    """The same for tests without an event loop."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what or inspect.getsource(condition).strip()}")
        threading.Event().wait(_PAUSE_S)
    return value
