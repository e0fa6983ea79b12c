"""Sees every step and says so."""

import logging

from msgspec import Struct

from atoll import Delivery, Event, Service
from atoll.sqlite import Transaction

_log = logging.getLogger("last")


class StepTaken(Struct):
    name: str


class StepSeen(Event, name="step_seen", key="name"):
    name: str


class Step(Struct):
    name: str
    traceparent: str


service = Service("last", database="sqlite", publishes=[StepSeen])


@service.on("first.step_taken")
async def see(event: StepTaken, delivery: Delivery, tx: Transaction) -> None:
    _log.info("saw %s", event.name)
    await tx.execute("INSERT INTO step (name, traceparent) VALUES ($1, $2)", event.name, delivery.traceparent)
    await tx.publish(StepSeen(name=event.name))


@service.get("/last/steps", public=True)
async def steps(tx: Transaction) -> list[Step]:
    return await tx.all(Step, "SELECT name, traceparent FROM step")
