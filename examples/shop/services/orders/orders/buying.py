"""What customers ask: place an order, look at their own, cancel one that is still pending."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Literal
from uuid import UUID, uuid4

from msgspec import Meta, Struct

from atoll import Conflict, Invalid, NotFound, Page, Principal, Router
from atoll.postgresql import Transaction
from orders.events import OrderedLine, OrderPlaced
from orders.order import COLUMNS, Line, Order, cancel
from orders.prices import Price, UnknownSku, prices_of
from orders.settings import OrderSettings

__all__ = ["router"]

router = Router()
_CENT = Decimal("0.01")


class NewLine(Struct, frozen=True, forbid_unknown_fields=True):
    sku: Annotated[str, Meta(min_length=1, max_length=64)]
    quantity: Annotated[int, Meta(ge=1, le=100)]


class NewOrder(Struct, frozen=True, forbid_unknown_fields=True):
    lines: Annotated[list[NewLine], Meta(min_length=1, max_length=50)]
    payment_method: Literal["card-ok", "card-declined"]


@router.post("/orders", scope="orders:write", raises=[UnknownSku])
async def place_order(order: NewOrder, me: Principal, tx: Transaction, settings: OrderSettings) -> Order:
    """Places an order. It is pending at first; stock and payment decide soon after whether it is confirmed."""
    skus = _different_skus(order.lines)
    prices = await prices_of(tx, skus)
    lines = [_line(prices[line.sku], line.quantity) for line in order.lines]
    total = sum((line.total for line in lines), Decimal(0))
    placed = await tx.one(
        Order,
        f"""INSERT INTO orders (id, customer_id, lines, total, vat, currency, payment_method)
            VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {COLUMNS}""",
        uuid4(),
        me.id,
        lines,
        total,
        vat_in(total, settings.vat_rate),
        _one_currency(prices.values()),
        order.payment_method,
    )
    await tx.publish(_placed(placed, me.id))
    return placed


@router.get("/orders", scope="orders:read")
async def own_orders(
    me: Principal, tx: Transaction, limit: Annotated[int, Meta(ge=1, le=100)] = 20, after: str = ""
) -> Page[Order]:
    """The caller's orders, newest first. `after` is the `next` of the page before."""
    moment, last = _read_cursor(after)
    rows = await tx.all(
        Order,
        f"""SELECT {COLUMNS} FROM orders
            WHERE customer_id = $1 AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid))
            ORDER BY created_at DESC, id DESC LIMIT $4""",
        me.id,
        moment,
        last,
        limit + 1,
    )
    shown = rows[:limit]
    return Page(items=shown, next=_cursor(shown[-1]) if len(rows) > limit else None)


@router.get("/orders/{id}", scope="orders:read")
async def own_order(id: UUID, me: Principal, tx: Transaction) -> Order:
    """One of the caller's orders; somebody else's is 404."""
    return await _own(tx, id, me)


@router.post("/orders/{id}/cancellation", scope="orders:write", status=200, raises=[Conflict])
async def cancel_order(id: UUID, me: Principal, tx: Transaction) -> Order:
    """Cancels an order that is still pending. 409 when it is confirmed or cancelled already."""
    order = await _own(tx, id, me)
    if not await cancel(tx, id, "cancelled_by_customer"):
        raise Conflict(f"the order is {order.status} and can't be cancelled")
    return await _own(tx, id, me)


async def _own(tx: Transaction, id: UUID, me: Principal) -> Order:
    order = await tx.one_or_none(Order, f"SELECT {COLUMNS} FROM orders WHERE id = $1 AND customer_id = $2", id, me.id)
    if order is None:
        raise NotFound(f"you have no order {id}")
    return order


def vat_in(total: Decimal, rate: Decimal) -> Decimal:
    """The tax that a gross total contains, rounded to the cent."""
    return (total * rate / (1 + rate)).quantize(_CENT, ROUND_HALF_UP)


def _line(price: Price, quantity: int) -> Line:
    return Line(sku=price.sku, name=price.name, quantity=quantity, price=price.price, total=price.price * quantity)


def _placed(order: Order, customer_id: str) -> OrderPlaced:
    return OrderPlaced(
        order_id=order.id,
        customer_id=customer_id,
        lines=[OrderedLine(line.sku, line.quantity) for line in order.lines],
        total=order.total,
        currency=order.currency,
        payment_method=order.payment_method,
    )


def _different_skus(lines: Sequence[NewLine]) -> list[str]:
    seen: dict[str, int] = {}
    faults = []
    for place, line in enumerate(lines):
        if (first := seen.setdefault(line.sku, place)) != place:
            faults.append(
                {"field": f"lines[{place}].sku", "detail": f"is in lines[{first}] already: order it once, with the sum"}
            )
    if faults:
        raise Invalid(faults=faults)
    return list(seen)


def _one_currency(prices: Iterable[Price]) -> str:
    currencies = {price.currency for price in prices}
    if len(currencies) > 1:
        raise Invalid(faults=[{"field": "lines", "detail": f"mixes currencies: {', '.join(sorted(currencies))}"}])
    return currencies.pop()


def _cursor(order: Order) -> str:
    return f"{order.created_at.isoformat().replace('+00:00', 'Z')}_{order.id}"


def _read_cursor(text: str) -> tuple[datetime | None, UUID | None]:
    if not text:
        return None, None
    moment, _, last = text.partition("_")
    try:
        return datetime.fromisoformat(moment), UUID(last)
    except ValueError:
        raise Invalid(faults=[{"field": "after", "detail": "is not a `next` that this list gave"}]) from None
