"""Has another path after each edit."""

from atoll import Service

service = Service("shifting", database=None)


@service.get("/shifting/n0", public=True)
async def here() -> dict[str, int]:
    return {"n": 0}
