"""An application that checks its callers itself."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from atoll import Service


async def door(request: Request) -> PlainTextResponse:
    if request.headers.get("authorization") != "Basic own":
        return PlainTextResponse("its own no", status_code=401, headers={"www-authenticate": "Basic"})
    return PlainTextResponse("its own yes")


service = Service("open", database=None, app=Starlette(routes=[Route("/open/door", door)]), public=True)
