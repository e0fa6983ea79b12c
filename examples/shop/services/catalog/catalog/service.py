"""catalog: what the shop sells. Everybody looks, staff changes."""

from __future__ import annotations

from atoll import Service
from catalog import assortment, browsing, samples
from catalog.events import PriceChanged, ProductAdded, ProductRetired

service = Service(
    "catalog",
    title="Catalog",
    version="1.0.0",
    database="mongodb",
    publishes=[ProductAdded, PriceChanged, ProductRetired],
)
service.include(browsing.router)
service.include(assortment.router)
service.include(samples.router)
