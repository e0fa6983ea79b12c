"""orders: takes orders and follows each one until it is confirmed or cancelled."""

from __future__ import annotations

from atoll import Service
from orders import buying, prices, saga
from orders.events import OrderCancelled, OrderConfirmed, OrderPlaced

service = Service(
    "orders",
    title="Orders",
    version="1.0.0",
    database="postgresql",
    publishes=[OrderPlaced, OrderConfirmed, OrderCancelled],
)
service.include(buying.router)
service.include(prices.router)
service.include(saga.router)
