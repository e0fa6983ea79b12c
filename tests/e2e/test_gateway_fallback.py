"""An application that was there before: what reaches it through the gateway is what would have reached it without."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
import pytest

from tests.support.gateway import Rig, contract, gateway, known, replica

LEGACY = contract("legacy", {})
ORDERS = contract("orders", {"/orders": {"get": {"security": []}}})
OF_THE_REQUEST = {"REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "SERVER_PROTOCOL"}
# What the gateway sets for everybody, and what belongs to one connection.
SET = {"HTTP_X_REQUEST_ID", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO"}
OF_THE_CONNECTION = {"HTTP_CONNECTION"}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Tells all that it was given, and answers with headers of its own."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    given = {name: value for name, value in environ.items() if name in OF_THE_REQUEST or name.startswith("HTTP_")}
    given["CONTENT_LENGTH"] = environ.get("CONTENT_LENGTH") or "0"  # no body and an empty one are the same
    headers = [
        ("content-type", "application/json"),
        ("set-cookie", "session=1; HttpOnly"),
        ("set-cookie", "basket=2"),
        ("x-frame-options", "DENY"),
        ("location", "http://shop.example/elsewhere"),
    ]
    start_response("299 As It Likes", headers)
    return [json.dumps({"given": given, "body": body.decode("latin-1")}).encode()]


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@dataclass
class Legacy:
    """The same application, asked directly and through the gateway."""

    direct: httpx.Client
    through: httpx.Client

    def both(self, method: str, path: str, **options: Any) -> tuple[httpx.Response, httpx.Response]:
        return self.direct.request(method, path, **options), self.through.request(method, path, **options)


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Legacy]:
    server = make_server("127.0.0.1", 0, application, WSGIServer, _Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    address = f"127.0.0.1:{server.server_port}"
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        rig = runner.run(_rig(tmp_path_factory.mktemp("fallback"), stack, address))
        with httpx.Client(base_url=f"http://{address}") as direct, httpx.Client(base_url=rig.url) as through:
            yield Legacy(direct, through)
        runner.run(stack.aclose())
    server.shutdown()
    thread.join()
    server.server_close()


async def _rig(folder: Path, stack: AsyncExitStack, address: str) -> Rig:
    what = known(LEGACY, ORDERS, replicas=(replica(LEGACY, "legacy-1", address),), fallback="legacy", compression=True)
    return await stack.enter_async_context(gateway(folder, what))


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/", {}),
        ("GET", "/basket/7?size=a%20b&size=&plus=1+1&equals==&utf=%C3%A9", {}),
        ("GET", "/caf%C3%A9/a%20b;v=1/~user/(x)", {}),
        ("POST", "/basket", {"content": b"\x00\xff\r\nraw", "headers": {"content-type": "application/octet-stream"}}),
        ("POST", "/form", {"data": {"name": "Ada", "city": "K\u00f6ln"}}),
        ("PUT", "/basket/7", {"json": {"sku": "mug"}}),
        ("DELETE", "/basket/7", {}),
        ("PATCH", "/basket/7", {"content": b"{}"}),
        ("OPTIONS", "/basket/7", {"headers": {"origin": "https://x", "access-control-request-method": "PUT"}}),
        ("PROPFIND", "/files", {}),
        ("GET", "/private", {"headers": {"authorization": "Basic YWRhOnB3"}}),
        ("GET", "/private", {"headers": {"authorization": "Bearer not.one.of-ours"}}),
        ("GET", "/account", {"headers": {"cookie": 'session=abc; theme=dark; q="a b"'}}),
        ("GET", "/", {"headers": {"host": "shop.example"}}),
        ("GET", "/", {"headers": {"host": "shop.example:8443"}}),
        ("GET", "/", {"headers": {"accept-encoding": "gzip", "if-none-match": '"7"', "range": "bytes=0-1", "user-agent": "x"}}),
        ("GET", "/", {"headers": {"x-forwarded-for": "6.6.6.6"}}),
        ("GET", "/", {"headers": {"x-csrf-token": "t", "x-requested-with": "XMLHttpRequest", "referer": "http://a/b?c"}}),
    ],
)
def test_everything_arrives_as_it_was_sent(legacy: Legacy, method: str, path: str, options: dict[str, Any]) -> None:
    direct, through = (answer.json() for answer in legacy.both(method, path, **options))

    expected = {name: value for name, value in direct["given"].items() if name not in OF_THE_CONNECTION | SET}
    found = {name: value for name, value in through["given"].items() if name not in OF_THE_CONNECTION | SET}
    if "headers" not in options or "host" not in options["headers"]:
        del expected["HTTP_HOST"], found["HTTP_HOST"]  # each was asked by its own name
    assert found == expected
    assert through["body"] == direct["body"]
    assert set(through["given"]) >= SET
    assert ip_address(through["given"]["HTTP_X_FORWARDED_FOR"]) != ip_address("6.6.6.6"), "one address, and the gateway's word"


def test_its_answer_comes_back_as_it_was_given(legacy: Legacy) -> None:
    direct, through = legacy.both("GET", "/")

    own = {"x-request-id", "server", "date"}
    kept = [(name, value) for name, value in through.headers.multi_items() if name not in own]
    told = [(name, value) for name, value in direct.headers.multi_items() if name not in own]
    assert sorted(one for one in kept if one[0] not in ("content-length", "transfer-encoding")) == sorted(
        one for one in told if one[0] not in ("content-length", "transfer-encoding")
    )
    assert (through.status_code, through.headers.get_list("set-cookie")) == (299, ["session=1; HttpOnly", "basket=2"])


def test_a_path_that_a_service_owns_is_not_its_own(legacy: Legacy) -> None:
    assert legacy.through.get("/orders/7").status_code == 404
    assert legacy.through.get("/health/ready").status_code == 404
    assert legacy.through.get("/ordersx").status_code == 299
