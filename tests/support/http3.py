"""One request over HTTP/3, with aioquic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamReset

_TIMEOUT_S = 10


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Client(QuicConnectionProtocol):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._http = H3Connection(self._quic)
        self._answer = Answer()
        self._done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def ask(self, authority: str, path: str, headers: Mapping[str, str]) -> Answer:
        stream = self._quic.get_next_available_stream_id()
        pseudo = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        named = [(name.encode(), value.encode()) for name, value in {**pseudo, **headers}.items()]
        self._http.send_headers(stream, named, end_stream=True)
        self.transmit()
        async with asyncio.timeout(_TIMEOUT_S):
            return await self._done

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset) and not self._done.done():
            self._done.set_exception(ConnectionResetError(f"the stream was reset, {event.error_code:#x}"))
        for one in self._http.handle_event(event):
            if isinstance(one, HeadersReceived):
                found = {name.decode(): value.decode() for name, value in one.headers}
                self._answer.status, self._answer.headers = int(found.pop(":status")), found
            if isinstance(one, DataReceived):
                self._answer.body += one.data
            if isinstance(one, HeadersReceived | DataReceived) and one.stream_ended and not self._done.done():
                self._done.set_result(self._answer)


async def get(authority: str, path: str, ca: Path, headers: Mapping[str, str] | None = None) -> Answer:
    """GET over a connection of its own. Raises ConnectionError when there is none, also for a certificate of somebody
    else; ConnectionResetError when the request is refused without an answer.
    """
    host, _, port = authority.partition(":")
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=True, server_name=host)
    configuration.load_verify_locations(cafile=str(ca))
    async with connect("127.0.0.1", int(port), configuration=configuration, create_protocol=_Client) as connection:
        return await cast(_Client, connection).ask(authority, path, headers or {})
