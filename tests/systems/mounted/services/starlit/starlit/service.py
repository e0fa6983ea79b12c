"""An ASGI application of before, and one operation that has been moved out of it."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from atoll import Principal, Service


async def old(request: Request) -> JSONResponse:
    claims = {name: ",".join(request.headers.getlist(f"x-atoll-{name}")) for name in ("subject", "scope")}
    return JSONResponse({"path": request.url.path, "query": dict(request.query_params), **claims})


async def upload(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{len(await request.body())} bytes", status_code=202)


async def lines(request: Request) -> StreamingResponse:
    return StreamingResponse((f"{n}\n" for n in range(3)), media_type="text/plain")


app = Starlette(
    routes=[
        Mount(
            "/starlit",
            routes=[
                Route("/deep/{rest:path}", old),
                Route("/upload", upload, methods=["PUT"]),
                Route("/lines", lines),
            ],
        )
    ]
)
service = Service("starlit", database=None, app=app)


@service.get("/starlit/new", scope="starlit:read")
async def new(me: Principal) -> str:
    return me.id


@service.get("/starlit/elsewhere", scope="starlit:admin")
async def elsewhere(me: Principal) -> str:
    return me.id
