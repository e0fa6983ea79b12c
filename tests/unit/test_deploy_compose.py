"""The Compose file: who shares a network with whom, what a change of the system changes, what can't be rendered."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import pytest

from atoll.deploy import yaml
from atoll.deploy.bus import compose_hosts
from atoll.deploy.compose import CELLS, Told, cells, render
from atoll.deploy.plan import Database, Part, Plan, plan
from atoll.deploy.secrets import Keeper, given_names, secret_files
from atoll.errors import SystemMistake
from atoll.system.contract import Contract
from atoll.system.manifest import Secret, ServiceSpec, System, parse
from tests.support.contracts import contract
from tests.support.manifests import certificates

MANIFEST = """
format = 1
name = "shop"
[auth.users.ada]
password = "demo-only-ada"
scopes = ["orders:read"]
[services.orders]
[services.orders.settings]
rate = "$0.10"
key = { secret = "payment_key" }
[services.catalog]
"""


def system(text: str = MANIFEST) -> System:
    return parse(text, Path("/shop/atoll.toml"))


def contracts(names: Iterable[str], database: str = "postgresql") -> dict[str, Contract]:
    return {name: msgspec.structs.replace(contract(name), database=database) for name in names}


def planned(*more: str) -> Plan:
    text = MANIFEST + "".join(f"[services.{name}]\n" for name in more)
    return plan(system(text), contracts(["auth", "orders", "catalog", *more]))


def told(one: Plan, before: dict[str, int] | None = None) -> Told:
    names = [*(part.name for part in one.parts), "gateway", "nats", "provision", *one.database_kinds]
    return Told({name: f"shop/{name}:1" for name in names}, cells(before or {}, [part.name for part in one.members]))


def sections(text: str) -> dict[str, str]:
    """The text of each container."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.partition("services:\n")[2].partition("\nnetworks:\n")[0].splitlines():
        if line.startswith("  ") and not line.startswith("   "):
            name = line.strip().removesuffix(":")
        found.setdefault(name, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def test_a_service_that_is_added_changes_no_other_container() -> None:
    before = planned()
    numbers = told(before).cells
    old = sections(render(before, told(before))["compose.yaml"])
    after = planned("reviews", "basket")
    new = sections(render(after, told(after, dict(numbers)))["compose.yaml"])
    assert new.keys() - old.keys() == {"reviews", "basket", "reviews-database", "basket-database"}
    assert {name: new[name] for name in old} == old


def test_who_goes_leaves_a_cell_that_the_next_one_takes_and_nobody_else_moves() -> None:
    first = cells({}, ["auth", "catalog", "orders"])
    assert first == {"auth": 0, "catalog": 1, "orders": 2}
    assert cells(first, ["auth", "orders", "reviews", "basket"]) == {"auth": 0, "orders": 2, "reviews": 1, "basket": 3}


def test_gateway_and_bus_are_in_all_cells_and_cells_come_in_eights() -> None:
    one = planned(*(f"more_{number}" for number in range(CELLS)))
    found = sections(render(one, told(one))["compose.yaml"])
    for name in ("gateway", "nats"):
        assert all(f"cell-{number:02}" in found[name] for number in range(2 * CELLS))


THREE = ("nats-1", "nats-2", "nats-3")


def of_three() -> Plan:
    return plan(system(MANIFEST + "[bus]\nservers = 3\n"), contracts(["auth", "orders", "catalog"]))


def test_three_servers_of_the_bus_have_a_volume_each_and_everybody_waits_for_all() -> None:
    one = of_three()
    text = render(one, told(one))["compose.yaml"]
    found = sections(text)
    assert "nats" not in found
    for name in THREE:
        assert f'"{name}-data:/data"' in found[name]
        assert f"ATOLL_BUS_SERVER: {name}" in found[name]
        for waiting in ("provision", "gateway"):
            assert f"{name}:\n        condition: service_healthy" in found[waiting]
    assert 'ATOLL_BUS_ADDRESS: "nats-1:4222,nats-2:4222,nats-3:4222"' in found["provision"]


def test_each_server_of_a_bus_that_stores_in_another_way_is_started_anew() -> None:
    """Compose does so when a container is told something else; a file that changes is none of its business."""
    for one, names in ((planned(), ["nats"]), (of_three(), ["nats-1", "nats-2", "nats-3"])):
        always = replace(one, system=replace(one.system, bus=replace(one.system.bus, sync_always=True)))
        before, after = (sections(render(each, told(each))["compose.yaml"]) for each in (one, always))
        assert {name for name in before if before[name] != after[name]} == set(names)


def test_three_servers_find_each_other_in_one_network_only() -> None:
    one = of_three()
    files = secret_files(one, Keeper(lambda name: name, {"payment_key": "k"}, certificates, bus=compose_hosts(one)))
    found = sections(render(one, told(one))["compose.yaml"])
    for name in THREE:
        assert f"platform:\n        aliases:\n          - {name}.routes" in found[name]
        assert found[name].count(".routes") == 1
        assert f"tls://{name}.routes:6222" in files["nats/nats.conf"]
        assert f"{name}.routes" in files["nats/tls.crt"]
    assert files["orders/bus_url"].count("@nats-") == len(THREE)


@pytest.mark.parametrize("wrong", ["2", "5", "true", '"3"'])
def test_a_bus_has_one_server_or_three(wrong: str) -> None:
    with pytest.raises(SystemMistake, match="`servers` must be 1 or 3"):
        system(MANIFEST + f"[bus]\nservers = {wrong}\n")


def test_a_database_shares_a_network_with_its_service_only() -> None:
    one = planned()
    found = sections(render(one, told(one))["compose.yaml"])
    network = "- orders-database"
    assert [name for name, text in found.items() if network in text] == ["orders-database", "orders"]


def test_only_who_may_call_the_outside_and_the_gateway_are_in_a_network_with_a_way_out() -> None:
    one = plan(system(MANIFEST + "outbound = true\n"), contracts(["auth", "orders", "catalog"]))
    text = render(one, told(one))["compose.yaml"]
    # An internal one says so before its addresses.
    assert sorted(re.findall(r"^  ([\w-]+):\n    ipam", text, re.MULTILINE)) == ["catalog-outbound", "edge"]
    found = sections(text)
    assert [name for name in found if "- catalog-outbound" in found[name]] == ["catalog"]
    assert [name for name in found if "      edge:" in found[name]] == ["gateway"]


def test_a_variable_sign_in_a_setting_stays_what_it_is() -> None:
    one = planned()
    assert "$$0.10" in render(one, told(one))["compose.yaml"]


def test_no_password_of_the_manifest_is_rendered() -> None:
    one = planned()
    assert "demo-only-ada" not in "".join(render(one, told(one)).values())


def test_a_network_that_is_too_small_is_refused() -> None:
    text = MANIFEST + '[containers]\nnetwork = "10.1.0.0/20"\n'
    text += "".join(f"[services.more_{number}]\n" for number in range(40))
    one = plan(system(text), contracts(["auth", "orders", "catalog", *(f"more_{number}" for number in range(40))]))
    with pytest.raises(SystemMistake, match="too small for 43 services"):
        render(one, told(one))


def test_what_only_an_operator_can_know_is_asked_for_by_name() -> None:
    one = planned()
    assert given_names(one) == {"payment_key": "orders"}
    with pytest.raises(SystemMistake, match=r"payment_key \(of orders\)"):
        secret_files(one, Keeper(lambda name: name, {}, certificates))


def test_somebody_else_s_database_has_no_container_and_its_url_is_given() -> None:
    one = planned()
    parts = tuple(_external(part) if part.name == "catalog" else part for part in one.parts)
    other = replace(one, parts=parts)
    assert "catalog-database" not in sections(render(other, told(other))["compose.yaml"])
    keeper = Keeper(lambda name: name, {"payment_key": "k", "catalog_url": "postgresql://elsewhere/catalog"}, certificates)
    assert secret_files(other, keeper)["catalog/database_url"] == "postgresql://elsewhere/catalog"


def _external(part: Part) -> Part:
    return replace(part, database=Database("postgresql", Secret("catalog_url")))


def test_only_provision_is_given_the_administrators_of_the_bus() -> None:
    files = secret_files(planned(), Keeper(lambda name: f"<{name}>", {"payment_key": "k"}, certificates))
    holders = {name for name, text in files.items() if "<bus.orders-admin>" in text}
    assert holders == {"nats/nats.conf", "provision/bus_users"}
    assert "<bus.orders>" not in files["provision/bus_users"]


TLS = """
[gateway]
port = 8443
[gateway.tls]
redirect_port = 8080
http3 = true
"""


def test_tls_is_spoken_with_files_that_an_operator_gives_and_clients_of_the_system_do_without() -> None:
    text = MANIFEST + TLS + '[services.shop]\nkind = "client"\nprefix = "/"\n'
    one = plan(system(text), contracts(["auth", "orders", "catalog", "shop"]))
    found = sections(render(one, told(one))["compose.yaml"])
    for line in (
        "ATOLL_GATEWAY_CERTIFICATE: /run/tls/tls.crt",
        '- "127.0.0.1:8443:8443"',
        '- "127.0.0.1:8443:8443/udp"',
        '- "127.0.0.1:8080:8080"',
        '- "./secrets/gateway-tls:/run/tls:ro"',
    ):
        assert line in found["gateway"]
    assert 'ATOLL_GATEWAY_URL: "http://gateway:9904"' in found["shop"]
    assert 'ATOLL_ISSUER: "https://localhost:8443/auth"' in found["orders"]
    assert [name for name in found if "gateway-tls" in found[name]] == ["gateway"]
    given = {"payment_key": "k", "tls.crt": "certificate", "tls.key": "key"}
    files = secret_files(one, Keeper(lambda name: name, given, certificates))
    assert (files["gateway-tls/tls.crt"], files["gateway-tls/tls.key"]) == ("certificate", "key")


def test_a_certificate_is_asked_for_as_other_secrets_are() -> None:
    one = plan(system(MANIFEST + TLS), contracts(["auth", "orders", "catalog"]))
    with pytest.raises(SystemMistake, match=r"tls.crt \(of gateway\), tls.key \(of gateway\)"):
        secret_files(one, Keeper(lambda name: name, {"payment_key": "k"}, certificates))


@pytest.mark.parametrize(("url", "said"), [("https://shop.example", 31_536_000), ("https://localhost:8443", 0)])
def test_https_for_good_is_promised_for_a_public_name_also_where_the_manifest_names_no_certificate(url: str, said: int) -> None:
    text = MANIFEST + TLS.replace("[gateway]", f'[gateway]\npublic_url = "{url}"')
    one = plan(system(text), contracts(["auth", "orders", "catalog"]))
    assert f'ATOLL_GATEWAY_HSTS_S: "{said}"' in render(one, told(one))["compose.yaml"]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("[gateway]\nport = 9902\n", "can't have the port 9902"),
        ("[gateway.tls]\nredirect_port = 9904\n", "can't have the port 9904"),
        ("[services.gateway-tls]\ncommand = ['x']\ncontract = 'c.json'\n", "gateway-tls is what something of the gateway"),
        ('[telemetry]\notlp_endpoint = "http://127.0.0.1:4318"\n', "http://127.0.0.1:4318 is that container itself"),
    ],
)
def test_what_can_not_be_the_same_in_containers_is_refused(more: str, what: str) -> None:
    with pytest.raises(SystemMistake, match=what):
        plan(system(MANIFEST + more), contracts(["auth", "orders", "catalog", "gateway-tls"]))


def test_metrics_are_told_where_no_service_is() -> None:
    one = planned()
    text = render(one, told(one))["compose.yaml"]
    (address,) = re.findall(r"ATOLL_GATEWAY_METRICS: \"([\d.]+):9902\"", text)
    assert f'edge:\n        ipv4_address: "{address}"' in text
    (edge,) = re.findall(r"^  edge:\n    ipam:\n      config:\n        - subnet: \"(.+)\"", text, re.MULTILINE)
    assert ip_address(address) in ip_network(edge)


def test_a_service_on_sqlite_runs_once() -> None:
    three = system(MANIFEST.replace("[services.catalog]", "[services.catalog]\nreplicas = 3"))
    names = ["auth", "orders", "catalog"]
    assert plan(three, contracts(names)).part("catalog").replicas == 3
    assert plan(three, contracts(names, "sqlite")).part("catalog").replicas == 1


def test_yaml_quotes_what_would_be_read_as_something_else() -> None:
    document = {"no": "yes", "list": ["1.0", 1, "a: b"], "empty": {}, "nested": [{"a": "b", "c": {"d": "x-y"}}], "flag": True}
    assert yaml.text(document) == (
        '"no": "yes"\nlist:\n  - "1.0"\n  - 1\n  - "a: b"\nempty: {}\nnested:\n  - a: b\n    c:\n      d: x-y\nflag: true\n'
    )


def test_an_unknown_part_is_refused_with_those_there_are() -> None:
    with pytest.raises(SystemMistake, match="no service 'nobody'"):
        planned().part("nobody")


def test_a_simulator_is_there_as_long_as_a_setting_names_it() -> None:
    text = MANIFEST + '[services.bank]\nkind = "simulator"\ncommand = ["python", "-m", "bank", "--port", "{port}"]\n'
    quiet = plan(system(text), contracts(["auth", "orders", "catalog"]))
    assert [part.name for part in quiet.parts if part.kind == "simulator"] == []
    calling = text.replace('rate = "$0.10"', 'rate = "{bank.url}/rate"')
    called = plan(system(calling), contracts(["auth", "orders", "catalog"]))
    assert isinstance(called.part("bank").spec, ServiceSpec)
    text = render(called, told(called))["compose.yaml"]
    assert "http://bank:8000/rate" in text
    assert [name for name, found in sections(text).items() if "outside-bank" in found] == ["orders", "bank"]
