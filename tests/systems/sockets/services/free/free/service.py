"""An application that checks its callers itself, WebSockets too."""

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from atoll import Service


async def talk(socket: WebSocket) -> None:
    if socket.cookies.get("session") != "its-own":
        await socket.close(1008)
        return
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text.upper())


service = Service("free", database=None, app=Starlette(routes=[WebSocketRoute("/free/talk", talk)]), public=True)
