"""Has no database, so there may be many of it."""

import os

from atoll import Service

service = Service("middle", database=None)


@service.get("/middle/process", public=True)
async def process() -> dict[str, int]:
    return {"pid": os.getpid()}


@service.post("/middle/process", public=True)
async def changed_process() -> dict[str, int]:
    return {"pid": os.getpid()}
