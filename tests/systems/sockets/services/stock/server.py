"""A gRPC server that knows nothing of atoll: `python server.py 127.0.0.1:2100`. Messages are bare bytes."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc


class Stock(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        match details.method:
            case "/shop.Stock/Count":
                return grpc.unary_unary_rpc_method_handler(count)
            case "/shop.Stock/Watch":
                return grpc.stream_stream_rpc_method_handler(watch)
        return None


async def count(request: bytes, call: Any) -> bytes:
    if request == b"nothing":
        await call.abort(grpc.StatusCode.NOT_FOUND, "there is nothing")
    who = dict(call.invocation_metadata())["x-atoll-subject"]
    call.set_trailing_metadata((("x-counted-for", who),))
    return b"12 of " + request


async def watch(requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request.upper()


async def main() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Stock(),))
    server.add_insecure_port(sys.argv[1])
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(1)


asyncio.run(main())
