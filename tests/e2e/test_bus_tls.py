"""TLS between clients and the bus: only who shows the right certificate is the bus, and what is wrong is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.errors import BusOutage, SystemMistake
from tests.support.cluster import Bus, certificates, three_servers
from tests.support.contracts import shop_on_the_bus
from tests.support.engines import NatsServer, nats_server
from tests.support.ports import free_port
from tests.support.waiting import until

_TLS = """
listen: "127.0.0.1:{port}"
tls {{ cert_file: "{folder}/tls.crt", key_file: "{folder}/tls.key" }}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return certificates(tmp_path / "tls", "localhost", "127.0.0.1")


@pytest.fixture
async def server(tmp_path: Path, folder: Path) -> AsyncIterator[NatsServer]:
    port = free_port()
    async with nats_server(tmp_path / "nats", _TLS.format(port=port, folder=folder), port) as running:
        yield running


async def reason(url: str, authorities: Path | None) -> str:
    """Why the bus can't be used."""
    bus = JetStreamBus(url, authorities=str(authorities) if authorities else "")
    await bus.start()
    await until(lambda: bus.wire.last_error)
    with pytest.raises(BusOutage) as outage:
        await bus.request("anything")
    await bus.close()
    return outage.value.detail


async def test_three_servers_and_their_clients_speak_tls(tmp_path: Path, folder: Path) -> None:
    async with three_servers(tmp_path / "bus", shop_on_the_bus(), folder) as bus:
        await _go_over(bus, folder / "ca.crt")


async def _go_over(bus: Bus, authorities: Path) -> None:
    orders = JetStreamBus(bus.url("orders"), authorities=str(authorities))
    await orders.start()
    assert await orders.wait_connected(5)
    await orders.publish([Message("event.orders.order_placed.0", b"", b"x")])
    inventory = JetStreamBus(bus.url("inventory", 1), authorities=str(authorities))
    await inventory.start()
    assert await inventory.wait_connected(5)
    source = inventory.source("orders", "inventory")
    await source.reset(1)
    assert [event.body for event in await source.pull(1, 5)] == [b"x"]

    bus.members[1].kill()  # the others have told where they are; their certificates are for the name that it had

    assert await until(lambda: inventory.wire.reconnects == 1 and inventory.connected)
    for client in (orders, inventory):
        await client.close()


async def test_a_certificate_of_another_authority_is_no_bus(tmp_path: Path, server: NatsServer) -> None:
    other = certificates(tmp_path / "other", "localhost") / "ca.crt"

    said = await reason(f"tls://127.0.0.1:{server.port}", other)

    assert f"the bus at 127.0.0.1:{server.port} shows a certificate that can't be trusted" in said
    assert "ATOLL_BUS_CA names the file of the authority that made it" in said


async def test_without_a_file_whom_this_machine_trusts_vouches_for_the_bus(server: NatsServer) -> None:
    assert "can't be trusted" in await reason(f"tls://127.0.0.1:{server.port}", None)


async def test_a_certificate_for_another_name_is_no_bus(server: NatsServer, folder: Path, tmp_path: Path) -> None:
    elsewhere = certificates(tmp_path / "elsewhere", "bus.example")
    port = free_port()
    async with nats_server(tmp_path / "second", _TLS.format(port=port, folder=elsewhere), port):
        said = await reason(f"tls://127.0.0.1:{port}", elsewhere / "ca.crt")

    assert f"the bus at 127.0.0.1:{port} shows a certificate that is not for 127.0.0.1" in said


async def test_a_bus_without_tls_is_not_believed_where_the_url_says_tls(tmp_path: Path, folder: Path) -> None:
    async with nats_server(tmp_path / "plain") as plain:
        assert "speaks no TLS" in await reason(f"tls://127.0.0.1:{plain.port}", folder / "ca.crt")


@pytest.mark.parametrize(
    ("injected", "said"),
    [(b"MSG keys.set 2 6\r\nforged\r\n", ""), (b"MSG keys.set 2 6\r\nfor", "went on after its greeting")],
)
async def test_what_comes_in_front_of_tls_is_heard_by_nobody(folder: Path, injected: bytes, said: str) -> None:
    """Somebody on the way lets the greeting through and writes on."""
    heard: list[bytes] = []
    came = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"tls_required": true}\r\n' + injected)
        await reader.read(1)  # TLS begins, or it hangs up
        writer.transport.abort()
        came.set()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bus = JetStreamBus(f"tls://127.0.0.1:{port}", authorities=str(folder / "ca.crt"))
    bus.subscribe("keys.set", lambda received: heard.append(received.body))
    await bus.start()
    await asyncio.wait_for(came.wait(), 10)
    await until(lambda: said in bus.wire.last_error)
    await bus.close()
    server.close()

    assert heard == []


async def test_a_bus_with_tls_is_not_entered_where_the_url_says_none(server: NatsServer) -> None:
    assert "speaks TLS only (its URL begins with tls://)" in await reason(server.url(), None)


@pytest.mark.parametrize(("content", "wrong"), [(None, "No such file"), ("nonsense", "it holds no certificate")])
def test_a_file_of_authorities_that_can_not_be_used_is_named_at_once(tmp_path: Path, content: str | None, wrong: str) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)

    with pytest.raises(SystemMistake, match=f"ATOLL_BUS_CA names {file}, which can't be used: {wrong}"):
        JetStreamBus("tls://127.0.0.1:4222", authorities=str(file))


def test_servers_with_tls_and_without_are_no_bus() -> None:
    with pytest.raises(SystemMistake, match="servers with TLS and servers without"):
        JetStreamBus("tls://one:4222,nats://two:4222")
