"""Files papers and copies each in two halves. Stands still at a gate, a named pipe, until somebody writes into it."""

import asyncio
from pathlib import Path

from msgspec import Struct

from atoll import Event, Service, Settings
from atoll.postgresql import Transaction


class ClerkSettings(Settings):
    gate: str


class Paper(Struct):
    name: str


class PaperFiled(Event, name="paper_filed", key="name"):
    name: str


service = Service("clerk", database="postgresql", publishes=[PaperFiled])


@service.post("/clerk/papers", public=True)
async def file(papers: list[Paper], tx: Transaction) -> None:
    for paper in papers:
        await tx.execute("INSERT INTO paper (name) VALUES ($1)", paper.name)
        await tx.publish(PaperFiled(name=paper.name))


@service.get("/clerk/papers", scope="clerk:read")
async def papers(tx: Transaction) -> list[Paper]:
    return await tx.all(Paper, "SELECT name FROM paper ORDER BY name")


@service.get("/clerk/gate", public=True)
async def pass_gate(settings: ClerkSettings) -> str:
    return await asyncio.to_thread(Path(settings.gate).read_text)


@service.on("clerk.paper_filed")
async def copy(event: PaperFiled, settings: ClerkSettings, tx: Transaction) -> None:
    await tx.execute("INSERT INTO copy (name, half) VALUES ($1, 'upper')", event.name)
    if event.name.startswith("slow"):
        await asyncio.to_thread(Path(settings.gate).read_text)
    await tx.execute("INSERT INTO copy (name, half) VALUES ($1, 'lower')", event.name)
