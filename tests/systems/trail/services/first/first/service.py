"""Begins a trail, and hears of its end."""

from msgspec import Struct

from atoll import Delivery, Event, Service
from atoll.sqlite import Transaction


class Step(Struct):
    name: str
    traceparent: str = ""


class StepTaken(Event, name="step_taken", key="name"):
    name: str


class StepSeen(Struct):
    name: str


service = Service("first", database="sqlite", publishes=[StepTaken])


@service.post("/first/steps", public=True)
async def take(step: Step, tx: Transaction) -> None:
    await tx.publish(StepTaken(name=step.name))


@service.on("last.step_seen")
async def hear(event: StepSeen, delivery: Delivery, tx: Transaction) -> None:
    await tx.execute("INSERT INTO step (name, traceparent) VALUES ($1, $2)", event.name, delivery.traceparent)


@service.get("/first/steps", public=True)
async def steps(tx: Transaction) -> list[Step]:
    return await tx.all(Step, "SELECT name, traceparent FROM step")
