"""storefront: the web shop, a client of the gateway."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from starlette.requests import Request

from atoll import Service
from storefront import account, browsing, cart, history
from storefront.look import Look
from storefront.seal import Seal
from storefront.settings import StorefrontSettings
from storefront.shop import Shop
from storefront.visit import Visit

service = Service("storefront", title="Storefront", version="1.0.0", database=None)
assets = service.static("/assets", "assets")
for pages in (browsing, account, cart, history):
    service.include(pages.router)


@service.provides(lifetime="service")
async def shop(settings: StorefrontSettings) -> AsyncIterator[Shop]:
    import httpx  # here, because it costs more than all the rest of the start

    checked = settings.checked()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every call
    async with httpx.AsyncClient(base_url=checked.atoll_gateway_url, timeout=checked.gateway_timeout_s) as http:
        yield Shop(http)


@service.provides(lifetime="service")
def look() -> Look:
    return Look(assets.url)


@service.provides(lifetime="service")
def seal(settings: StorefrontSettings) -> Seal:
    return Seal(settings.session_secret)


@service.provides(lifetime="call")
def visit(request: Request, shop: Shop, look: Look, seal: Seal) -> Visit:
    return Visit(request, shop, look, seal)
