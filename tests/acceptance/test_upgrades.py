"""Another version of one service beside it, in containers: on trial, and for good with another contract."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.acceptance.deployed import Compose
from tests.acceptance.engine import BASE
from tests.acceptance.registry import registry
from tests.support.load import Ask, load
from tests.support.waiting import until_sync

ENVIRONMENT = ("--environment", "containers")
ASKED = "/catalog/products/nothing-like-that"
HERE, NEXT = "is not sold here", "is not sold in the next edition"
OTHERS = (
    "gateway",
    "nats-1",
    "nats-2",
    "nats-3",
    "auth",
    "orders",
    "orders-database",
    "catalog-database",
    "inventory",
    "payments",
    "storefront",
)
CONSUMES = '''
from msgspec import Struct


class Placed(Struct, frozen=True):
    order_id: str


@service.on("orders.order_placed")
async def placed(event: Placed) -> None:
    """So much for that."""
'''


SIGNAL = """
import os, signal
from pathlib import Path

commands = {one.parent.name: one.read_bytes() for one in Path("/proc").glob("[0-9]*/cmdline")}
(pid,) = [pid for pid, command in commands.items() if command.endswith(b"-m\\0atoll.gateway\\0")]
os.kill(int(pid), signal.%s)
"""


PUSHED = """
[environments.pushed.containers]
base = "{base}"
repository = "{place}/shop"
[environments.pushed.services.storefront.settings]
session_secret = {{ secret = "session_secret" }}
"""


def processes(containers: Compose) -> dict[str, set[str]]:
    return {name: containers.processes(name) for name in OTHERS}


@contextmanager
def changed(*files: Path) -> Iterator[None]:
    """As they were, afterwards."""
    before = {file: file.read_bytes() for file in files}
    try:
        yield
    finally:
        for file, content in before.items():
            file.write_bytes(content)


def weighed(containers: Compose, weight: int | None) -> None:
    """Rendered with a canary for so many of a hundred clients; None: with none."""
    manifest = containers.system.folder / "atoll.toml"
    text = manifest.read_text().partition("\n[environments.containers.services.catalog.canary]")[0]
    canary = f'\n[environments.containers.services.catalog.canary]\nfolder = "services/catalog-next"\nweight = {weight}\n'
    manifest.write_text(text if weight is None else text + canary)
    containers.system.must("render", "compose", *ENVIRONMENT)


def answered(containers: Compose) -> str:
    return str(httpx.get(f"{containers.url}{ASKED}", timeout=10).json()["detail"])


def test_a_canary_has_its_share_and_goes_again_without_a_failed_request_or_a_restart(containers: Compose) -> None:
    services = containers.system.folder / "services"
    shutil.copytree(services / "catalog", services / "catalog-next", ignore=shutil.ignore_patterns("__pycache__"))
    code = services / "catalog-next" / "catalog" / "browsing.py"
    code.write_text(code.read_text().replace(HERE, NEXT))
    with (
        changed(containers.system.folder / "atoll.toml"),
        load(containers.url, lambda: Ask("GET", ASKED, 404), {}, clients=2) as answers,
    ):
        before = processes(containers)
        weighed(containers, 0)
        containers.system.must("build", "catalog-canary", *ENVIRONMENT, timeout_s=900)
        containers.compose("up", "-d")
        until_sync(lambda: endpoints(containers).get("catalog-canary"), 60, "the gateway knows the canary")
        assert HERE in answered(containers)
        assert answers.unexpected == [], "it starts"

        weighed(containers, 100)
        containers.compose("up", "-d", "provision")
        until_sync(lambda: NEXT in answered(containers), 60, "everybody meets the canary")
        assert processes(containers) == before
        assert answers.unexpected == [], "it has its share"

        canary = containers.processes("catalog-canary")
        containers.system.must("rollout", "catalog-canary", timeout_s=400)
        assert not canary & containers.processes("catalog-canary")
        assert NEXT in answered(containers)
        assert answers.unexpected == [], "it is replaced"

        weighed(containers, None)
        with controller_halted(containers):
            refused = containers.system.run("rollout", "catalog-canary", timeout_s=400)
            assert containers.processes("catalog-canary")
            assert NEXT in answered(containers)
        assert "the gateway has not confirmed that catalog-canary gets no requests" in refused.stderr
        assert answers.unexpected == [], "it stays while the gateway may send somebody"

        containers.system.must("rollout", "catalog-canary", timeout_s=400)
        assert containers.processes("catalog-canary") == set()
        assert HERE in answered(containers)
        until_sync(answers.more(20), 60)
    assert answers.unexpected == [], "it goes while everybody is sent to it"
    assert processes(containers) == before
    containers.engine.docker("volume", "rm", "shop_catalog-canary-data")


@contextmanager
def controller_halted(containers: Compose) -> Iterator[None]:
    """Envoy goes on with what it has."""
    containers.inside("gateway", "python3", "-c", SIGNAL % "SIGSTOP")
    try:
        yield
    finally:
        containers.inside("gateway", "python3", "-c", SIGNAL % "SIGCONT")


def endpoints(containers: Compose) -> dict[str, list[str]]:
    return dict(json.loads(containers.inside("gateway", "cat", "/data/applied.json"))["endpoints"])


def test_a_version_that_consumes_more_and_the_way_back_have_their_permissions_while_they_run(containers: Compose) -> None:
    code = containers.system.folder / "services" / "catalog" / "catalog" / "service.py"
    contract = containers.system.folder / "contracts" / "catalog.json"
    way, former = "$JS.API.CONSUMER.MSG.NEXT.orders.catalog", containers.folder / "provision" / "former"
    configuration = containers.folder / "secrets" / "nats" / "nats.conf"
    before = processes(containers)
    with load(containers.url, lambda: Ask("GET", ASKED, 404), {}, clients=2) as answers:
        with changed(code, contract):
            code.write_text(code.read_text() + CONSUMES)
            deployed(containers)
            assert way in configuration.read_text()
            assert not list(former.glob("*"))

        containers.system.must("build", "catalog", *ENVIRONMENT, timeout_s=900)
        containers.system.must("render", "compose", *ENVIRONMENT)
        assert [file.name.partition(".")[0] for file in former.glob("*")] == ["catalog"]
        assert way in configuration.read_text()
        assert "what only the old ones consumed is taken away" in containers.system.must("rollout", "catalog", timeout_s=400)
        assert not list(former.glob("*"))
        assert way not in configuration.read_text()
        assert containers.system.must("render", "compose", *ENVIRONMENT, "--diff") == ""
    assert answers.unexpected == []
    assert processes(containers) == before


def deployed(containers: Compose) -> None:
    containers.system.must("contract", "accept", "catalog")
    containers.system.must("build", "catalog", *ENVIRONMENT, timeout_s=900)
    containers.system.must("render", "compose", *ENVIRONMENT)
    containers.system.must("rollout", "catalog", timeout_s=400)


def test_what_is_pushed_is_rendered_by_its_digest_and_can_be_pulled_by_it(containers: Compose, tmp_path: Path) -> None:
    shop, manifest = containers.system.folder, containers.system.folder / "atoll.toml"
    folder = shop / "deploy" / "kubernetes"
    (folder / "secrets" / "given").mkdir(parents=True)
    (folder / "secrets" / "given" / "session_secret").write_text("only-an-operator-knows-this-one")
    with changed(manifest), registry(tmp_path) as place:
        manifest.write_text(f"{manifest.read_text()}\n{PUSHED.format(base=BASE, place=place)}")
        said = containers.system.must("build", "notifications", "--environment", "pushed", "--push", timeout_s=900)
        known = json.loads((shop / "deploy" / "digests.json").read_text())
        ((tag, digest),) = known.items()
        assert f"{tag} is pushed: {digest}" in said

        done = containers.system.run("render", "kubernetes", "--environment", "pushed")
        assert f"{place}/shop/orders:" in done.stderr
        assert tag not in done.stderr
        assert f'image: "{tag}@{digest}"' in (folder / "base" / "notifications.yaml").read_text()

        containers.engine.docker("image", "rm", tag)
        containers.engine.docker("pull", "--quiet", f"{tag.rpartition(':')[0]}@{digest}")
