"""Says what there is, to who has a token."""

from atoll import Principal, Service

service = Service("stock", database=None)


@service.get("/stock/candles")
async def candles(me: Principal) -> dict[str, int]:
    return {"candles": 7}
