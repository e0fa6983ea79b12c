"""A page with what a build made of it, and a client that calls the gateway from inside the system."""

import os
from urllib.request import urlopen

from starlette.responses import PlainTextResponse

from atoll import Service

service = Service("shore", database=None)
files = service.static("/shore/files", "dist")


@service.get("/shore", public=True)
async def page() -> PlainTextResponse:
    return PlainTextResponse(files.url("site.css"))


@service.get("/shore/asked", public=True)
def asked() -> PlainTextResponse:
    with urlopen(f"{os.environ['ATOLL_GATEWAY_URL']}/wooden/inside", timeout=10) as answer:
        return PlainTextResponse(answer.read())
