"""What people ask: how much there is, and, for staff, to set what was counted."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from sqlalchemy.dialects.postgresql import insert

from atoll import Conflict, NotFound, Router
from atoll.sqlalchemy import Session
from inventory.models import Stock
from inventory.reservations import locked_stock

__all__ = ["router"]

router = Router()


class StockLevel(Struct, frozen=True):
    """`available` is what can still be ordered: `on_hand` minus `reserved`."""

    sku: str
    on_hand: int
    reserved: int
    available: int


class Count(Struct, frozen=True, forbid_unknown_fields=True):
    on_hand: Annotated[int, Meta(ge=0, le=1_000_000)]


@router.get("/inventory/{sku}", public=True)
async def stock_level(sku: str, session: Session) -> StockLevel:
    row = await session.get(Stock, sku)
    if row is None:
        raise NotFound(f"there is no stock of {sku}")
    return _level(row)


@router.put("/inventory/{sku}", scope="inventory:write", raises=[Conflict])
async def set_stock(sku: Annotated[str, Meta(max_length=64)], count: Count, session: Session) -> StockLevel:
    """Sets what is on hand. 409 when orders in progress hold more than that."""
    await session.execute(insert(Stock).values(sku=sku, on_hand=0).on_conflict_do_nothing())
    row = (await locked_stock(session, [sku]))[sku]
    if count.on_hand < row.reserved:
        raise Conflict(f"{row.reserved} of {sku} are held for orders in progress")
    row.on_hand = count.on_hand
    return _level(row)


def _level(row: Stock) -> StockLevel:
    return StockLevel(sku=row.sku, on_hand=row.on_hand, reserved=row.reserved, available=row.available)
