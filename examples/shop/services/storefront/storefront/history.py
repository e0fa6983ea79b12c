"""What became of one's orders."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from atoll import Form, Router
from storefront.account import FormKey
from storefront.shop import Refusal
from storefront.visit import Visit, friendly

__all__ = ["router"]

router = Router()


@router.get("/my/orders", public=True)
@friendly
async def my_orders(visit: Visit, after: str = "") -> Response:
    found = await visit.shop.orders(await visit.token(), after)
    return visit.page("orders.html", found=found, first_page=not after)


@router.get("/my/orders/{id}", public=True)
@friendly
async def my_order(id: str, visit: Visit, fault: str = "") -> Response:
    order = await visit.shop.order(await visit.token(), id)
    return visit.page("order.html", order=order, fault=_FAULTS.get(fault, ""))


@router.post("/my/orders/{id}/cancellation", public=True, status=200)
@friendly
async def cancel_my_order(id: str, visit: Visit, form: Annotated[FormKey, Form()]) -> Response:
    order = await visit.shop.order(await visit.token(), id)
    path = f"/my/orders/{order.id}"
    if not visit.came_from_us(form.form_key):
        return visit.redirect(f"{path}?fault=stale")
    try:
        await visit.shop.cancel_order(await visit.token(), order.id)
    except Refusal:
        return visit.redirect(f"{path}?fault=late")
    return visit.redirect(path)


_FAULTS = {
    "late": "That was too late: the order was settled before it could be cancelled.",
    "stale": "This page had been open for too long, so nothing was changed. Please try again.",
}
