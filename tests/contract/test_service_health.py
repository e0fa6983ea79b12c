"""What a service process says of itself to the host and the gateway."""

from __future__ import annotations

from pathlib import Path

import httpx

from atoll.database import open_database
from atoll.service.health import Health


async def test_a_service_that_was_asked_before_its_database_was_open_is_ready_as_soon_as_it_is(tmp_path: Path) -> None:
    """Otherwise the gateway's first question is answered with what was known a moment before."""
    database = open_database(f"sqlite://{tmp_path}/orders.sqlite", None)
    health = Health("orders", database, None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(health), base_url="http://orders") as http:
        starting = await http.get("/health/ready")
        assert (starting.status_code, starting.json()["status"]) == (503, "starting")
        await database.open()
        try:
            health.stage = "serving"
            assert (await http.get("/health/ready")).status_code == 200
        finally:
            await database.close()
