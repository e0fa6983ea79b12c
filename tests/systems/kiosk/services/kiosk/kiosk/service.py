"""Sells tickets, and tells what may be told again."""

from msgspec import Struct

from atoll import Event, Principal, Service
from atoll.sqlite import Transaction


class Wish(Struct, forbid_unknown_fields=True):
    line: str


class Ticket(Struct):
    number: int
    buyer: str
    line: str


class TicketSold(Event, name="ticket_sold", key="line"):
    number: int
    line: str


service = Service("kiosk", database="sqlite", publishes=[TicketSold])
asked: list[str] = []


@service.post("/kiosk/tickets", scope="kiosk:buy", idempotency_key="required")
async def buy(wish: Wish, me: Principal, tx: Transaction) -> Ticket:
    sold = await tx.one(Ticket, "INSERT INTO ticket (buyer, line) VALUES ($1, $2) RETURNING *", me.id, wish.line)
    await tx.publish(TicketSold(sold.number, sold.line))
    return sold


@service.get("/kiosk/tickets", public=True)
async def tickets(tx: Transaction) -> list[Ticket]:
    return await tx.all(Ticket, "SELECT * FROM ticket ORDER BY number")


@service.get("/kiosk/lines", public=True, cache="1h")
async def lines(q: str = "") -> list[str]:
    asked.append(f"lines {q}")
    return [f"line {number} {q}" for number in range(1, 4)]


@service.get("/kiosk/timetable", public=True, cache="1h")
async def timetable() -> list[str]:
    """Long enough to be compressed."""
    return [f"line {number % 3 + 1} leaves at {number // 60:02}:{number % 60:02}" for number in range(0, 1440, 5)]


@service.get("/kiosk/seat", cache="1h")
async def seat(me: Principal) -> str:
    asked.append(f"seat {me.id}")
    return f"{me.id}'s seat"


@service.get("/kiosk/delays", public=True, cache="0s")
async def delays() -> list[str]:
    asked.append("delays")
    return ["none"]


@service.get("/kiosk/asked", public=True)
async def log() -> list[str]:
    """Which handlers ran."""
    return asked
