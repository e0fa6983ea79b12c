"""What shall take the reviews over from the wall, and is wrong about cups."""

from typing import Any

from atoll import Service

service = Service("reviews", database=None)


@service.get("/reviews/{sku}", public=True)
async def review(sku: str) -> dict[str, Any]:
    return {"sku": sku, "stars": 5 if sku == "cup" else 4}
