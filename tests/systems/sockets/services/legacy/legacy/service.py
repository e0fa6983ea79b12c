"""An ASGI application of before, with a WebSocket."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from atoll import Service


async def talk(socket: WebSocket) -> None:
    await socket.accept(subprotocol=next(iter(socket["subprotocols"]), None))
    await socket.send_text(socket.headers["x-atoll-subject"])
    async for text in socket.iter_text():
        await socket.send_text(text.upper())


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.headers["x-atoll-subject"])


app = Starlette(routes=[WebSocketRoute("/legacy/talk", talk), Route("/legacy/talk", page)])
service = Service("legacy", database=None, app=app)
