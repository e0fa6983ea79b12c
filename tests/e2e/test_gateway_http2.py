"""A service that speaks HTTP/2 and no gRPC: ordinary requests reach it in HTTP/2, whatever the client speaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from tests.support.gateway import contract, gateway, known, replica
from tests.support.waiting import until

PUBLIC: dict[str, Any] = {"security": []}
STOCK = contract("stock", {"/stock": {"get": PUBLIC, "post": PUBLIC}}, **{"x-atoll-protocol": "h2"})


@dataclass
class _Speaker:
    """One connection, in HTTP/2 from its first byte and in nothing else. Answers with what it was asked."""

    writer: asyncio.StreamWriter
    open_streams: list[int]
    http: h2.connection.H2Connection = field(
        default_factory=lambda: h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    )
    asked: dict[int, dict[str, str]] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)

    def begin(self) -> None:
        self.http.initiate_connection()
        self.writer.write(self.http.data_to_send())

    def take(self, received: bytes) -> None:
        for event in self.http.receive_data(received):
            if isinstance(event, h2.events.RequestReceived):
                self.asked[event.stream_id] = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._answer(event.stream_id)
        self.writer.write(self.http.data_to_send())

    def _answer(self, stream: int) -> None:
        asked = self.asked.pop(stream)
        told = {"stream": stream, **asked, "body": self.bodies.pop(stream, b"").decode()}
        body = json.dumps(told).encode()
        self.http.send_headers(stream, [(":status", "200"), ("content-type", "application/json"), ("x-own", "1")])
        self.http.send_data(stream, body, end_stream=True)
        if not asked[":path"].startswith("/health/"):
            self.open_streams.append(stream)


@asynccontextmanager
async def _server(streams: list[int]) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            tasks.add(task)
        speaker = _Speaker(writer, streams)
        speaker.begin()
        with suppress(OSError):
            while received := await reader.read(65_536):
                speaker.take(received)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("client_speaks_http2", [False, True])
async def test_an_ordinary_request_reaches_a_service_in_http_2(tmp_path: Path, client_speaks_http2: bool) -> None:
    """The server takes nothing else, and what comes on one connection has streams of their own: 1, 3, 5, …"""
    streams: list[int] = []
    async with _server(streams) as address:
        what = known(STOCK, replicas=(replica(STOCK, "stock-1", address),))
        async with (
            gateway(tmp_path / "gateway", what) as rig,
            httpx.AsyncClient(http1=not client_speaks_http2, http2=client_speaks_http2, timeout=20) as http,
            httpx.AsyncClient() as admin,
        ):

            async def healthy() -> bool:
                """By checks that speak HTTP/2 too."""
                stats = await admin.get(f"http://{rig.admin}/stats?filter=^cluster.stock.membership_healthy$")
                return stats.text.strip().endswith(": 1")

            await until(healthy)
            got = await http.get(f"{rig.url}/stock?limit=3")
            posted = await http.post(f"{rig.url}/stock", json={"sku": "mug"})
            many = await asyncio.gather(*(http.get(f"{rig.url}/stock?n={number}") for number in range(20)))

        assert got.http_version == ("HTTP/2" if client_speaks_http2 else "HTTP/1.1")
        assert (got.status_code, got.headers["x-own"], got.json()[":path"]) == (200, "1", "/stock?limit=3")
        assert (posted.json()[":method"], json.loads(posted.json()["body"])) == ("POST", {"sku": "mug"})
        assert sorted(int(answer.json()[":path"].partition("=")[2]) for answer in many) == list(range(20))
        assert (len(streams), max(streams) > 1, [one for one in streams if one % 2 == 0]) == (22, True, [])
