"""`atoll render`, as a person types it: from a system's folder to files that kustomize takes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.certificates.authority import Authority
from atoll.certificates.pair import Pair
from atoll.errors import BusOutage
from tests.support.cluster import certificates
from tests.support.deployed import SHOP
from tests.support.engines import nats_server
from tests.support.manifests import OVERLAYS, built
from tests.support.ports import free_port
from tests.support.system import RunningSystem, system
from tests.support.tls import Files

PRICE_WITH_CURRENCY = "    sku: str\n    price: Decimal\n    currency: str\n"
KUBERNETES = ("render", "kubernetes", "--environment", "containers")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with system(SHOP, tmp_path_factory.mktemp("render") / "shop") as found:
        yield found


@pytest.fixture(scope="module")
def rendered(shop: RunningSystem) -> Path:
    folder = shop.folder / "deploy" / "kubernetes"
    given = folder / "secrets" / "given"
    given.mkdir(parents=True)
    (given / "session_secret").write_text("a-secret-that-only-an-operator-knows")
    shop.must(*KUBERNETES)
    return folder


def test_a_secret_that_only_an_operator_knows_is_asked_for_and_nothing_is_written(shop: RunningSystem, tmp_path: Path) -> None:
    done = shop.run(*KUBERNETES, "-o", str(tmp_path))
    assert done.returncode == 1
    assert "session_secret (of storefront)" in done.stderr
    assert not (tmp_path / "base").exists()


def test_every_overlay_is_built_by_kustomize(rendered: Path) -> None:
    assert all(len(built(rendered, overlay)) > 50 for overlay in OVERLAYS)


def test_an_image_without_a_digest_is_named_and_refused_where_each_must_have_one(
    shop: RunningSystem, rendered: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(rendered, tmp_path / "kubernetes")
    image = re.findall(r'image: "(shop/orders:[^"]+)"', (rendered / "base" / "orders.yaml").read_text())[0]
    pushed = f"sha256:{'7' * 64}"
    file = shop.folder / "deploy" / "digests.json"
    file.write_text(json.dumps({image: pushed}))
    try:
        said = shop.run(*KUBERNETES, "-o", str(copied))
        refused = shop.run(*KUBERNETES, "-o", str(copied), "--pinned")
    finally:
        file.unlink()
    assert said.returncode == 0
    assert f'image: "{image}@{pushed}"' in (copied / "base" / "orders.yaml").read_text()
    assert refused.returncode == 1
    for one in (said, refused):
        assert "these images have no digest, because they were not pushed: " in one.stderr
        assert "shop/catalog:" in one.stderr
        assert "shop/orders:" not in one.stderr


def test_what_is_rendered_again_stays_as_it_is(shop: RunningSystem, rendered: Path) -> None:
    before = (rendered / "base" / "nats" / "nats.conf").read_text()
    assert shop.must(*KUBERNETES) == ""
    assert (rendered / "base" / "nats" / "nats.conf").read_text() == before


def test_the_certificate_of_the_bus_stays_and_nobody_gets_its_authority_s_key(shop: RunningSystem, rendered: Path) -> None:
    secrets = rendered / "secrets"
    before = (secrets / "nats" / "tls.crt").read_text()
    shop.must(*KUBERNETES)
    assert (secrets / "nats" / "tls.crt").read_text() == before
    own = secrets / "authority" / "ca.key"
    assert [path for path in secrets.rglob("*") if path.is_file() and path.read_text() == own.read_text()] == [own]
    assert "authority" not in (secrets / "kustomization.yaml").read_text()


def test_secrets_can_be_read_by_nobody_else(rendered: Path) -> None:
    assert (rendered / "secrets").stat().st_mode & 0o777 == 0o700
    assert (rendered / ".gitignore").read_text() == "/secrets/\n"


def test_diff_shows_what_a_changed_manifest_would_change_and_writes_nothing(shop: RunningSystem, rendered: Path) -> None:
    assert shop.run(*KUBERNETES, "--diff").stdout == ""
    manifest = shop.folder / "atoll.toml"
    text = manifest.read_text()
    before = (rendered / "base" / "orders.yaml").read_text()
    manifest.write_text(text.replace('vat_rate = "0.10"', 'vat_rate = "0.20"'))
    try:
        done = shop.run(*KUBERNETES, "--diff")
    finally:
        manifest.write_text(text)
    assert done.returncode == 1, done.stderr
    assert '+  ATOLL_SETTINGS: "{\\"vat_rate\\": \\"0.20\\"}"' in done.stdout.splitlines()
    assert (rendered / "base" / "orders.yaml").read_text() == before


@pytest.mark.parametrize(("kind", "file"), [("kubernetes", "base/provision"), ("compose", "provision")])
def test_a_contract_that_a_consumer_could_not_read_is_refused_by_its_name(
    shop: RunningSystem, rendered: Path, kind: str, file: str
) -> None:
    command = ("render", kind, "--environment", "containers")
    folder = rendered.parent / kind
    given = folder / "secrets" / "given"
    given.mkdir(parents=True, exist_ok=True)
    (given / "session_secret").write_text("a-secret-that-only-an-operator-knows")
    shop.must(*command)
    source = shop.folder / "services" / "catalog" / "catalog" / "events.py"
    text, accepted = source.read_text(), (shop.folder / "contracts" / "catalog.json").read_text()
    before = (folder / file / "contracts" / "catalog.json").read_text()
    source.write_text(text.replace(PRICE_WITH_CURRENCY, PRICE_WITH_CURRENCY.replace("    currency: str\n", "")))
    try:
        shop.must("contract", "accept", "catalog")
        refused, shown = shop.run(*command), shop.run(*command, "--diff")
    finally:
        source.write_text(text)
        (shop.folder / "contracts" / "catalog.json").write_text(accepted)
    reason = "orders would break: of catalog, price_changed.currency is gone"
    assert refused.returncode == 1
    assert reason in refused.stderr
    assert (shown.returncode, shown.stdout.splitlines()[0]) == (2, reason)
    assert (folder / file / "contracts" / "catalog.json").read_text() == before


def test_a_contract_that_consumes_less_leaves_the_former_one_beside_it_until_that_is_said_to_have_left(
    shop: RunningSystem, rendered: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(rendered, tmp_path / "kubernetes")
    source, contract = shop.folder / "services/orders/orders/prices.py", shop.folder / "contracts/orders.json"
    text, accepted = source.read_text(), contract.read_text()
    consumer, way = '@router.on("catalog.product_retired")\n', "event.catalog.product_retired"
    assert consumer in text
    assert way in accepted
    source.write_text(text.replace(consumer, ""))
    try:
        shop.must("contract", "accept", "orders")
        said = shop.must(*KUBERNETES, "-o", str(folder)), shop.must(*KUBERNETES, "-o", str(folder))
        (former,) = (folder / "base" / "provision" / "former").iterdir()
        assert json.loads(former.read_text()) == json.loads(accepted)
        assert f"former/{former.name}" in (folder / "base" / "provision.yaml").read_text()
        settled = shop.must(*KUBERNETES, "-o", str(folder), "--settled")
    finally:
        source.write_text(text)
        contract.write_text(accepted)
    assert f"{former} is written" in said[0]
    assert said[1] == ""
    assert f"{former} is removed" in settled
    assert not former.exists()


def test_diff_needs_no_secrets_as_in_ci(shop: RunningSystem, rendered: Path, tmp_path: Path) -> None:
    shutil.copytree(rendered, tmp_path / "checkout", ignore=shutil.ignore_patterns("secrets"))
    done = shop.run(*KUBERNETES, "-o", str(tmp_path / "checkout"), "--diff")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    assert "nats.conf is not compared" in done.stderr
    assert not (tmp_path / "checkout" / "secrets").exists()


def bus_of_loopback(rendered: Path, folder: Path) -> Path:
    """A certificate of the rendered authority for this machine: it is made for names that only a cluster has."""
    kept = rendered / "secrets" / "authority"
    authority = Authority(Pair.parse((kept / "ca.crt").read_bytes(), (kept / "ca.key").read_bytes()))
    return certificates(folder / "tls", "127.0.0.1", authority=authority)


async def provisioned(rendered: Path, ports: list[int]) -> str:
    """What `atoll provision` says, with the rendered files and secrets."""
    told = {
        "ATOLL_PROVISION_DIR": str(rendered / "base" / "provision"),
        "ATOLL_BUS_ADDRESS": ",".join(f"127.0.0.1:{port}" for port in ports),
        "ATOLL_BUS_USERS_FILE": str(rendered / "secrets" / "provision" / "bus_users"),
        "ATOLL_BUS_CA": str(rendered / "secrets" / "provision" / "bus_ca"),
    }
    command = [sys.executable, "-m", "atoll", "provision"]
    environment = {**os.environ, **told}
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def orders_at(rendered: Path, port: int) -> JetStreamBus:
    url = (rendered / "secrets" / "orders" / "bus_url").read_text().replace("@nats:4222", f"@127.0.0.1:{port}")
    orders = JetStreamBus(url, authorities=str(rendered / "secrets" / "orders" / "bus_ca"))
    await orders.start()
    assert await orders.wait_connected(5), orders.wire.last_error
    return orders


SECURED = """
[environments.secured.gateway]
port = 8443
public_url = "https://shop.example"
[environments.secured.gateway.tls]
redirect_port = 8080
"""


@pytest.fixture
def secured(shop: RunningSystem, tmp_path: Path) -> Iterator[Path]:
    """Where nothing is yet but a secret; the manifest has a further environment, `secured`."""
    manifest = shop.folder / "atoll.toml"
    text = manifest.read_text()
    extra = SECURED + '[environments.secured.services.storefront.settings]\nsession_secret = { secret = "session_secret" }\n'
    manifest.write_text(text + extra)
    folder = tmp_path / "secured"
    (folder / "secrets" / "given").mkdir(parents=True)
    (folder / "secrets" / "given" / "session_secret").write_text("a-secret-that-only-an-operator-knows")
    yield folder
    manifest.write_text(text)


def render(shop: RunningSystem, what: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return shop.run("render", what, "--environment", "secured", "-o", str(folder))


def test_compose_asks_for_a_certificate_and_takes_a_renewed_one_over(shop: RunningSystem, secured: Path) -> None:
    refused = render(shop, "compose", secured)
    assert refused.returncode == 1
    assert "tls.crt (of gateway), tls.key (of gateway)" in refused.stderr
    given, placed = secured / "secrets" / "given", secured / "secrets" / "gateway-tls"
    for pair in (Files(secured / "authority").issue("shop.example") for _ in range(2)):
        pair.save(given / "tls.crt", given / "tls.key")
        assert render(shop, "compose", secured).returncode == 0
        assert (placed / "tls.crt").read_bytes() == pair.chain
        assert (placed / "tls.key").read_bytes() == pair.key


@pytest.mark.parametrize("what", ["compose", "kubernetes"])
def test_halves_of_two_pairs_are_refused_before_anything_is_written(shop: RunningSystem, secured: Path, what: str) -> None:
    given, files = secured / "secrets" / "given", Files(secured / "authority")
    (given / "tls.crt").write_bytes(files.issue("shop.example").chain)
    (given / "tls.key").write_bytes(files.issue("shop.example").key)
    done = render(shop, what, secured)
    assert done.returncode == 1
    assert "don't fit together" in done.stderr
    assert sorted(one.name for one in secured.iterdir()) == ["authority", "secrets"]


def test_kubernetes_leaves_the_certificate_to_somebody_else_unless_there_is_one(shop: RunningSystem, secured: Path) -> None:
    assert render(shop, "kubernetes", secured).returncode == 0
    assert "`gateway-tls` | `tls.crt`, `tls.key`" in (secured / "SECRETS.md").read_text()
    kinds = {one["metadata"]["name"] for one in built(secured, "dev") if one["kind"] == "Secret"}
    assert "gateway-tls" not in kinds
    Files(secured / "authority").issue("shop.example").save(
        secured / "secrets" / "given" / "tls.crt", secured / "secrets" / "given" / "tls.key"
    )
    assert render(shop, "kubernetes", secured).returncode == 0
    (secret,) = [one for one in built(secured, "dev") if one["metadata"]["name"] == "gateway-tls"]
    assert secret["type"] == "kubernetes.io/tls"


async def test_the_rendered_bus_and_secrets_let_provision_and_services_in(rendered: Path, tmp_path: Path) -> None:
    """A real nats-server and `atoll provision` with the rendered files; only addresses and folders are this machine's."""
    port, tls = free_port(), bus_of_loopback(rendered, tmp_path)
    text = (rendered / "base" / "nats" / "nats.conf").read_text()
    text = text.replace("0.0.0.0:4222", f"127.0.0.1:{port}").replace('"/data"', f'"{tmp_path / "store"}"')
    async with nats_server(tmp_path / "nats", text.replace("/run/secrets", str(tls)), port):
        assert "contracts announced" in await provisioned(rendered, [port])
        orders = await orders_at(rendered, port)
        await orders.publish([Message("event.orders.order_placed.0", b"", b"placed")])
        with pytest.raises(BusOutage):
            await orders.publish([Message("event.catalog.price_changed.0", b"", b"forged")], timeout_s=1)
        await orders.close()


async def test_the_rendered_three_servers_are_one_bus(rendered: Path, tmp_path: Path) -> None:
    """The same text for each; what differs stands in its environment."""
    ports, routes, tls = [free_port() for _ in range(3)], [free_port() for _ in range(3)], bus_of_loopback(rendered, tmp_path)
    text = (rendered / "components" / "three-servers" / "nats" / "nats.conf").read_text().replace("/run/secrets", str(tls))
    for number, route in enumerate(routes):
        text = text.replace(f"nats-{number}.nats:6222", f"127.0.0.1:{route}")
    async with AsyncExitStack() as stack:
        for number, port in enumerate(ports):
            own = text.replace("0.0.0.0:4222", f"127.0.0.1:{port}").replace("0.0.0.0:6222", f"127.0.0.1:{routes[number]}")
            own = own.replace('"/data"', f'"{tmp_path / str(number)}"').replace("http_port: 8222", f"http_port: {free_port()}")
            told = {"ATOLL_BUS_SERVER": f"nats-{number}", "ATOLL_BUS_ADVERTISE": f"127.0.0.1:{port}"}
            await stack.enter_async_context(nats_server(tmp_path / f"nats-{number}", own, port, told))
        assert "contracts announced" in await provisioned(rendered, ports)
        for port in ports:
            orders = await orders_at(rendered, port)
            await orders.publish([Message("event.orders.order_placed.0", b"", b"placed")])
            await orders.close()
