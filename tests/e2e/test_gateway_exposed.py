"""What monitoring may ask of a gateway in a container, with a real Envoy behind it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from atoll.errors import SystemMistake
from atoll.gateway.admin import Admin
from atoll.gateway.container import run
from atoll.gateway.exposed import Told, exposed
from atoll.gateway.ir import Endpoint
from atoll.gateway.report import Report, families, is_whole, of_bus
from atoll.gateway.translate import translate
from tests.support.gateway import Rig, contract, gateway, known
from tests.support.ports import free_port
from tests.support.tls import Files
from tests.support.waiting import until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    orders = contract("orders", {"/orders": {"get": {"security": []}}})
    async with gateway(tmp_path, known(orders)) as rig:
        yield rig


@pytest.fixture
async def monitoring(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    at, applied = Endpoint("127.0.0.1", free_port()), Path(rig.folders.applied)
    async with (
        exposed(Admin(rig.admin), at, Told(lambda: families(applied), lambda: is_whole(applied))),
        httpx.AsyncClient(base_url=f"http://{at}", timeout=20) as client,
    ):
        yield client


async def test_metrics_are_those_that_somebody_looks_at(rig: Rig, monitoring: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient() as client:
        await client.get(f"{rig.url}/orders")

    async def counted() -> set[str]:
        answer = await monitoring.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        found = {sample.name for one in text_string_to_metric_families(answer.text) for sample in one.samples}
        return found if "envoy_atoll_duration_ms_bucket" in found else set()

    found = await until(counted, 20, "the request is counted")
    assert {"envoy_atoll_requests", "envoy_server_live", "envoy_cluster_membership_healthy"} <= {
        name.removesuffix("_total") for name in found
    } | found
    assert not {name for name in found if name.startswith("envoy_listener_manager")}


def test_when_the_authority_of_the_bus_ends_is_told_and_nothing_where_there_is_none(tmp_path: Path) -> None:
    files = Files(tmp_path)
    (found,) = of_bus(str(files.ca))
    assert [one.value for one in found.samples] == [files.authority.pair.ends.timestamp()]
    assert of_bus("") == []
    assert of_bus(str(tmp_path / "nowhere.pem")) == []


async def _told(monitoring: httpx.AsyncClient) -> dict[str, float]:
    answer = await monitoring.get("/metrics")
    samples = [one for family in text_string_to_metric_families(answer.text) for one in family.samples]
    return {one.name: one.value for one in samples if one.name.startswith("atoll_gateway_")}


async def test_what_is_refused_left_out_or_changed_by_somebody_else_is_a_metric(
    rig: Rig, monitoring: httpx.AsyncClient
) -> None:
    assert await _told(monitoring) == {}, "the controller has told nothing yet"
    report, before = Report(Path(rig.folders.applied)), time.time() - 1
    report.succeeded(translate(rig.known, rig.listener), rig.known.system.services, "")
    assert await _told(monitoring) == {
        "atoll_gateway_refused": 0,
        "atoll_gateway_left_out": 0,
        "atoll_gateway_drift_timestamp_seconds": 0,
    }

    report.failed("Envoy refuses this change")
    report.certificates({}, ["its key does not fit"])
    report.drifted(("cds.json was changed or removed",))
    report.healed()

    told = await _told(monitoring)
    assert (told["atoll_gateway_refused"], told["atoll_gateway_left_out"]) == (1, 1)
    assert before < told["atoll_gateway_drift_timestamp_seconds"] < time.time() + 1


async def test_it_is_ready_as_long_as_envoy_is(rig: Rig, monitoring: httpx.AsyncClient) -> None:
    Report(Path(rig.folders.applied)).whole()
    assert (await monitoring.get("/ready")).status_code == 200
    rig.process.stop()
    assert (await monitoring.get("/ready")).status_code == 503
    assert (await monitoring.get("/metrics")).status_code == 503


async def test_it_is_not_ready_before_it_has_read_what_the_bus_knows(rig: Rig, monitoring: httpx.AsyncClient) -> None:
    Report(Path(rig.folders.applied)).failed("Envoy refuses this change")
    answer = await monitoring.get("/ready")
    assert (answer.status_code, answer.text) == (503, "the bus has not told yet what there is\n")


@pytest.mark.parametrize("path", ["/quitquitquit", "/config_dump", "/metrics/../quitquitquit", "/stats?filter=x"])
async def test_nothing_else_of_the_admin_port_can_be_reached(rig: Rig, monitoring: httpx.AsyncClient, path: str) -> None:
    assert (await monitoring.request("GET", path)).status_code == 404
    assert (await monitoring.request("POST", path)).status_code == 405
    assert (await monitoring.get("/metrics")).status_code == 200


def test_an_address_without_a_port_is_refused(tmp_path: Path) -> None:
    environ = {
        "ATOLL_BUS_URL": "nats://127.0.0.1:1",
        "ATOLL_GATEWAY_DIR": str(tmp_path),
        "ATOLL_GATEWAY_PORT": "1",
        "ATOLL_ENVOY_ADMIN": "127.0.0.1:1",
        "ATOLL_GATEWAY_METRICS": "everywhere",
    }
    with pytest.raises(SystemMistake, match="ATOLL_GATEWAY_METRICS"):
        run(environ)
