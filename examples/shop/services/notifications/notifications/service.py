"""notifications: tells customers how their orders ended."""

from __future__ import annotations

from atoll import Service
from notifications import reading, writing

service = Service("notifications", title="Notifications", version="1.0.0", database="sqlite")
service.include(reading.router)
service.include(writing.router)
