"""The tables, as SQLAlchemy sees them; `migrations/` makes them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "Reservation", "Stock"]


class Base(DeclarativeBase):
    """The metadata that Alembic compares with the database."""


class Stock(Base):
    """How much of one product there is, and how much of it is held back for orders in progress."""

    __tablename__ = "stock"
    __table_args__ = (CheckConstraint("reserved >= 0 AND reserved <= on_hand", name="stock_within_bounds"),)

    sku: Mapped[str] = mapped_column(String(64), primary_key=True)
    on_hand: Mapped[int]
    reserved: Mapped[int] = mapped_column(default=0, server_default="0")

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved


class Reservation(Base):
    """What was decided about one order. `lines` is what it holds, or held: quantity by SKU.

    `state`: held → taken (confirmed) or released; or refused at once.
    """

    __tablename__ = "reservation"
    __table_args__ = (CheckConstraint("state IN ('held', 'taken', 'released', 'refused')", name="reservation_state"),)

    order_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    state: Mapped[str] = mapped_column(String(10))
    lines: Mapped[dict[str, Any]] = mapped_column(JSONB)
