"""The rules of holding stock back: all lines of an order or none, and each reservation ends once.

Stock rows are locked in the order of their SKUs, so that two orders never wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from sqlalchemy import select

from atoll.sqlalchemy import Session
from inventory.events import Shortage
from inventory.models import Reservation, Stock

__all__ = ["hold", "locked_stock", "release", "take"]


async def hold(session: Session, order_id: UUID, wanted: Mapping[str, int]) -> list[Shortage] | None:
    """Holds all of `wanted`, or nothing. [] when it is held, the shortages when not, None when it was decided before."""
    if await _locked(session, order_id) is not None:
        return None
    stock = await locked_stock(session, wanted)
    missing = [
        Shortage(sku, quantity, stock[sku].available if sku in stock else 0)
        for sku, quantity in sorted(wanted.items())
        if sku not in stock or stock[sku].available < quantity
    ]
    session.add(Reservation(order_id=str(order_id), state="refused" if missing else "held", lines=dict(wanted)))
    if not missing:
        for sku, quantity in wanted.items():
            stock[sku].reserved += quantity
    return missing


async def release(session: Session, order_id: UUID) -> bool:
    """Gives back what is held for the order; False when nothing is.

    An order nobody knows leaves a mark, so that whatever arrives for it later holds nothing.
    """
    reservation = await _locked(session, order_id)
    if reservation is None:
        session.add(Reservation(order_id=str(order_id), state="released", lines={}))
        return False
    if reservation.state != "held":
        return False
    for sku, row in (await locked_stock(session, reservation.lines)).items():
        row.reserved -= reservation.lines[sku]
    reservation.state = "released"
    return True


async def take(session: Session, order_id: UUID) -> None:
    """What was held leaves the house."""
    reservation = await _locked(session, order_id)
    if reservation is None or reservation.state != "held":
        return
    for sku, row in (await locked_stock(session, reservation.lines)).items():
        row.reserved -= reservation.lines[sku]
        row.on_hand -= reservation.lines[sku]
    reservation.state = "taken"


async def locked_stock(session: Session, skus: Iterable[str]) -> dict[str, Stock]:
    """The rows of `skus` that exist, locked and fresh."""
    rows = await session.scalars(
        select(Stock)
        .where(Stock.sku.in_(sorted(skus)))
        .order_by(Stock.sku)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return {row.sku: row for row in rows}


async def _locked(session: Session, order_id: UUID) -> Reservation | None:
    # A select and not session.get: in a batch of events, what the one before changed has to be flushed first.
    reservation: Reservation | None = await session.scalar(
        select(Reservation)
        .where(Reservation.order_id == str(order_id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return reservation
