"""The saga's part of payments: charge when the stock is held, give back when the order is cancelled.

The card provider is outside, so no transaction can hold both it and our row. What happens is therefore written down in three
steps: that we are about to ask (a short transaction of its own), the call, which the provider makes once however often it
is repeated, and the outcome, in the transaction that also marks the event as handled. A crash between any two repeats
from the first. `payment.py` draws the states; docs/explanation/order-saga.md has the whole table.
"""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from msgspec import Struct

from atoll import Delivery, Outage, Router
from atoll.sqlite import Database, Transaction
from payments.events import PaymentAuthorized, PaymentDeclined, PaymentRefunded
from payments.payment import NewPayment, Payment, begin, change, mark_cancelled
from payments.provider import CardProvider, Charge

__all__ = ["router"]

router = Router()


class StockReserved(Struct, frozen=True):
    order_id: UUID
    customer_id: str
    total: Decimal
    currency: str
    payment_method: str


class OrderCancelled(Struct, frozen=True):
    order_id: UUID
    customer_id: str


@router.on("inventory.stock_reserved", alone=True)
async def charge(event: StockReserved, delivery: Delivery, database: Database, tx: Transaction, provider: CardProvider) -> None:
    async with database.transaction() as first:
        payment = await begin(first, _new(event, delivery.id))
    if payment.status == "charging":
        await _charge(payment, tx, provider)
    elif payment.status == "cancelling":
        await _charge_unwanted(payment, tx, provider)


@router.on("orders.order_cancelled", alone=True)
async def cancel(event: OrderCancelled, database: Database, tx: Transaction, provider: CardProvider) -> None:
    async with database.transaction() as first:
        payment = await mark_cancelled(first, event.order_id, event.customer_id)
    if payment.status != "authorized" or payment.charge_id is None:
        return
    await provider.refund(payment.charge_key, payment.charge_id)
    if await change(tx, payment, "refunded", payment.charge_id):
        await tx.publish(_refunded(payment))


async def _charge(payment: Payment, tx: Transaction, provider: CardProvider) -> None:
    receipt = await provider.charge(payment.charge_key, _asked(payment))
    approved = receipt.status == "approved"
    if not await change(tx, payment, "authorized" if approved else "declined", receipt.id):
        raise Outage("the order was cancelled while its card was being charged: once more, to give it back")
    if approved:
        await tx.publish(
            PaymentAuthorized(
                order_id=payment.order_id,
                customer_id=payment.customer_id,
                amount=payment.amount,
                currency=payment.currency,
            )
        )
    else:
        await tx.publish(PaymentDeclined(order_id=payment.order_id, customer_id=payment.customer_id, reason="card_declined"))


async def _charge_unwanted(payment: Payment, tx: Transaction, provider: CardProvider) -> None:
    """A call that was on its way when the order was cancelled may still arrive. Asking again under its key settles what
    became of it; what was charged is given back."""
    receipt = await provider.charge(payment.charge_key, _asked(payment))
    if receipt.status == "declined":
        await change(tx, payment, "declined", receipt.id)
        return
    await provider.refund(payment.charge_key, receipt.id)
    if await change(tx, payment, "refunded", receipt.id):
        await tx.publish(_refunded(payment))


def _new(event: StockReserved, event_id: str) -> NewPayment:
    return NewPayment(
        order_id=event.order_id,
        customer_id=event.customer_id,
        amount=event.total,
        currency=event.currency,
        method=event.payment_method,
        charge_key=event_id,
    )


def _asked(payment: Payment) -> Charge:
    return Charge(reference=str(payment.order_id), amount=payment.amount, currency=payment.currency, method=payment.method)


def _refunded(payment: Payment) -> PaymentRefunded:
    return PaymentRefunded(
        order_id=payment.order_id, customer_id=payment.customer_id, amount=payment.amount, currency=payment.currency
    )
