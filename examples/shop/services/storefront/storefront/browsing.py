"""Looking around: the shelves, and one product."""

from __future__ import annotations

from starlette.responses import Response

from atoll import Router
from storefront.shop import Page, Refusal, Unavailable
from storefront.visit import Visit, friendly

__all__ = ["router"]

router = Router()


@router.get("/", public=True)
@friendly
async def home(visit: Visit, q: str = "", after: str = "") -> Response:
    search = q.strip()[:100]
    try:
        found = await visit.shop.products(search, after)
    except (Unavailable, Refusal):
        return visit.page("home.html", 503, search=search, found=Page(items=[]), closed=True)
    return visit.page("home.html", search=search, found=found, closed=False)


@router.get("/products/{sku}", public=True)
@friendly
async def product(sku: str, visit: Visit) -> Response:
    found = await visit.shop.product(sku)
    return visit.page("product.html", product=found, available=await visit.shop.stock(sku))
