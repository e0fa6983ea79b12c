"""The HTTP/1.1 server of a service process: uvicorn, driven by the process instead of by its own command.

HTTP/2 and the access log are the gateway's. Signals are the process's: it drains first. WebSockets are taken where a service
declares them, or mounts an ASGI application: only there is the library for them imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from atoll.errors import SystemMistake
from atoll.service.mounting import is_asgi

if TYPE_CHECKING:
    from atoll.service.service import Service

__all__ = ["MOUNTED_LIMIT_BYTES", "Server", "message_limit_bytes"]

_log = logging.getLogger("atoll.service")
_INSTALL = "pip install 'atoll[websocket]'"
MOUNTED_LIMIT_BYTES = 16 << 20  # what uvicorn lets an application's WebSockets take everywhere
_KEEP_ALIVE_S = 75  # longer than the gateway's, so that it is always the gateway that closes an idle connection


class Server:
    """Serves `app`, an ASGI application, from `start` to `stop`; over TLS when there is a context for it.

    `message_limit_bytes` is of the largest message that a WebSocket takes; without it, none is taken.
    """

    def __init__(
        self,
        app: Any,
        *,
        keep_alive_s: int = _KEEP_ALIVE_S,
        tls: ssl.SSLContext | None = None,
        message_limit_bytes: int | None = None,
    ) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            loop="none",
            http=_Http,
            ws="none" if message_limit_bytes is None else "websockets-sansio",
            ws_max_size=message_limit_bytes or 0,
            ws_per_message_deflate=False,  # it keeps a window for each socket, and tells secrets by the length of messages
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=keep_alive_s,
            backlog=2048,
        )
        self._config.load()
        self._config.ssl = tls
        self._server = _Quiet(self._config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Returns when connections are taken."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        await asyncio.wait(
            {self._serving, asyncio.create_task(self._server.listens.wait())}, return_when=asyncio.FIRST_COMPLETED
        )

    async def stop(self, timeout_s: float) -> None:
        """Takes no further connection, closes idle ones, and WebSockets with code 1012, "service restart". Lets requests in
        hand finish; after `timeout_s` they are cancelled.
        """
        self._config.timeout_graceful_shutdown = max(1, round(timeout_s))
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


def message_limit_bytes(service: Service) -> int | None:
    """Of the largest message that a WebSocket of `service` takes; None when it takes none.

    Raises SystemMistake when it declares one and the library is not installed.
    """
    declared = [one for one in service.operations if one.websocket]
    mounted = service.app is not None and is_asgi(service.app)
    if not declared and not mounted:
        return None
    if find_spec("websockets") is None:
        if declared:
            raise SystemMistake(
                "WebSockets need the package websockets, which is not installed",
                where=declared[0].where,
                hint=_INSTALL,
            )
        _log.info("WebSockets of the application are not taken: %s", _INSTALL)
        return None
    return max([one.message_limit_bytes for one in declared] + [MOUNTED_LIMIT_BYTES] * mounted)


class _Http(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _WholeAnswers(transport)))


class _WholeAnswers:
    """A transport that writes the head of an answer together with what follows at once.

    A process that is killed between two writes leaves half an answer, which no gateway can ask another replica for. And one
    write is one wake-up of the gateway and of its client instead of two.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._soon = asyncio.get_running_loop().call_soon
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        """What follows comes later, or never."""
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Quiet(uvicorn.Server):
    """Says when it listens, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
