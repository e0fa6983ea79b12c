"""Has no database, so there may be many of it."""

from atoll import Principal, Service

service = Service("middle", database=None)


@service.get("/middle/open", public=True)
async def open_() -> dict[str, bool]:
    return {"open": True}


@service.get("/middle/closed")
async def closed(me: Principal) -> dict[str, str]:
    return {"for": me.id}


@service.post("/middle/closed", status=200)
async def changed(me: Principal) -> dict[str, str]:
    return {"for": me.id}
