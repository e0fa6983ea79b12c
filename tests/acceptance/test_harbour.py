"""TLS, a `command`, a mirror, WSGI, built pages and ways out: the same under `atoll up` and in Compose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.conftest import PLACE
from tests.acceptance.harbour import Harbour, InCompose, in_compose, on_machine, shown
from tests.acceptance.outside import outside
from tests.acceptance.test_containers import reached
from tests.support.load import Ask, load
from tests.support.waiting import until_sync

pytestmark = pytest.mark.skipif(PLACE == "kubernetes", reason="of `atoll up` and Compose")


@pytest.fixture(scope="module")
def harbour(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harbour]:
    folder = tmp_path_factory.mktemp("harbour")
    if PLACE == "local":
        with on_machine(folder) as here:
            yield here
    else:
        with in_compose(folder, request.getfixturevalue("deployed").engine) as there:
            yield there


@pytest.fixture
def in_containers(harbour: Harbour) -> InCompose:
    if not isinstance(harbour, InCompose):
        pytest.skip("only Compose promises this; make acceptance-compose")
    return harbour


@pytest.fixture
def client(harbour: Harbour) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"https://localhost:{harbour.port}", verify=harbour.files.trusting(), timeout=20) as http:
        yield http


# TLS


def test_clients_are_shown_the_certificate_that_an_operator_has(harbour: Harbour, client: httpx.Client) -> None:
    answer = client.get("/wooden")
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"] == "max-age=300"


def test_plain_http_is_told_the_way_and_gets_nothing_else(harbour: Harbour) -> None:
    answer = httpx.get(f"http://localhost:{harbour.redirect_port}/wooden?x=1", timeout=20)
    assert (answer.status_code, answer.headers["location"]) == (308, f"https://localhost:{harbour.port}/wooden?x=1")


def test_a_renewed_certificate_is_shown_without_a_restart_and_fails_no_request(harbour: Harbour) -> None:
    with load(
        f"https://localhost:{harbour.port}", lambda: Ask("GET", "/wooden"), {}, trusting=harbour.files.trusting()
    ) as answers:
        until_sync(answers.more(20), 60)
        pair = harbour.renewed()
        until_sync(lambda: shown(harbour.port) == pair.digest, 20, "the new certificate is shown")
        until_sync(answers.more(20), 60)
    assert answers.unexpected == []


def test_metrics_tell_when_the_certificate_ends(harbour: Harbour) -> None:
    pair = harbour.renewed()

    def told() -> set[float]:
        families = {one.name: one for one in text_string_to_metric_families(harbour.metrics())}
        found = families["envoy_listener_ssl_certificate_expiration_unix_time_seconds"].samples
        return {one.value for one in found}

    until_sync(lambda: told() == {pair.ends.timestamp()}, 20, "the metric is the new certificate's")


def test_a_client_of_the_system_reaches_the_gateway_from_inside(client: httpx.Client) -> None:
    assert client.get("/shore/asked").text == "wooden /wooden/inside"


# what is no service of atoll's


def test_what_nobody_has_goes_to_a_program_without_atoll(client: httpx.Client) -> None:
    said = client.get("/nobody/has/this").json()
    assert (said["by"], said["path"], said["atoll"]) == ("wall", "/nobody/has/this", False)


def test_in_a_container_a_program_has_packages_of_its_own(in_containers: InCompose, client: httpx.Client) -> None:
    said = client.get("/").json()
    assert said["server"].startswith("/opt/program/uvicorn/")
    assert said["bus"] == "nats:4222", "a secret that is a file is told as a value"
    assert "uvicorn" not in in_containers.inside("wall", "ls", "/opt/packages")


def test_such_a_program_is_replaced_under_load_without_a_failed_request(harbour: Harbour) -> None:
    url = f"https://localhost:{harbour.port}"
    with load(url, lambda: Ask("GET", "/anything"), {}, trusting=harbour.files.trusting()) as answers:
        until_sync(answers.more(20), 60)
        harbour.replace("wall")
        until_sync(answers.more(20), 60)
    assert answers.unexpected == []


def test_a_wsgi_application_answers(client: httpx.Client) -> None:
    assert client.get("/wooden/old").text == "wooden /wooden/old"


def test_what_was_built_of_a_page_is_served(client: httpx.Client) -> None:
    answer = client.get(client.get("/shore").text)
    assert (answer.status_code, answer.text) == (200, "body { color: teal; }\n")


def test_a_mirror_compares_what_clients_get_with_a_second_service(harbour: Harbour, client: httpx.Client) -> None:
    assert [client.get(f"/reviews/{sku}").json()["stars"] for sku in ("mug", "cup")] == [4, 4]

    def compared() -> dict[str, Any]:
        report = harbour.mirrored().get("reviews") or {"operations": {}}
        found = report["operations"].get("GET /reviews/{sku}", {})
        return dict(found) if found.get("same") and found.get("different") else {}

    assert until_sync(compared, 30, "both were compared")


# who reaches whom


def test_only_a_service_that_says_outbound_reaches_a_host_outside(in_containers: InCompose) -> None:
    with outside() as place:
        assert reached(in_containers, "reviews", [place]) == [True]
        assert reached(in_containers, "wooden", [place]) == [False]
        assert reached(in_containers, "wall", [place]) == [False]


def test_who_may_call_the_outside_reaches_nothing_more_of_the_system(in_containers: InCompose) -> None:
    places = [(name, 8000) for name in ("wall", "wooden", "shore", "auth")]
    addresses = [(one["IPAddress"], 8000) for name in ("wall", "wooden") for one in networks(in_containers, name)]
    assert not any(reached(in_containers, "reviews", [*places, *addresses]))


def test_no_service_reads_the_gateway_s_metrics(in_containers: InCompose) -> None:
    assert "envoy_server_live" in in_containers.metrics()
    place = in_containers.metrics_place()
    assert reached(in_containers, "wooden", [place, ("gateway", 9902)]) == [False, False]


def networks(containers: InCompose, service: str) -> list[dict[str, Any]]:
    return list(containers.container(service)["NetworkSettings"]["Networks"].values())
