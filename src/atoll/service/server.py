"""The HTTP/1.1 server of a service process: uvicorn, driven by the process instead of by its own command.

HTTP/2, WebSocket and the access log are the gateway's. Signals are the process's: it drains first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn

__all__ = ["Server"]

_KEEP_ALIVE_S = 75  # longer than the gateway's, so that it is always the gateway that closes an idle connection


class Server:
    """Serves `app`, an ASGI application, from `start` to `stop`; over TLS when there is a context for it."""

    def __init__(self, app: Any, *, keep_alive_s: int = _KEEP_ALIVE_S, tls: ssl.SSLContext | None = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            loop="none",
            http="httptools",
            ws="none",
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
        """Takes no further connection, closes idle ones, lets requests in hand finish; after `timeout_s` they are cancelled."""
        self._config.timeout_graceful_shutdown = max(1, round(timeout_s))
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


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
