"""A tiny replica for gateway tests: says what it was asked, and misbehaves on demand.

`python -m tests.support.upstream NAME PORT`. Query parameters: `status`, `delay_s`, `stream` (so many server-sent events; with
`until=acknowledged` each waits for a request with `acknowledge` after the one before), `size` (so many bytes, with
`type`, and `header-NAME` for further headers). `POST /control/ready?value=0` makes its readiness fail.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import uvicorn


class Replica:
    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = True
        self.acknowledged = asyncio.Semaphore(0)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        query = dict(parse_qsl(scope["query_string"].decode()))
        body = await _body(receive)
        if scope["path"] == "/health/ready":
            await _answer(send, 200 if self.ready else 503, {})
        elif scope["path"].startswith("/control/"):
            self.ready = query["value"] == "1"
            await _answer(send, 200, {})
        else:
            await self._operation(scope, query, body, send)

    async def _operation(self, scope: Any, query: dict[str, str], body: bytes, send: Any) -> None:
        if "delay_s" in query:
            await _pause(float(query["delay_s"]))
        if "acknowledge" in query:
            self.acknowledged.release()
        if "stream" in query:
            await _stream(send, int(query["stream"]), self.acknowledged.acquire if "until" in query else _a_moment)
            return
        if "size" in query:
            await _bytes(send, query)
            return
        answer = {
            "replica": self.name,
            "method": scope["method"],
            "path": scope["path"],
            "headers": {key.decode(): value.decode() for key, value in scope["headers"]},
            "body": body.decode(errors="replace")[:200],
        }
        await _answer(send, int(query.get("status", "200")), answer)


async def _stream(send: Any, chunks: int, between: Callable[[], Awaitable[Any]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(chunks):
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await between()
    await send({"type": "http.response.body", "body": b""})


async def _a_moment() -> None:
    await _pause(0.05)


async def _bytes(send: Any, query: dict[str, str]) -> None:
    """A text that compresses well."""
    body = (b'{"sku": "mug", "stock": 12}, ' * (int(query["size"]) // 29 + 1))[: int(query["size"])]
    own = [(name[7:].encode(), value.encode()) for name, value in query.items() if name.startswith("header-")]
    headers = [(b"content-type", query.get("type", "application/json").encode()), (b"content-length", b"%d" % len(body)), *own]
    await send({"type": "http.response.start", "status": int(query.get("status", "200")), "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Any) -> bytes:
    found = b""
    while True:
        message = await receive()
        found += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return found


async def _answer(send: Any, status: int, content: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


async def _pause(seconds: float) -> None:
    try:
        await asyncio.wait_for(asyncio.Event().wait(), seconds)
    except TimeoutError:
        return


if __name__ == "__main__":
    uvicorn.run(
        Replica(sys.argv[1]),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        log_level="error",
        access_log=False,
        timeout_keep_alive=75,
    )
