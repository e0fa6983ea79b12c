"""Looking around: the shelves, and one product."""

from __future__ import annotations

from starlette.responses import Response

from atoll import NotFound, Router
from storefront.look import ASSETS
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


@router.get("/assets/{name}", public=True)
async def asset(name: str) -> Response:
    if name not in ASSETS:
        raise NotFound(f"there is no {name}")
    body, media_type = ASSETS[name]
    return Response(body, media_type=media_type, headers={"cache-control": "public, max-age=31536000, immutable"})
