"""A service whose POST can be sent again, on any kind of database: `python -m tests.support.repeated KIND URL` asks it once."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx
import msgspec

from atoll import Conflict, Principal, Service
from atoll.database import mongodb, postgresql, sqlite
from tests.support.kinds import Kind, Told, kind_of
from tests.support.services import bearer, serving

__all__ = ["Gate", "service_on"]


class NewOrder(msgspec.Struct):
    sku: str
    n: int


class Order(msgspec.Struct):
    sku: str
    n: int
    by: str
    number: int


class Gate:
    """Where a handler waits while it is closed."""

    def __init__(self, *, closed: bool = False) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        if not closed:
            self.opened.set()


def service_on(kind: Kind, gate: Gate) -> Service:
    """It inserts a row, publishes an event, and refuses a 13."""
    number = iter(range(1, 1_000_000))

    async def place(order: NewOrder, me: Principal, tx: Any, gift: int = 0) -> Order:
        gate.reached.set()
        await gate.opened.wait()
        await kind.insert(tx, order.sku, order.n)
        await tx.publish(Told(order.sku, order.n))
        if order.n == 13:
            raise Conflict("not thirteen")
        return Order(order.sku, order.n, me.id, next(number))

    service = Service("orders", database=kind.engine)  # type: ignore[arg-type]  # a test's parameter
    place.__annotations__["tx"] = _transaction(kind)
    service.post("/orders")(place)
    return service


def _transaction(kind: Kind) -> type[Any]:
    if kind.name == "sqlalchemy":
        from atoll.database import sqlalchemy

        return sqlalchemy.Session
    found: dict[str, type[Any]] = {
        "sqlite": sqlite.Transaction,
        "postgresql": postgresql.Transaction,
        "mongodb": mongodb.Transaction,
    }
    return found[kind.name]


async def main(name: str, url: str) -> None:
    kind = kind_of(name, url)
    database = kind.database()
    await database.open()
    async with serving(service_on(kind, Gate()), database) as client:
        answer = await client.post("/orders", json={"sku": "mug", "n": 1}, headers={"idempotency-key": "k1", **bearer("alice")})
        assert isinstance(answer, httpx.Response)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
