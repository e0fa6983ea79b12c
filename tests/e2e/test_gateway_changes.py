"""A change counts whole or not at all: what Envoy would refuse is never written, and the next good change goes through."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import structs

from atoll.engines.process import Process
from atoll.errors import Bug, EngineOutage
from atoll.gateway import validation
from atoll.gateway.admin import Admin
from atoll.gateway.apply import Applier
from atoll.gateway.files import body, write_proof
from atoll.gateway.installer import Installer, Outcome
from atoll.gateway.ir import Endpoint
from atoll.gateway.known import Known, MirrorEntry
from atoll.gateway.report import Report
from atoll.gateway.translate import translate
from atoll.gateway.validation import Question
from atoll.gateway.xds import proof
from atoll.gateway.xds.folders import PROOF, TYPES
from atoll.gateway.xds.resources import render
from atoll.gateway.xds.typed import header, typed
from tests.support.gateway import Rig, contract, gateway, known, load, replica, upstreams

ORDERS = contract("orders", {"/orders": {"get": {"security": []}}})
OTHER = contract("other", {"/other": {"get": {"security": []}}})
NEWER = contract("orders", {"/orders": {"get": {"security": []}}, "/orders/new": {"get": {"security": []}}})

Resources = dict[str, list[dict[str, Any]]]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with upstreams(tmp_path, "orders-1") as (one,), gateway(tmp_path / "gateway", _known(one.address)) as made:
        yield made


def _known(address: str) -> Known:
    return known(ORDERS, replicas=(replica(ORDERS, "orders-1", address),))


def _resources(rig: Rig, what: Known) -> Resources:
    return copy.deepcopy(dict(render(translate(what, rig.listener), rig.folders)))


def _files(rig: Rig) -> dict[str, bytes]:
    return {kind: Path(rig.folders.file(kind)).read_bytes() for kind in TYPES}


def _provider(resources: Resources) -> dict[str, Any]:
    """Of the token check."""
    found: dict[str, Any] = next(iter(resources["ecds"][0]["typed_config"]["providers"].values()))
    return found


def _newer(rig: Rig) -> Known:
    """One more operation, which the replica offers too."""
    (one,) = rig.known.replicas.values()
    changed = known(NEWER, replicas=(replica(NEWER, one.replica, one.address),))
    return replace(changed, keys=rig.known.keys)


def _unknown_field(resources: Resources) -> None:
    resources["rds"][0]["virtual_hosts"][0]["routes"][-1]["requre_tls"] = "ALL"


def _unknown_cluster(resources: Resources) -> None:
    resources["rds"][0]["virtual_hosts"][0]["routes"].insert(0, {"match": {"prefix": "/x"}, "route": {"cluster": "nobody"}})


def _bad_expression(resources: Resources) -> None:
    routes = resources["rds"][0]["virtual_hosts"][0]["routes"]
    routes.insert(0, {"match": {"safe_regex": {"regex": "/x("}}, "direct_response": {"status": 200}})


def _bad_cluster(resources: Resources) -> None:
    resources["cds"][0]["connect_timeout"] = "-1s"


def _bad_filter(resources: Resources) -> None:
    manager = resources["lds"][0]["filter_chains"][0]["filters"][-1]["typed_config"]
    manager["http_filters"].append({"name": "last", "typed_config": manager["http_filters"][-1]["typed_config"]})


Spoil = Callable[[Resources], None]

FAULTS: dict[str, Spoil] = {
    "requre_tls": _unknown_field,
    "nobody": _unknown_cluster,
    "missing )": _bad_expression,
    "Expected positive duration": _bad_cluster,
    "last": _bad_filter,
}


def _with(**route: Any) -> Spoil:
    """One more route, with what is wrong with it."""

    def spoil(resources: Resources) -> None:
        entry = {"match": {"prefix": "/x"}, "direct_response": {"status": 200}, **route}
        if "route" in route:
            del entry["direct_response"]
        resources["rds"][0]["virtual_hosts"][0]["routes"].insert(0, entry)

    return spoil


def _filter(name: str, message: str, **fields: Any) -> Spoil:
    return _with(typed_per_filter_config={name: typed(f"envoy.extensions.filters.http.{message}", **fields)})


def _header(name: str, value: str) -> Spoil:
    return _with(response_headers_to_add=[header(name, value)])


def _table(**fields: Any) -> Spoil:
    return lambda resources: resources["rds"][0].update(fields)


def _twice(resources: Resources) -> None:
    (table,) = resources["rds"]
    table["virtual_hosts"].append(copy.deepcopy(table["virtual_hosts"][0]))


_EVERYWHERE = {
    "permissions": [{"any": True}],
    "principals": [{"header": {"name": "a", "string_match": {"safe_regex": {"regex": "("}}}}],
}
ROUTE_FAULTS: dict[str, Spoil] = {
    "cluster 'nobody'": _with(route={"cluster": "nobody"}),
    "cluster 'no-one'": _with(route={"weighted_clusters": {"clusters": [{"name": "no-one", "weight": 1}]}}),
    "cluster 'neither'": _with(route={"cluster": "orders", "request_mirror_policies": [{"cluster": "neither"}]}),
    "Sum of weights": _with(route={"weighted_clusters": {"clusters": [{"name": "orders", "weight": 0}]}}),
    "Expected positive duration": _with(route={"cluster": "orders", "timeout": "-1s"}),
    "max_interval": _with(
        route={"cluster": "orders", "retry_policy": {"retry_back_off": {"base_interval": "1s", "max_interval": "0.5s"}}}
    ),
    "registered implementation for 'nope'": _with(
        route={"cluster": "orders", "retry_policy": {"retry_host_predicate": [{"name": "nope"}]}}
    ),
    "Duplicate upgrade websocket": _with(route={"cluster": "orders", "upgrade_configs": 2 * [{"upgrade_type": "websocket"}]}),
    "max program size": _with(match={"safe_regex": {"regex": "/" + 11_000 * "x"}}),
    "Match: value is required": _with(match=None),
    "is required": _with(direct_response=None),
    "inside range": _with(direct_response={"status": 99}),
    "response body size": _with(direct_response={"status": 200, "body": {"inline_string": 500_000 * "x"}}),
    "does not match regex pattern": _header("a", "x\ny"),
    "Not supported field in StreamInfo: NOPE": _header("a", "%NOPE%"),
    "Couldn't find valid command": _header("a", "50% of"),
    "no such field: 'rbca'": _filter("envoy.filters.http.rbac", "rbac.v3.RBACPerRoute", rbca={}),
    "missing ): (": _filter("r", "rbac.v3.RBACPerRoute", rbac={"rules": {"policies": {"p": _EVERYWHERE}}}),
    "requirement_specifier": _filter("j", "jwt_authn.v3.PerRouteConfig"),
    "script load error": _filter("l", "lua.v3.LuaPerRoute", source_code={"inline_string": "function ("}),
    "must be greater than 0": _filter("b", "buffer.v3.BufferPerRoute", buffer={"max_request_bytes": 0}),
    "nope.v3.Nope": _filter("n", "nope.v3.Nope"),
    "Only a single wildcard domain": _twice,
    "host headers may not be removed": _table(request_headers_to_remove=["host"]),
    "no such field: 'nonsense'": _table(nonsense=True),
}


async def test_what_envoy_would_refuse_is_refused_whole_and_with_its_reason(rig: Rig) -> None:
    applier, before = Applier(rig.folders, Admin(rig.admin)), _files(rig)
    async with load(lambda http: http.get(rig.url + "/orders")) as traffic:
        for word, spoil in FAULTS.items():
            bad = _resources(rig, _newer(rig))
            spoil(bad)
            with pytest.raises(Bug, match="Envoy refuses this change") as refusal:
                await applier.apply(bad)
            assert word in refusal.value.detail
            assert _files(rig) == before
        await traffic.reach(20)
        await applier.apply(_resources(rig, _newer(rig)))
        await traffic.reach(20)

    assert traffic.failures == []
    async with httpx.AsyncClient() as http:
        assert (await http.get(rig.url + "/orders/new")).status_code == 200


async def test_whatever_is_wrong_with_a_route_the_running_envoy_refuses_the_whole_table(rig: Rig) -> None:
    """And what is told is what a starting one says."""
    applier, before = Applier(rig.folders, Admin(rig.admin)), _files(rig)
    for word, spoil in ROUTE_FAULTS.items():
        bad = _resources(rig, _newer(rig))
        spoil(bad)
        with pytest.raises(Bug, match="Envoy refuses this change") as refusal:
            await applier.apply(bad)
        assert word in refusal.value.detail
        assert _files(rig) == before

    await applier.apply(_resources(rig, _newer(rig)))


def _reaches_envoy(resources: Resources) -> bool:
    """What our routes never have has no form in which Envoy could be given it, and it is not asked about clusters."""
    try:
        return bool(body("rds", resources["rds"])) and not validation.without_cluster(resources)
    except Bug:
        return False


async def test_a_table_that_nobody_tried_is_refused_whole_and_put_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the table in use needs no other protection than the one that Envoy gives it, and requests do not notice."""
    monkeypatch.setattr(validation, "question", lambda *_: Question.NONE)
    applier, before = Applier(rig.folders, Admin(rig.admin)), _files(rig)
    async with load(lambda http: http.get(rig.url + "/orders"), width=2) as traffic:
        for word, spoil in ROUTE_FAULTS.items():
            bad = _resources(rig, _newer(rig))
            spoil(bad)
            with pytest.raises(Bug, match="Envoy rejected rds" if _reaches_envoy(bad) else "Envoy refuses this") as refusal:
                await applier.apply(bad)
            assert word in refusal.value.detail
            assert _files(rig) == before
        await traffic.reach(5)

    assert traffic.failures == []


async def test_new_routes_are_tried_where_no_request_meets_them_and_no_process_is_started(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def started(_: Any) -> str:
        raise AssertionError("an Envoy was started for this")

    monkeypatch.setattr(validation, "check", started)
    admin = Admin(rig.admin)
    applier = Applier(rig.folders, admin)

    await applier.apply(_resources(rig, _newer(rig)))
    # A contract of which nobody runs anything yet: a cluster more, and routes to it.
    unheard = replace(_newer(rig), system=known(NEWER, OTHER).system, contracts=known(NEWER, OTHER).contracts)
    await applier.apply(_resources(rig, unheard))

    async with httpx.AsyncClient() as http:
        assert (await http.get(rig.url + "/orders/new")).status_code == 200
        assert (await http.get(rig.url + "/other")).status_code == 503
    assert Path(rig.folders.file(PROOF)).read_bytes() == body(PROOF, proof.nothing())
    seen = await admin.look()
    assert seen
    assert seen.refused[PROOF] == 0


async def test_a_directory_for_trying_that_is_gone_costs_time_and_nothing_else(rig: Rig) -> None:
    applier, bad = Applier(rig.folders, Admin(rig.admin)), _resources(rig, _newer(rig))
    shutil.rmtree(rig.folders.directory(PROOF))
    _bad_expression(bad)

    with pytest.raises(Bug, match=r"missing \)"):
        await applier.apply(bad)

    await applier.apply(_resources(rig, _newer(rig)))
    async with httpx.AsyncClient() as http:
        assert (await http.get(rig.url + "/orders/new")).status_code == 200


async def test_an_envoy_of_an_older_version_is_given_the_table_for_trying(rig: Rig) -> None:
    await _stop(rig)
    Path(rig.folders.file("lds")).write_bytes(body("lds", _resources(rig, rig.known)["lds"][:-1]))
    shutil.rmtree(rig.folders.directory(PROOF))
    await _start_again(rig)

    write_proof(rig.folders)
    applier = Applier(rig.folders, Admin(rig.admin))
    async with load(lambda http: http.get(rig.url + "/orders"), width=2) as traffic:
        await applier.apply(_resources(rig, rig.known))
        bad = _resources(rig, _newer(rig))
        _bad_expression(bad)
        with pytest.raises(Bug, match=r"missing \)"):
            await applier.apply(bad)
        await applier.apply(_resources(rig, _newer(rig)))
        await traffic.reach(5)

    assert traffic.failures == []
    seen = await Admin(rig.admin).look()
    assert seen
    assert seen.refused[PROOF] == 1


async def test_what_only_a_running_envoy_can_refuse_is_taken_back_too(rig: Rig) -> None:
    """A key set is not validated first, because a withdrawn key must not wait."""
    applier, before = Applier(rig.folders, Admin(rig.admin)), _files(rig)
    bad = _resources(rig, rig.known)
    _provider(bad)["local_jwks"]["inline_string"] = "nonsense"

    with pytest.raises(Bug, match=r"rejected ecds .*: .*jwks"):
        await applier.apply(bad)

    assert _files(rig) == before
    await applier.apply(_resources(rig, _newer(rig)))


async def test_replicas_and_keys_never_wait_and_what_is_asked_of_whom(rig: Rig) -> None:
    now = _resources(rig, rig.known)
    moved = _resources(rig, _known("127.0.0.1:9"))
    rotated = copy.deepcopy(now)
    _provider(rotated)["issuer"] = "http://other"

    more = {**now, "cds": [*now["cds"], {**now["cds"][0], "name": "another"}]}
    slower = {**now, "cds": [{**now["cds"][0], "connect_timeout": "7s"}]}
    listener = {**now, "lds": [{**now["lds"][0], "name": "another"}]}

    for change in (moved, rotated, more, {**now, "cds": []}):
        assert validation.question(now, change) is Question.NONE
    assert validation.question(now, _resources(rig, _newer(rig))) is Question.ROUTES
    for change in (slower, listener, {**rotated, "rds": _resources(rig, _newer(rig))["rds"]}):
        assert validation.question(now, change) is Question.ALL
    assert validation.question({kind: [] for kind in TYPES}, now) is Question.ALL


async def test_of_many_routes_only_the_new_ones_are_looked_at_again(rig: Rig) -> None:
    old, new = _resources(rig, rig.known), _resources(rig, _newer(rig))

    (table,) = validation.part_to_check(old, new)["rds"]

    paths = {route["match"].get("path") for route in table["virtual_hosts"][0]["routes"]}
    assert "/orders/new" in paths
    assert "/orders" not in paths
    (unchanged,) = validation.part_to_check({"cds": old["cds"]}, new)["rds"]
    assert unchanged["virtual_hosts"][0]["routes"] == []


LONG = (
    "/orders/accounts/{account_id}/subscriptions/{subscription_id}/resource-groups/{group}/virtual-networks/{network}"
    "/subnets/{subnet}/addresses"
)
MANY = "/orders/" + "/".join(f"{{part_{number}}}" for number in range(40))


@pytest.mark.parametrize("path", [LONG, MANY])
async def test_a_long_path_with_parameters_is_a_path_like_any_other(rig: Rig, path: str) -> None:
    await rig.apply(replace(known(contract("orders", {path: {"get": {"security": []}}})), replicas=rig.known.replicas))

    async with httpx.AsyncClient() as http:
        assert (await http.get(rig.url + path.replace("{", "").replace("}", ""))).status_code == 503  # no replica offers it


async def test_the_fallback_can_be_mirrored_at_many_paths(tmp_path: Path) -> None:
    words = ("products", "categories", "customers", "invoices", "shipments", "returns", "newsletter", "search", "basket")
    mirrors = {"new": MirrorEntry("legacy", "orders", tuple(f"/{word}" for word in words), 0.1)}
    what = known(ORDERS, contract("legacy", {}), fallback="legacy", mirrors=mirrors)

    async with gateway(tmp_path / "gateway", what, comparer=Endpoint("127.0.0.1", 9)) as rig, httpx.AsyncClient() as http:
        assert (await http.get(rig.url + "/products")).status_code == 503


# More than Envoy is told to take.
TOO_LONG = contract("orders", {"/orders": {"get": {"security": []}}, "/orders/{id}/" + 11_000 * "x": {"get": {"security": []}}})


async def test_what_a_starting_envoy_refused_is_not_taken_for_good(tmp_path: Path) -> None:
    async with gateway(tmp_path / "gateway", known(TOO_LONG)) as rig:
        more = known(TOO_LONG, replicas=(replica(TOO_LONG, "orders-1", "127.0.0.1:9"),))
        with pytest.raises(Bug, match="Envoy refuses this change"):
            await Applier(rig.folders, Admin(rig.admin)).apply(_resources(rig, more))


async def _stop(rig: Rig) -> None:
    rig.process.stop()


async def _start_again(rig: Rig) -> None:
    """With the files that are there, as its supervisor does."""
    rig.process = Process.start(rig.process.command)
    await rig.wait_ready()


async def test_a_change_that_is_refused_while_envoy_is_down_does_not_take_back_the_one_before(rig: Rig) -> None:
    applier = Applier(rig.folders, Admin(rig.admin))
    await _stop(rig)
    with pytest.raises(EngineOutage):
        await applier.apply(_resources(rig, _newer(rig)))
    written, bad = _files(rig), _resources(rig, _newer(rig))
    _unknown_field(bad)

    with pytest.raises(Bug):
        await applier.apply(bad)

    assert await applier.drifted() == ()
    with pytest.raises(EngineOutage):
        await applier.heal()
    assert _files(rig) == written
    await _start_again(rig)
    assert await applier.drifted() == ()
    await applier.apply(_resources(rig, _newer(rig)))


async def test_while_envoy_is_down_a_change_is_validated_and_written_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    really = validation.check

    async def counted(resources: validation.Resources) -> str:
        asked.append(resources)
        return await really(resources)

    monkeypatch.setattr(validation, "check", counted)
    applier = Applier(rig.folders, Admin(rig.admin))
    await _stop(rig)
    files = set()
    for _ in range(3):
        with pytest.raises(EngineOutage):
            await applier.apply(_resources(rig, _newer(rig)))
        files.add(tuple(Path(rig.folders.file(kind)).stat().st_ino for kind in TYPES))

    assert len(asked) == len(files) == 1


async def test_a_file_that_cannot_be_written_loses_no_change(rig: Rig) -> None:
    """As on a full disk: here a directory is in the way."""
    report = Path(rig.folders.applied)
    installer = Installer(rig.listener, Applier(rig.folders, Admin(rig.admin)), Report(report), rig.known)
    table = Path(rig.folders.file("rds"))
    table.unlink()
    (table / "in the way").mkdir(parents=True)

    assert await installer.install(_newer(rig)) is Outcome.LATER
    assert "tried again" in json.loads(report.read_bytes())["error"]

    shutil.rmtree(table)
    assert await installer.install(_newer(rig)) is Outcome.IN_USE
    assert json.loads(report.read_bytes())["error"] is None
    async with httpx.AsyncClient() as http:
        assert (await http.get(rig.url + "/orders/new")).status_code == 200


async def test_a_refusal_stays_told_while_what_is_urgent_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is judged once and told once, in a report that is written anew for every replica that comes."""
    told = []
    really = Report._write

    def remembered(self: Report, **changes: Any) -> None:
        really(self, **changes)
        told.append(json.loads(Path(rig.folders.applied).read_bytes())["error"])

    monkeypatch.setattr(Report, "_write", remembered)
    installer = Installer(rig.listener, Applier(rig.folders, Admin(rig.admin)), Report(Path(rig.folders.applied)), rig.known)
    refused = replace(rig.known, system=structs.replace(rig.known.system, max_header_size_kib=100_000))
    assert await installer.install(refused) is Outcome.REFUSED
    told.clear()

    for one in range(3):
        replicas = {"orders.orders-2": replica(ORDERS, "orders-2", f"127.0.0.1:{2000 + one}")}
        assert await installer.install(replace(refused, replicas=replicas)) is Outcome.REFUSED

    assert len(told) == 3
    assert all("Envoy refuses this change" in error for error in told)


async def test_a_report_that_cannot_be_written_is_written_when_it_can_be(rig: Rig) -> None:
    path = Path(rig.folders.applied)
    report = Report(path)
    installer = Installer(rig.listener, Applier(rig.folders, Admin(rig.admin)), report, rig.known)
    (path / "in the way").mkdir(parents=True)
    assert await installer.install(_newer(rig)) is Outcome.IN_USE

    shutil.rmtree(path)
    report.write_again()

    assert json.loads(path.read_bytes())["error"] is None


async def test_a_directory_that_was_removed_is_made_again_and_the_next_envoy_sees_it(rig: Rig) -> None:
    applier = Applier(rig.folders, Admin(rig.admin))
    before = _files(rig)
    shutil.rmtree(rig.folders.directory("rds"))

    assert "rds.pb was changed or removed" in await applier.drifted()
    with pytest.raises(EngineOutage, match="Envoy can't see changes of rds any more"):
        await applier.heal()
    assert _files(rig) == before
    assert await applier.drifted() == ("the directory rds was replaced",)
    with pytest.raises(EngineOutage, match="end Envoy, so that it starts again"):
        await applier.apply(_resources(rig, _newer(rig)))

    await _stop(rig)
    assert "the directory rds was replaced" in await applier.drifted()
    await _start_again(rig)
    await applier.apply(_resources(rig, _newer(rig)))
    async with httpx.AsyncClient() as http:
        assert (await http.get(rig.url + "/orders/new")).status_code == 200
    assert await applier.drifted() == ()
