"""Kubernetes manifests: each overlay as kustomize builds it, against the schemas of three versions and our own rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from atoll.deploy.files import write
from atoll.deploy.kubernetes import render, secret_generators
from atoll.deploy.plan import Plan
from atoll.errors import SystemMistake
from atoll.gateway.drain import DRAIN_S
from atoll.system.budgets import BUDGETS
from atoll.system.manifest import TlsSpec
from tests.support.deployed import shop_plan
from tests.support.manifests import OVERLAYS, built, pods, told, written
from tests.support.system import SYSTEMS

VERSIONS = ("1.35", "1.36", "1.37")
OPERATORS = {"Cluster", "MongoDBCommunity"}
Objects = list[dict[str, Any]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Objects]:
    folder = tmp_path_factory.mktemp("kubernetes")
    written(shop_plan(), folder)
    return {overlay: built(folder, overlay) for overlay in OVERLAYS}


def every(shop: dict[str, Objects]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod of every overlay, by a name for messages."""
    for overlay, objects in shop.items():
        for name, template in pods(objects):
            yield f"{overlay}: {name}", template["spec"]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def by_name(objects: Objects, kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_keeps_the_schema_strictly(shop: dict[str, Objects], version: str) -> None:
    """Those of operators apart: their schemas are nowhere to be had as a package."""
    different = {json.dumps(one): one for objects in shop.values() for one in objects if one["kind"] not in OPERATORS}
    for one in different.values():
        kubernetes_validate.validate(one, version, strict=True)
    assert {one["kind"] for one in different.values()} >= {"Deployment", "StatefulSet", "Job", "CronJob", "NetworkPolicy"}


def test_a_key_that_no_schema_has_is_noticed(shop: dict[str, Objects]) -> None:
    wrong = {**shop["production"][0], "speck": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="speck"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_no_pod_has_rights(shop: dict[str, Objects]) -> None:
    """What the level "restricted" of Pod Security asks for, and a file system that is only read."""
    for name, spec in every(shop):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"], name
        assert pod["runAsUser"] > 0, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["fsGroupChangePolicy"] == "OnRootMismatch", name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert all("hostPath" not in volume for volume in spec["volumes"]), name
        for container in containers(spec):
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"], name
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert "privileged" not in own, name


def test_the_namespace_enforces_that(shop: dict[str, Objects]) -> None:
    for objects in shop.values():
        (namespace,) = by_name(objects, "Namespace").values()
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_nobody_gets_a_token_of_kubernetes_or_the_default_account(shop: dict[str, Objects]) -> None:
    for overlay, objects in shop.items():
        accounts = by_name(objects, "ServiceAccount")
        assert all(one["automountServiceAccountToken"] is False for one in accounts.values())
        for name, template in pods(objects):
            spec = template["spec"]
            assert spec["automountServiceAccountToken"] is False, name
            assert spec["serviceAccountName"] in accounts, f"{overlay}: {name}"


def test_no_pod_is_told_of_services_by_variables_that_settings_could_be(shop: dict[str, Objects]) -> None:
    assert [name for name, spec in every(shop) if spec["enableServiceLinks"] is not False] == []


def test_every_container_has_requests_limits_and_an_image_that_means_one_thing(shop: dict[str, Objects]) -> None:
    for name, spec in every(shop):
        for container in containers(spec):
            resources = container["resources"]
            assert resources["requests"].keys() >= {"cpu", "memory"}, name
            assert resources["limits"].keys() >= {"cpu", "memory"}, name
            assert re.search(r":[^/:]+-[0-9a-f]{12}$", container["image"]), f"{name}: {container['image']}"


def test_what_runs_for_long_is_probed(shop: dict[str, Objects]) -> None:
    for name, spec in every(shop):
        if spec.get("restartPolicy") != "Never":
            for container in spec["containers"]:
                assert container.keys() >= {"startupProbe", "readinessProbe", "livenessProbe"}, name


def test_everything_is_in_the_system_s_namespace(shop: dict[str, Objects]) -> None:
    for objects in shop.values():
        assert {one["metadata"].get("namespace") for one in objects if one["kind"] != "Namespace"} == {"shop"}


def test_whatever_a_pod_mounts_or_reads_is_there(shop: dict[str, Objects]) -> None:
    """Secrets apart, which only the overlay dev brings."""
    for overlay, objects in shop.items():
        maps, secrets = by_name(objects, "ConfigMap"), by_name(objects, "Secret")
        for name, template in pods(objects):
            asked = list(references(template["spec"]))
            assert {one for kind, one in asked if kind == "configMap"} <= maps.keys(), f"{overlay}: {name}"
            if overlay == "dev":
                assert {one for kind, one in asked if kind == "secret"} <= secrets.keys(), name


def references(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for volume in spec["volumes"]:
        if "secret" in volume:
            yield "secret", volume["secret"]["secretName"]
        for source in volume.get("projected", {}).get("sources", []):
            for kind in ("configMap", "secret"):
                if kind in source:
                    yield kind, source[kind]["name"]
    for container in containers(spec):
        for source in container.get("envFrom", []):
            yield "configMap", source["configMapRef"]["name"]


def test_only_dev_holds_secrets_and_no_config_map_does(shop: dict[str, Objects]) -> None:
    assert [overlay for overlay, objects in shop.items() if by_name(objects, "Secret")] == ["dev"]
    for objects in shop.values():
        maps = by_name(objects, "ConfigMap")
        assert "nkey:" in maps["nats"]["data"]["nats.conf"]
        assert not re.search(r"\bSU[A-Z2-7]{56}\b|password:", repr(list(maps.values())))


def test_a_gateway_that_ends_waits_until_nobody_is_sent_to_it_and_then_drains(shop: dict[str, Objects]) -> None:
    spec = by_name(shop["production"], "Deployment")["gateway"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    waits_s = int(re.findall(r"sleep\((\d+)\)", container["lifecycle"]["preStop"]["exec"]["command"][-1])[0])
    assert waits_s >= 5
    assert spec["terminationGracePeriodSeconds"] > waits_s + DRAIN_S


def test_no_gateway_is_started_anew_because_the_bus_has_told_it_nothing_yet(shop: dict[str, Objects]) -> None:
    """It is not ready then. Restarts would come after ever longer, and so would its first answer."""
    for objects in shop.values():
        container = container_of(objects, "gateway")
        assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "metrics"}
        assert container["startupProbe"]["tcpSocket"] == container["livenessProbe"]["tcpSocket"] == {"port": "http"}


def test_a_service_has_time_for_its_drain_and_the_request_in_hand(shop: dict[str, Objects]) -> None:
    spec = by_name(shop["production"], "Deployment")["orders"]["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > BUDGETS.drain_s + BUDGETS.handler_s


def test_what_has_a_file_for_a_database_runs_once_and_nobody_scales_it(shop: dict[str, Objects]) -> None:
    objects = shop["production"]
    deployments, scaled = by_name(objects, "Deployment"), by_name(objects, "HorizontalPodAutoscaler")
    for name in ("notifications", "payments"):
        assert (deployments[name]["spec"]["replicas"], deployments[name]["spec"]["strategy"]["type"]) == (1, "Recreate")
        assert f"{name}-data" in by_name(objects, "PersistentVolumeClaim")
        assert name not in scaled
    assert {"gateway", "orders", "storefront"} <= scaled.keys()
    assert all("replicas" not in deployments[name]["spec"] for name in scaled)


def test_who_shall_not_run_does_not(tmp_path: Path) -> None:
    """Whatever its database is. No scaler: none goes below one."""
    plan = shop_plan()
    parts = tuple(replace(one, replicas=0) if one.name in ("catalog", "payments") else one for one in plan.parts)
    written(replace(plan, parts=parts), tmp_path)
    objects = built(tmp_path, "production")
    for name in ("catalog", "payments"):
        assert by_name(objects, "Deployment")[name]["spec"]["replicas"] == 0
        assert name not in by_name(objects, "HorizontalPodAutoscaler")


def test_the_gateway_has_two_replicas_at_least_and_production_keeps_them_apart(shop: dict[str, Objects]) -> None:
    objects = shop["production"]
    assert by_name(objects, "HorizontalPodAutoscaler")["gateway"]["spec"]["minReplicas"] == 2
    spec = by_name(objects, "Deployment")["gateway"]["spec"]["template"]["spec"]
    assert spec["topologySpreadConstraints"][0]["whenUnsatisfiable"] == "DoNotSchedule"


def test_an_update_finds_room_and_leaves_replicas_apart(shop: dict[str, Objects]) -> None:
    """A node that takes no pods is none to spread over: one too many would wait for it, and the update with it. Pods that go
    are none to keep away from: those of the new version would end up together.
    """
    for name, deployment in by_name(shop["production"], "Deployment").items():
        for one in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert (one["nodeTaintsPolicy"], one["matchLabelKeys"]) == ("Honor", ["pod-template-hash"]), name


def test_a_node_can_be_emptied_of_what_does_not_work(shop: dict[str, Objects]) -> None:
    """Of the bus's servers apart: one that is not ready has a voice among them."""
    found = {
        name: one["spec"].get("unhealthyPodEvictionPolicy")
        for name, one in by_name(shop["production"], "PodDisruptionBudget").items()
    }
    assert {"gateway", "orders", "payments"} <= found.keys()
    assert {name for name, policy in found.items() if policy != "AlwaysAllow"} == {"nats"}


def test_a_job_that_is_told_something_else_has_another_name(tmp_path: Path) -> None:
    plan = shop_plan()
    other = replace(plan, parts=tuple(one for one in plan.parts if one.name != "notifications"))
    names: list[str] = []
    for number, one in enumerate((plan, plan, other)):
        written(one, tmp_path / str(number))
        jobs = by_name(built(tmp_path / str(number), "production"), "Job")
        names += [job for job in jobs if job.startswith("provision-")]
    assert names[0] == names[1] != names[2]


# migrations

WITH_SERVER = ("auth", "catalog", "inventory", "orders")


def migrations(objects: Objects) -> dict[str, str]:
    """Their Jobs' names, by service."""
    found = (re.fullmatch(r"(.*)-migrate-[0-9a-f]{10}", name) for name in by_name(objects, "Job"))
    return {match[1]: match[0] for match in found if match}


def test_each_service_with_a_server_for_its_database_has_a_job_that_migrates(shop: dict[str, Objects]) -> None:
    for objects in shop.values():
        assert migrations(objects).keys() == set(WITH_SERVER)
        spec = by_name(objects, "Job")[migrations(objects)["orders"]]["spec"]["template"]["spec"]
        commands = [container["command"][3:] for container in containers(spec)]
        assert commands == [["wait", "database", "--timeout", "600"], ["migrate", "orders"]]


def test_its_pods_wait_for_the_schema_and_who_has_a_file_migrates_it_itself(
    shop: dict[str, Objects],
) -> None:
    for objects in shop.values():
        for name, deployment in by_name(objects, "Deployment").items():
            first = deployment["spec"]["template"]["spec"].get("initContainers", [])
            waits = [container["command"][3:5] for container in first]
            assert waits == ([["wait", "schema"]] if name in WITH_SERVER else []), name


def test_what_migrates_is_told_what_its_service_is(shop: dict[str, Objects]) -> None:
    """The URL of an operator's database too."""
    for overlay, objects in shop.items():
        for service, name in migrations(objects).items():
            job = by_name(objects, "Job")[name]["spec"]["template"]["spec"]
            pod = by_name(objects, "Deployment")[service]["spec"]["template"]["spec"]
            (secrets,) = (one for one in pod["volumes"] if one["name"] == "secrets")
            assert secrets in job["volumes"], f"{overlay}: {service}"
            assert job["containers"][0]["envFrom"] == pod["containers"][0]["envFrom"]
            assert job["containers"][0]["image"] == pod["containers"][0]["image"]
            assert job["serviceAccountName"] == service


def test_another_image_is_another_job_of_that_service_alone(tmp_path: Path) -> None:
    plan = shop_plan()
    other = replace(told(plan), images={**told(plan).images, "orders": "shop/orders:1.1.0-ba9876543210"})
    for folder, text in (("before", told(plan)), ("after", other)):
        write(tmp_path / folder, render(plan, text))
    before, after = (migrations(built(tmp_path / folder, "production")) for folder in ("before", "after"))
    assert {name for name in before if before[name] != after[name]} == {"orders"}


# who reaches whom


def reachable(objects: Objects, port: int) -> set[tuple[str, str]]:
    """Who reaches whom at that port, as a cluster would judge: allowed to leave, and allowed to enter."""
    labelled = {
        template["metadata"]["labels"]["app.kubernetes.io/name"]: template["metadata"]["labels"]
        for _, template in pods(objects)
    }
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    return {
        (source, target)
        for source in labelled
        for target in labelled
        if source != target
        and permitted(policies, ("egress", "to"), (labelled[source], labelled[target]), port)
        and permitted(policies, ("ingress", "from"), (labelled[target], labelled[source]), port)
    }


def permitted(policies: list[dict[str, Any]], way: tuple[str, str], ends: tuple[Any, Any], port: int) -> bool:
    """Nothing is, once a policy chooses a pod, but what one of those that choose it names."""
    direction, peers = way
    chosen = [one for one in policies if direction.title() in one["policyTypes"] and matches(one["podSelector"], ends[0])]
    return not chosen or any(
        any(entry["port"] == port for entry in rule.get("ports", [{"port": port}]))
        and (peers not in rule or any("podSelector" in peer and matches(peer["podSelector"], ends[1]) for peer in rule[peers]))
        for one in chosen
        for rule in one.get(direction, [])
    )


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))


SERVICES = {"auth", "catalog", "inventory", "notifications", "orders", "payments"}


def test_services_are_reached_by_the_gateway_and_call_nobody_but_whom_they_named(shop: dict[str, Objects]) -> None:
    found = reachable(shop["dev"], 8000)
    assert found == {*(("gateway", name) for name in SERVICES | {"storefront"}), ("payments", "cardprovider")}


def test_only_clients_call_the_gateway_from_inside(shop: dict[str, Objects]) -> None:
    assert reachable(shop["dev"], 8080) == {("storefront", "gateway")}


def test_everybody_has_the_bus_and_databases_have_not(shop: dict[str, Objects]) -> None:
    assert {source for source, target in reachable(shop["dev"], 4222) if target == "nats"} == {
        *SERVICES,
        "storefront",
        "gateway",
        "provision",
    }
    assert {target for _, target in reachable(shop["dev"], 4222)} == {"nats"}


def test_a_database_is_reached_by_its_own_service_only(shop: dict[str, Objects]) -> None:
    found = reachable(shop["dev"], 5432) | reachable(shop["dev"], 27017)
    assert found == {(user, f"{name}-database") for name in WITH_SERVER for user in (name, f"{name}-migrate")}, (
        "and by what migrates it"
    )


def test_an_operator_reaches_the_servers_that_it_made_and_nobody_else_asks_how_they_are(shop: dict[str, Objects]) -> None:
    policies = by_name(shop["operators"], "NetworkPolicy")
    _, asked = rules(policies["orders-database"], "ingress")
    assert [one["podSelector"]["matchLabels"] for one in asked["from"]] == [
        {"app.kubernetes.io/name": "cloudnative-pg"},
        {"cnpg.io/cluster": "orders-database"},
    ]
    assert [one["port"] for one in asked["ports"]] == [8000, 5432]
    assert [rule["ports"][0]["port"] for rule in rules(policies["catalog-database"], "ingress")] == [27017]


def test_only_who_says_outbound_calls_the_outside(tmp_path: Path) -> None:
    """By either protocol, and nobody beside it: clusters have addresses of these ranges."""
    plan = shop_plan()
    parts = tuple(replace(one, spec=replace(one.spec, outbound=True)) if one.name == "payments" else one for one in plan.parts)
    written(replace(plan, parts=parts), tmp_path)
    outside = {
        one["metadata"]["name"]: [peer["ipBlock"] for peer in rules(one, "egress")[-1]["to"]]
        for one in built(tmp_path, "dev")
        if one["kind"] == "NetworkPolicy" and "ipBlock" in repr(one["spec"])
    }
    assert outside.keys() == {"payments"}
    four, six = outside["payments"]
    assert (four["cidr"], six["cidr"]) == ("0.0.0.0/0", "::/0")
    inside = ("10.244.0.7", "100.64.0.7", "169.254.169.254", "172.31.255.7", "192.168.0.7", "fd00::7", "fe80::7")
    nobodys = [ip_network(one) for one in (*four["except"], *six["except"])]
    assert all(any(ip_address(one) in network for network in nobodys) for one in inside)
    assert not any(ip_address(one) in network for network in nobodys for one in ("93.184.215.14", "2606:2800::1"))


def test_traces_leave_where_the_collector_listens(tmp_path: Path) -> None:
    plan = shop_plan()
    for endpoint, port in (("http://collector.monitoring", 4318), ("http://collector.monitoring:14318", 14318)):
        system = replace(plan.system, telemetry=replace(plan.system.telemetry, otlp_endpoint=endpoint))
        folder = tmp_path / str(port)
        written(replace(plan, system=system), folder)
        policies = {one["metadata"]["name"]: one for one in built(folder, "production") if one["kind"] == "NetworkPolicy"}
        for name in ("gateway", "orders", "auth"):
            assert {"ports": [{"protocol": "TCP", "port": port}]} in rules(policies[name], "egress"), name


def rules(policy: dict[str, Any], way: str) -> list[dict[str, Any]]:
    return list(policy["spec"].get(way, []))


# TLS


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Objects]:
    """The shop with TLS, HTTP/3 and a redirect."""
    folder, plan = tmp_path_factory.mktemp("tls"), shop_plan()
    entry = replace(plan.system.gateway, port=8443, tls=TlsSpec(redirect_port=8081, http3=True))
    written(replace(plan, system=replace(plan.system, gateway=entry)), folder)
    return {overlay: built(folder, overlay) for overlay in OVERLAYS}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_a_system_with_tls_keeps_the_schema_strictly(secured: dict[str, Objects], version: str) -> None:
    for one in secured["dev"]:
        kubernetes_validate.validate(one, version, strict=True)


def test_the_certificate_is_a_secret_that_cert_manager_can_fill(secured: dict[str, Objects]) -> None:
    secret = by_name(secured["dev"], "Secret")["gateway-tls"]
    assert (secret["type"], sorted(secret["data"])) == ("kubernetes.io/tls", ["tls.crt", "tls.key"])
    assert "gateway-tls" not in by_name(secured["production"], "Secret")
    spec = by_name(secured["production"], "Deployment")["gateway"]["spec"]["template"]["spec"]
    (volume,) = [one for one in spec["volumes"] if one.get("secret", {}).get("secretName") == "gateway-tls"]
    mounts = {one["name"]: one["mountPath"] for one in spec["containers"][0]["volumeMounts"]}
    (values,) = [
        one["data"] for name, one in by_name(secured["production"], "ConfigMap").items() if name.startswith("gateway-")
    ]
    assert values["ATOLL_GATEWAY_CERTIFICATE"] == f"{mounts[volume['name']]}/tls.crt"


def test_without_a_certificate_to_render_dev_has_no_secret_for_it(tmp_path: Path) -> None:
    plan = shop_plan()
    plan = replace(plan, system=replace(plan.system, gateway=replace(plan.system.gateway, tls=TlsSpec())))
    assert "gateway-tls" in secret_generators(plan)
    assert "gateway-tls" not in secret_generators(plan, certified=False)


def test_everybody_reaches_the_public_ports_and_clients_of_the_system_a_plain_one(secured: dict[str, Objects]) -> None:
    objects = secured["dev"]
    assert {source for source, target in reachable(objects, 9904) if target == "gateway"} == {"storefront"}
    (policy,) = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "gateway"]
    (public,) = [rule["ports"] for rule in policy["ingress"] if "from" not in rule]
    assert [(one["protocol"], one["port"]) for one in public] == [("TCP", 8443), ("UDP", 8443), ("TCP", 8081)]
    services = by_name(objects, "Service")
    assert [one["name"] for one in services["gateway"]["spec"]["ports"]] == ["https", "http3", "redirect"]
    assert [one["port"] for one in services["gateway-inside"]["spec"]["ports"]] == [9904]
    names = {one["name"]: one["containerPort"] for one in container_of(objects, "gateway")["ports"]}
    for service in ("gateway", "gateway-inside"):
        assert {one["targetPort"] for one in services[service]["spec"]["ports"]} <= names.keys()


def container_of(objects: Objects, deployment: str) -> dict[str, Any]:
    (found,) = by_name(objects, "Deployment")[deployment]["spec"]["template"]["spec"]["containers"]
    return dict(found)


# what is no service of atoll's


@pytest.fixture(scope="module")
def harbour(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """With a `command` as fallback, a mirror, and a client."""
    folder = tmp_path_factory.mktemp("harbour")
    written(shop_plan(SYSTEMS / "harbour"), folder)
    return built(folder, "dev")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_a_system_with_a_command_keeps_the_schema_strictly(harbour: Objects, version: str) -> None:
    for one in harbour:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_fallback_and_whom_a_mirror_asks_are_reached_by_the_gateway_alone(harbour: Objects) -> None:
    found = reachable(harbour, 8000)
    assert found == {("gateway", name) for name in ("auth", "wall", "reviews", "wooden", "shore")}


def test_in_podman_clients_of_a_system_with_tls_find_the_gateway_by_its_pod(tmp_path: Path) -> None:
    written(shop_plan(SYSTEMS / "harbour"), tmp_path)
    objects = built(tmp_path, "podman")
    urls = {one["data"]["ATOLL_GATEWAY_URL"] for one in objects if "ATOLL_GATEWAY_URL" in one.get("data", {})}
    assert urls == {"http://gateway:9904"}
    (gateway,) = [one for one in objects if one["kind"] == "Pod" and one["metadata"]["name"] == "gateway"]
    published = {one["containerPort"] for one in gateway["spec"]["containers"][0]["ports"]}
    assert published == {8195, 8196}, "what is for inside is not published"


def test_a_command_is_asked_for_nothing_but_connections(harbour: Objects) -> None:
    container = container_of(harbour, "wall")
    probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert all(one["tcpSocket"] == {"port": "http"} for one in probes)
    template = by_name(harbour, "Deployment")["wall"]["spec"]["template"]
    assert "annotations" not in template["metadata"], "it has no metrics"


def test_the_url_of_an_operator_s_database_lies_where_the_service_looks(shop: dict[str, Objects]) -> None:
    objects = shop["operators"]
    clusters = by_name(objects, "Cluster")
    assert "orders-database" in clusters
    for name, key in (("orders", "uri"), ("catalog", "connectionString.standard")):
        spec = by_name(objects, "Deployment")[name]["spec"]["template"]["spec"]
        (volume,) = [one for one in spec["volumes"] if one["name"] == "secrets"]
        items = [source["secret"].get("items") for source in volume["projected"]["sources"]]
        assert items[-1] == [{"key": key, "path": "database_url"}]
        assert "secret" not in volume


@pytest.mark.parametrize("name", ["network", "dns", "deny_everything"])
def test_who_is_named_like_the_manifests_own_is_refused(name: str) -> None:
    plan = shop_plan()
    parts = tuple(replace(one, name=name) if one.name == "orders" else one for one in plan.parts)
    other = replace(plan, parts=parts)
    with pytest.raises(SystemMistake, match=f"{name} has a name in Kubernetes that is taken"):
        render(other, told(other))


def with_canary_of(name: str) -> Plan:
    """Of a service of that name."""
    plan = shop_plan()
    parts = tuple(replace(one, name=f"{name}-canary", tries=name) if one.name == "orders" else one for one in plan.parts)
    return replace(plan, parts=parts)


def test_the_longest_name_of_a_job_is_one_that_kubernetes_takes() -> None:
    """That of what migrates a canary."""
    longest = "o" * 37
    plan = with_canary_of(longest)
    (name,) = re.findall(r"name: (\S+-migrate-\w+)", render(plan, told(plan))[f"base/{longest}-canary.yaml"])
    assert len(name) == 63

    plan = with_canary_of(longest + "o")
    with pytest.raises(SystemMistake, match="1 letters too long") as caught:
        render(plan, told(plan))
    assert caught.value.hint == f"a name for {longest}o of 37 letters"


def test_monitoring_reaches_every_pod_that_says_where_its_metrics_are(shop: dict[str, Objects]) -> None:
    policies = [one["spec"] for one in shop["production"] if one["kind"] == "NetworkPolicy"]
    asked = 0
    for name, template in pods(shop["production"]):
        if "annotations" not in template["metadata"]:
            continue
        port = int(template["metadata"]["annotations"]["prometheus.io/port"])
        ports = [one["containerPort"] for one in template["spec"]["containers"][0]["ports"]]
        assert port in ports, name
        rules = [
            rule
            for one in policies
            if matches(one["podSelector"], template["metadata"]["labels"])
            for rule in one.get("ingress", [])
            if "namespaceSelector" in repr(rule) and {"protocol": "TCP", "port": port} in rule["ports"]
        ]
        assert rules, name
        asked += 1
    assert asked == len(SERVICES) + 2


def test_the_bus_has_three_servers_where_work_is_real_and_one_to_try_things(shop: dict[str, Objects]) -> None:
    replicas = {overlay: by_name(objects, "StatefulSet")["nats"]["spec"]["replicas"] for overlay, objects in shop.items()}
    assert {overlay: replicas[overlay] for overlay in OVERLAYS} == {"dev": 1, "production": 3, "operators": 3}
    for overlay in ("production", "operators"):
        objects = shop[overlay]
        spread = by_name(objects, "StatefulSet")["nats"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {one["topologyKey"]: one["whenUnsatisfiable"] for one in spread} == {
            "kubernetes.io/hostname": "DoNotSchedule",
            "topology.kubernetes.io/zone": "ScheduleAnyway",
        }
        assert spread[0]["minDomains"] == 3, "with two nodes the third server waits"
        assert by_name(objects, "PodDisruptionBudget")["nats"]["spec"]["maxUnavailable"] == 1
        assert by_name(objects, "Service")["nats"]["spec"]["publishNotReadyAddresses"]
        assert by_name(objects, "NetworkPolicy")["nats-routes"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
        for number in range(3):
            assert f'"tls://nats-{number}.nats:6222"' in by_name(objects, "ConfigMap")["nats"]["data"]["nats.conf"]


def test_a_bus_that_stores_in_another_way_is_started_anew(tmp_path: Path) -> None:
    """A running one refuses all of a configuration in which that has changed (e2e/test_bus_reload.py)."""
    found = shop_plan()
    templates: list[Any] = []
    for number, always in enumerate((False, False, True)):
        folder, bus = tmp_path / str(number), replace(found.system.bus, sync_always=always)
        written(replace(found, system=replace(found.system, bus=bus)), folder)
        templates.append(by_name(built(folder, "production"), "StatefulSet")["nats"]["spec"]["template"])
    assert templates[0] == templates[1] != templates[2]


def test_the_bus_knows_how_much_memory_it_has(shop: dict[str, Objects]) -> None:
    for objects in shop.values():
        (container,) = by_name(objects, "StatefulSet")["nats"]["spec"]["template"]["spec"]["containers"]
        variables = {one["name"]: one.get("value") for one in container["env"]}
        limit = container["resources"]["limits"]["memory"]
        assert int(variables["GOMEMLIMIT"].removesuffix("MiB")) < int(limit.removesuffix("Mi"))


def test_a_server_of_the_bus_that_has_lost_its_volume_has_a_quarter_of_an_hour_to_fill_it(shop: dict[str, Objects]) -> None:
    (container,) = by_name(shop["production"], "StatefulSet")["nats"]["spec"]["template"]["spec"]["containers"]
    probe = container["startupProbe"]
    assert probe["httpGet"]["path"] == "/healthz", "which says when it has all that the others have"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 15 * 60


def test_provision_is_told_of_every_server_of_the_bus(shop: dict[str, Objects]) -> None:
    for overlay, servers in {"dev": 1, "production": 3, "operators": 3}.items():
        jobs = [spec for name, spec in pods(shop[overlay]) if name.split()[1].startswith("provision")]
        assert len(jobs) == 2
        for job in jobs:
            variables = {one["name"]: one["value"] for one in job["spec"]["containers"][0]["env"]}
            assert len(variables["ATOLL_BUS_ADDRESS"].split(",")) == servers


def test_nothing_but_the_manifest_decides_where_it_says_how_many_servers_the_bus_has(tmp_path: Path) -> None:
    found = shop_plan()
    for number in (1, 3):
        one = replace(found, system=replace(found.system, bus=replace(found.system.bus, servers=number)))
        folder = tmp_path / str(number)
        written(one, folder)
        for overlay in OVERLAYS:
            assert by_name(built(folder, overlay), "StatefulSet")["nats"]["spec"]["replicas"] == number
