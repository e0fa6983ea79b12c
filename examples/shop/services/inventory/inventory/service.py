"""inventory: knows how much of each product there is, and holds some of it back for orders in progress."""

from __future__ import annotations

from atoll import Service
from inventory import counting, following
from inventory.events import StockRejected, StockReleased, StockReserved

service = Service(
    "inventory",
    title="Inventory",
    version="1.0.0",
    database="postgresql",
    publishes=[StockReserved, StockRejected, StockReleased],
)
service.include(counting.router)
service.include(following.router)
