"""What `atoll explain METHOD PATH` says of a request is what a real Envoy does with it, over many paths."""

from __future__ import annotations

import http.client
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll.gateway.ir import Document, Gateway, MethodList, MethodRefusal, Route
from atoll.gateway.known import Known, ServiceEntry
from atoll.gateway.matching import Fallback, NotFound, matched, normalized
from atoll.gateway.translate import translate
from tests.support.gateway import Rig, contract, gateway, known, system
from tests.support.tokens import Mint
from tests.support.waiting import until

OPEN: dict[str, Any] = {"security": []}
ORDERS = contract(
    "orders",
    {
        "/orders": {
            "get": {"operationId": "mine"},
            "post": {"operationId": "place", "security": [{"token": ["orders:write"]}]},
        },
        "/orders/{id}": {"get": {"operationId": "one"}, "delete": {"operationId": "cancel"}},
        "/orders/search": {"get": {"operationId": "search", **OPEN}, "head": {"operationId": "count", **OPEN}},
        "/orders/{id}/lines/{line}": {"put": {"operationId": "line", **OPEN}},
        "/orders/by-{day}.csv": {"get": {"operationId": "export", **OPEN}},
        "/orders/files/{rest:path}": {"get": {"operationId": "files", **OPEN}},
        "/orders/a:b@c": {"get": {"operationId": "exactly", **OPEN}},
    },
)
SHOP = contract("shop", {"/": {"get": {"operationId": "home", **OPEN}}, "/über uns": {"get": {"operationId": "about", **OPEN}}})
LEGACY = contract("legacy", {})
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
PIECES = (
    *("orders", "search", "42", "files", "lines", "by-1.csv", "by-.csv", "health", "ready", "legacy", "docs", "openapi.json"),
    *(
        "ORDERS",
        "ordersx",
        "",
        "",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        "%6frders",
        "a%20b",
        "%zz",
        "%",
        "a;b",
        "..;",
        "..;x",
        ".;",
        "%2e%2e;",
        "~x",
        "%7Ex",
    ),
    *(
        "%2F",
        "%5c",
        "a\\b",
        "%00",
        "a%3Fb",
        "a+b",
        "a:b@c",
        "a%3Ab@c",
        "a%3ab%40c",
        "a|b",
        "a^b",
        "a[b]",
        "{id}",
        "%C3%BCber%20uns",
        "%c3%bcber%20uns",
        "'",
        '"',
    ),
    *("a`b", "<b>", "a%41", "a*b", "a,b", "a!b", "a$b", "a&b=c"),
)


@pytest.fixture(params=["", "legacy"], ids=["without a fallback", "with a fallback"])
def what(request: pytest.FixtureRequest) -> Known:
    made = known(ORDERS, SHOP, LEGACY, fallback=request.param or None)
    services = {**made.system.services, "shop": ServiceEntry(kind="client", prefix="/", digests=(SHOP.digest,))}
    return Known(system(ORDERS, SHOP, LEGACY, services=services, fallback=request.param or None), made.contracts)


def paths(count: int) -> Iterator[str]:
    chance = random.Random(7)
    for _ in range(count):
        path = "".join(f"/{chance.choice(PIECES)}" for _ in range(chance.randint(1, 4)))
        yield path + chance.choice(("", "", "", "?q=1", "?a=/../b", "/"))


async def test_explained_is_what_envoy_does(tmp_path: Path, what: Known) -> None:
    asked = [(random.Random(path).choice(METHODS), path) for path in dict.fromkeys(paths(700))]
    async with gateway(tmp_path / "gateway", what, Mint()) as rig:
        answered = [(method, path, *ask(rig, method, path)) for method, path in asked]
        lines = {line["request_id"]: line["operation"] for line in await until(lambda: enough(rig, len(asked)))}
        planned = translate(what, rig.listener)
    wrong = [
        (method, path, said, found)
        for method, path, status, allow, request_id in answered
        if (said := explained(planned, method, path)) != (found := done(status, allow, lines.get(request_id)))
    ]
    assert not wrong, "\n".join(map(str, wrong))
    kinds = {explained(planned, method, path)[0] for method, path in asked}
    assert kinds == {"refused", "204", "405", "404", "operation"}, "or this would prove little"


def enough(rig: Rig, count: int) -> list[dict[str, str]]:
    lines = rig.log_lines()
    return lines if len(lines) >= count else []


def ask(rig: Rig, method: str, path: str) -> tuple[int, str, str]:
    """Status, Allow and request id, with the path sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", rig.listener.port, timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    connection.close()
    return answer.status, answer.headers.get("allow", ""), answer.headers.get("x-request-id", "")


def done(status: int, allow: str, operation: str | None) -> tuple[str, str]:
    if status in (204, 405):
        return str(status), allow
    if operation:
        return "operation", operation
    return ("refused", "") if status == 400 else (str(status), "")


def explained(planned: Gateway, method: str, path: str) -> tuple[str, str]:
    found = normalized(path)
    if found is None:
        return "refused", ""
    match matched(planned, method, found):
        case Route(name=name):
            return "operation", name
        case Document(path=own):
            return "operation", f"gateway{own}"
        case Fallback(cluster=cluster):
            return "operation", f"{cluster}.fallback"
        case MethodList(allow=allow):
            return "204", ", ".join(allow)
        case MethodRefusal(allow=allow):
            return "405", ", ".join(allow)
        case NotFound():
            return "404", ""
