"""payments: charges the customer's card once the stock is held, and gives the money back when the order is cancelled."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from atoll import Service
from payments import charging, looking
from payments.events import PaymentAuthorized, PaymentDeclined, PaymentRefunded
from payments.provider import CardProvider
from payments.settings import PaymentSettings

service = Service(
    "payments",
    title="Payments",
    version="1.0.0",
    database="sqlite",
    publishes=[PaymentAuthorized, PaymentDeclined, PaymentRefunded],
)
service.include(charging.router)
service.include(looking.router)


@service.provides(lifetime="service")
async def card_provider(settings: PaymentSettings) -> AsyncIterator[CardProvider]:
    import httpx  # here, because it costs more than all the rest of the start

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every call
    async with httpx.AsyncClient(base_url=settings.card_provider_url, timeout=settings.card_provider_timeout_s) as http:
        yield CardProvider(http)
