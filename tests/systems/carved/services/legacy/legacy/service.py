"""A monolith of before, which has every path."""

import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from atoll import Service


async def review(request: Request) -> JSONResponse:
    return JSONResponse({"sku": request.path_params["sku"], "stars": 4, "by": "legacy", "generated_at": time.time()})


async def basket(request: Request) -> JSONResponse:
    return JSONResponse({"by": "legacy"})


app = Starlette(routes=[Route("/reviews/{sku}", review, methods=["GET", "POST"]), Route("/basket", basket)])
service = Service("legacy", database=None, app=app, public=True)
