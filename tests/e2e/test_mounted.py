"""Applications that exist already, ASGI and WSGI, as services behind the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.system import RunningSystem, running


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("mounted", tmp_path_factory.mktemp("mounted") / "mounted") as mounted:
        yield mounted


@pytest.fixture(scope="module")
def ann(mounted: RunningSystem) -> Iterator[httpx.Client]:
    with mounted.client("ann") as http:
        yield http


@pytest.fixture(scope="module")
def nobody(mounted: RunningSystem) -> Iterator[httpx.Client]:
    with mounted.client() as http:
        yield http


def direct(mounted: RunningSystem, service: str) -> str:
    """Where the service's process answers, past the gateway."""
    return f"http://127.0.0.1:{mounted.processes()[f'{service}-1']['port']}"


@pytest.mark.parametrize(("method", "path"), [("GET", "/starlit/deep/a"), ("PUT", "/starlit/upload"), ("POST", "/wooden/a")])
def test_a_token_is_required_by_the_gateway_and_again_by_the_service(
    mounted: RunningSystem, nobody: httpx.Client, method: str, path: str
) -> None:
    at_the_gateway = nobody.request(method, path)
    past_it = httpx.request(method, direct(mounted, path.split("/")[1]) + path, timeout=15)
    for answer in (at_the_gateway, past_it):
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_an_asgi_application_has_every_path_below_its_name_and_knows_who_calls(ann: httpx.Client) -> None:
    answer = ann.get("/starlit/deep/er/and%20deeper", params={"q": "1"}, headers={"x-atoll-subject": "forged"})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["path"], said["query"]) == ("/starlit/deep/er/and deeper", {"q": "1"})
    assert said["subject"] == ann.get("/starlit/new").json() != "forged"
    assert ann.put("/starlit/upload", content=b"x" * 100_000).text == "100000 bytes"
    assert ann.get("/starlit/lines").text == "0\n1\n2\n"


def test_whoever_comes_past_the_gateway_can_not_make_up_who_calls(mounted: RunningSystem, ann: httpx.Client) -> None:
    headers = {**ann.headers, "x-atoll-subject": "forged", "X-Atoll-Scope": "starlit:admin"}
    answer = httpx.get(f"{direct(mounted, 'starlit')}/starlit/deep/a", headers=headers, timeout=15)
    assert answer.json()["subject"] == ann.get("/starlit/new").json()
    assert answer.json()["scope"] == "starlit:read"
    headers = {**ann.headers, "x_atoll_subject": "forged"}
    answer = httpx.get(f"{direct(mounted, 'wooden')}/wooden/a", headers=headers, timeout=15)
    assert answer.headers["x-caller"] == ann.get("/starlit/new").json()


def test_what_the_application_does_not_know_is_its_own_404_and_what_nobody_knows_the_gateways(ann: httpx.Client) -> None:
    own, gateways = ann.get("/starlit/unknown"), ann.get("/unknown")
    assert (own.status_code, own.text) == (404, "Not Found")
    assert (gateways.status_code, gateways.headers["content-type"]) == (404, "application/problem+json")


def test_an_operation_beside_the_application_has_its_own_scope(ann: httpx.Client) -> None:
    assert ann.get("/starlit/new").status_code == 200
    assert ann.get("/starlit/elsewhere").status_code == 403


def test_a_wsgi_application_answers_with_its_own_status_and_headers(ann: httpx.Client) -> None:
    answer = ann.post("/wooden/form/1", params={"q": "2"}, content=b"body" * 1000)
    assert (answer.status_code, answer.headers["x-own"]) == (201, "1")
    assert answer.text == "POST /wooden/form/1?q=2 " + "body" * 1000
    assert ann.get("/wooden").text == "GET /wooden? "


def test_a_public_application_checks_its_callers_itself(ann: httpx.Client, nobody: httpx.Client) -> None:
    refused = nobody.get("/open/door")
    assert (refused.status_code, refused.text, refused.headers["www-authenticate"]) == (401, "its own no", "Basic")
    assert nobody.get("/open/door", headers={"authorization": "Basic own"}).text == "its own yes"
    assert ann.get("/open/door").text == "its own no"
