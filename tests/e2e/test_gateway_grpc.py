"""gRPC through the gateway: HTTP/2 on both sides, streams in both directions, trailers, tokens, and errors that are gRPC's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from atoll.gateway.known import ServiceEntry
from tests.support.gateway import Rig, contract, gateway, known, replica
from tests.support.tokens import Mint
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MINT = Mint()
STREAMING: dict[str, Any] = {"x-atoll-streaming": True}
STOCK = contract(
    "stock",
    {
        "/shop.Stock/Get": {"post": {"security": []}},
        "/shop.Stock/Fail": {"post": {"security": []}},
        "/shop.Stock/Watch": {"post": {"security": [], **STREAMING}},
        "/shop.Stock/Talk": {"post": {"security": [], **STREAMING}},
        "/shop.Stock/Secret": {"post": {"security": [{"token": ["stock:read"]}]}},
    },
    **{"x-atoll-protocol": "h2"},
)


class Stock(grpc.GenericRpcHandler):
    """Bytes in, bytes out: what travels is not the gateway's business."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        kinds = {"Get": self._get, "Secret": self._get, "Fail": self._fail}
        name = str(details.method).rpartition("/")[2]
        if name == "Watch":
            return grpc.unary_stream_rpc_method_handler(self._watch)
        if name == "Talk":
            return grpc.stream_stream_rpc_method_handler(self._talk)
        return grpc.unary_unary_rpc_method_handler(kinds[name]) if name in kinds else None

    async def _get(self, request: bytes, call: Any) -> bytes:
        call.set_trailing_metadata((("x-counted", "12"),))
        return b"stock of " + request

    async def _fail(self, _request: bytes, call: Any) -> bytes:
        await call.abort(grpc.StatusCode.FAILED_PRECONDITION, "sold out")
        raise AssertionError

    async def _watch(self, request: bytes, _call: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def _talk(self, requests: AsyncIterator[bytes], _call: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Stock(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with _server() as address:
        services = {"stock": ServiceEntry(kind="service", prefix="/shop.Stock", digests=(STOCK.digest,))}
        what = known(STOCK, replicas=(replica(STOCK, "stock-1", address),), services=services)
        async with gateway(tmp_path_factory.mktemp("grpc"), what, MINT) as rig, httpx.AsyncClient() as http:
            await until(lambda: _healthy(http, rig))
            yield rig


async def _healthy(http: httpx.AsyncClient, rig: Rig) -> bool:
    """By the gateway's own health checks, which speak HTTP/2 too."""
    text = (await http.get(f"http://{rig.admin}/stats?filter=^cluster.stock.health_check.success$")).text
    return int(text.partition(":")[2] or 0) > 0


@pytest_asyncio.fixture(loop_scope="module")
async def channel(rig: Rig) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.listener.port}") as channel:
        yield channel


async def test_a_call_arrives_and_its_trailers_come_back(channel: Any) -> None:
    call = channel.unary_unary("/shop.Stock/Get")(b"mug")

    assert await call == b"stock of mug"
    assert await call.code() is grpc.StatusCode.OK
    assert ("x-counted", "12") in list(await call.trailing_metadata())


async def test_an_error_of_the_service_passes_as_it_is(channel: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await channel.unary_unary("/shop.Stock/Fail")(b"")

    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "sold out")


async def test_a_stream_of_answers_and_a_conversation(channel: Any) -> None:
    watched = [one async for one in channel.unary_stream("/shop.Stock/Watch")(b"100")]
    talk = channel.stream_stream("/shop.Stock/Talk")()
    said = []
    for word in (b"a", b"b", b"c"):  # each answer before the next question: nothing is held back
        await talk.write(word)
        said.append(await talk.read())
    await talk.done_writing()

    assert watched == [b"%d" % number for number in range(100)]
    assert said == [b"A", b"B", b"C"]


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED),
        ((("authorization", f"Bearer {MINT.lasting(scope='')}"),), grpc.StatusCode.PERMISSION_DENIED),
        ((("authorization", f"Bearer {MINT.lasting(scope='stock:read')}"),), None),
    ],
)
async def test_a_token_is_needed_as_everywhere_and_refusals_are_grpcs_own(
    channel: Any, metadata: tuple[tuple[str, str], ...], code: grpc.StatusCode | None
) -> None:
    call = channel.unary_unary("/shop.Stock/Secret")(b"mug", metadata=metadata)

    if code is None:
        assert await call == b"stock of mug"
    else:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is code


async def test_a_method_that_no_contract_offers_is_unimplemented(channel: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary("/shop.Stock/Nothing")(b"")

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
