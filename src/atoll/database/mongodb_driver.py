"""What pymongo's errors mean to a handler, and one thing of it that must be watched: cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from atoll.errors import Conflict, DatabaseOutage

__all__ = ["WriteConflict", "answered", "conflict", "may_repeat", "outage", "outages", "whole"]

P = ParamSpec("P")
T = TypeVar("T")

_CONFLICTS = frozenset((24, 112, 246, 251))  # LockTimeout, WriteConflict, SnapshotUnavailable, NoSuchTransaction


class WriteConflict(DatabaseOutage):
    """Another transaction wrote the same document first. Begin with the write, and MongoDB is waited for instead."""

    code = "write_conflict"


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """`work` to its end, and only then the cancellation that came meanwhile.

    pymongo does not take one well: cancelled while it connects, it leaves a socket open; and it sends under asyncio.wait_for,
    which before Python 3.12 forgets a cancellation that arrives together with the result (python/cpython#86296), so that a
    task which was told to stop goes on for ever. Everything it does ends within its own time limit.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen, so that nobody complains
        raise


def answered(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A method that asks the server: it runs to its end, and the driver's errors are raised as ours."""

    @wraps(method)
    async def call(*args: P.args, **options: P.kwargs) -> T:
        with outages():
            return await whole(method(*args, **options))

    return call


@contextmanager
def outages() -> Iterator[None]:
    """The driver's errors as ours; what the statement itself is to blame for stays what it is."""
    from pymongo.errors import PyMongoError

    try:
        yield
    except PyMongoError as error:
        raise outage(error) or error from error


def outage(error: Exception) -> Exception | None:
    """What a driver's error means to a handler; None when it is the statement's own fault."""
    from pymongo import errors

    match error:
        case errors.DuplicateKeyError():
            fields = ", ".join((error.details or {}).get("keyPattern", {})) or "key"
            return Conflict(f"there is already one with this {fields}")
        case errors.OperationFailure(code=13 | 18):
            return DatabaseOutage(f"MongoDB refuses the credentials: {error._message}")
        case errors.OperationFailure() if _is_conflict(error):
            return conflict()
        case errors.ConnectionFailure() | errors.ExecutionTimeout() | errors.WTimeoutError() | errors.WaitQueueTimeoutError():
            return DatabaseOutage(f"MongoDB does not answer: {_brief(error)}")
        case errors.PyMongoError() if error.timeout:
            return DatabaseOutage(f"MongoDB did not answer in time: {_brief(error)}")
    return None


def _is_conflict(error: Exception) -> bool:
    code = getattr(error, "code", None)
    return code in _CONFLICTS or bool(getattr(error, "has_error_label", lambda _: False)("TransientTransactionError"))


def may_repeat(error: Exception) -> bool:
    """A conflict, or a connection that died in the pool; not a server that is gone."""
    from pymongo.errors import ConnectionFailure, ServerSelectionTimeoutError

    if isinstance(error, ConnectionFailure):
        return not isinstance(error, ServerSelectionTimeoutError)
    return _is_conflict(error)


def conflict() -> WriteConflict:
    return WriteConflict("the same document was changed by another request", hint="try again")


def _brief(error: Exception) -> str:
    return str(error).partition(", Timeout:")[0].partition(", full error:")[0]
