"""How commands talk to the running host: JSON lines over a Unix socket in `.atoll/`, which only its owner can open.

    → {"do": "restart", "name": "orders"}
    ← {"heard": 1234}                       at once: the host's pid
    ← {"say": "orders-2 is ready"}          any number of them
    ← {"ok": …}  or  {"error": {"detail", "hint", "where"}}

The path is opened relative to its folder, because a socket's path may have a hundred characters only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO

from atoll.errors import AtollError, EngineOutage, SystemMistake
from atoll.host.layout import Layout

__all__ = ["Control", "Handler", "ask", "hold"]

_HEARD_S = 5.0

Say = Callable[[str], None]
Handler = Callable[[dict[str, Any], Say], Awaitable[Any]]


class Control:
    """Serves one handler. A request with `"hold": true` is followed by `{"do": "release", …}` when its client is gone."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        with contextlib.chdir(self._path.parent):
            self._server = await asyncio.start_unix_server(self._serve, self._path.name)
            os.chmod(self._path.name, 0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
        for task in self._clients:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # the client went away, or the host does
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request: dict[str, Any] = json.loads(await reader.readline() or b"{}")

        def tell(line: dict[str, Any]) -> None:
            writer.write(json.dumps(line).encode() + b"\n")

        tell({"heard": os.getpid()})
        try:
            result = await self._handler(request, lambda text: tell({"say": text}))
        except AtollError as error:
            tell({"error": {"detail": error.detail, "hint": error.hint, "where": getattr(error, "where", "")}})
            return
        except Exception as error:
            traceback.print_exc()
            hint = "see .atoll/logs/host.log; command and host are of one version?"
            tell({"error": {"detail": f"the host failed at this: {error!r}", "hint": hint, "where": ""}})
            return
        finally:
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        tell({"ok": result})
        await writer.drain()
        if request.get("hold"):
            await reader.read()
            await self._handler({**request, "do": "release"}, lambda _text: None)


def ask(layout: Layout, request: dict[str, Any], say: Say = lambda _line: None) -> Any:
    """The running host's answer. Raises SystemMistake: no host runs here, or what the host refused; EngineOutage: it hangs."""
    with _connect(layout) as connection:
        return _exchange(connection, request, say)


def hold(layout: Layout, request: dict[str, Any], say: Say = lambda _line: None) -> tuple[Any, socket.socket]:
    """As `ask`; what was asked for is this process's until the socket is closed. An exec keeps it open."""
    connection = _connect(layout)
    try:
        result = _exchange(connection, {**request, "hold": True}, say)
        connection.set_inheritable(True)
        return result, connection
    except BaseException:
        connection.close()
        raise


def _connect(layout: Layout) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.chdir(layout.root):
            connection.connect(layout.control.name)
    except PermissionError:
        connection.close()
        hint = "ask as the user who ran `atoll up`"
        raise SystemMistake("this system is another user's", where=str(layout.system), hint=hint) from None
    except OSError:
        connection.close()
        raise SystemMistake("this system is not running", where=str(layout.system), hint="start it: `atoll up`") from None
    return connection


def _exchange(connection: socket.socket, request: dict[str, Any], say: Say) -> Any:
    connection.sendall(json.dumps(request).encode() + b"\n")
    with connection.makefile("rb") as lines:
        _hear(connection, lines)
        for line in lines:
            answer = json.loads(line)
            if "say" in answer:
                say(answer["say"])
            elif "ok" in answer:
                return answer["ok"]
            else:
                error = answer["error"]
                raise SystemMistake(error["detail"], where=error["where"], hint=error["hint"])
    raise EngineOutage("the host ended while it was working on this", hint="see .atoll/logs/host.log, then `atoll up`")


def _hear(connection: socket.socket, lines: BinaryIO) -> None:
    """Returns when the host has begun to answer; how long the answer takes is its own affair."""
    connection.settimeout(_HEARD_S)
    try:
        lines.readline()
    except TimeoutError:
        detail = f"the host has not answered for {_HEARD_S:g} s: it is stopped, hangs or gets no CPU"
        raise EngineOutage(detail, hint="try again; `atoll down` ends it and whatever it has started") from None
    connection.settimeout(None)
