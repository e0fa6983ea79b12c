"""docs/how-to/move-a-monolith-in.md, as it is written: an application behind the gateway, and a path carved out of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.pages import DOCS, blocks
from tests.support.system import RunningSystem, system

PAGE = DOCS / "how-to" / "move-a-monolith-in.md"

MONOLITH = """
def application(environ, start_response):
    start_response("200 OK", [("content-type", "text/plain"), ("set-cookie", "session=its-own")])
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}".encode()]
"""
CARVED_OUT = """
from atoll import Service

service = Service("orders", database=None)


@service.get("/orders", public=True)
async def orders() -> list[str]:
    return ["from the new service"]
"""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[httpx.Client]:
    with system(made(tmp_path / "source"), tmp_path / "shop") as shop:
        shop.up()
        yield from client(shop)


def client(shop: RunningSystem) -> Iterator[httpx.Client]:
    with shop.client() as http:
        yield http


def made(folder: Path) -> Path:
    """A system of the page's blocks, the monolith itself and one service more."""
    (declared,) = blocks(PAGE, "python")
    (fallback,) = [block for block in blocks(PAGE, "toml") if "fallback" in block.text]
    files = {
        "atoll.toml": f'format = 1\nname = "shop"\n{fallback.text}[services.legacy]\n[services.orders]\n',
        "services/legacy/legacy/service.py": declared.text,
        "services/legacy/legacy_shop/wsgi.py": MONOLITH,
        "services/orders/orders/service.py": CARVED_OUT,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_monolith_has_every_path_that_no_service_owns_and_checks_its_callers_itself(gateway: httpx.Client) -> None:
    for method, path in [
        ("GET", "/"),
        ("GET", "/basket/7"),
        ("POST", "/basket"),
        ("DELETE", "/basket/7"),
        ("GET", "/legacy/x"),
    ]:
        answer = gateway.request(method, path)
        assert (answer.status_code, answer.text) == (200, f"{method} {path}")
        assert answer.headers["set-cookie"] == "session=its-own"
    assert gateway.get("/orders").json() == ["from the new service"]
    assert gateway.get("/orders/7").status_code == 404
