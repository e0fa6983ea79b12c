"""TLS between the gateway and replicas, in both directions: a real service process behind a real Envoy.

Replicas say that they speak TLS, so loopback addresses serve as well as other machines' would.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from prometheus_client.parser import text_string_to_metric_families

from atoll.certificates.pair import Pair
from atoll.engines import envoy
from atoll.engines.process import Command, Process
from atoll.gateway.admin import Admin
from atoll.gateway.apply import Applier
from atoll.gateway.ir import Endpoint, Listener, Upstream
from atoll.gateway.known import Known
from atoll.gateway.secrets import Follower, Origin, write_secrets
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.system.contract import Contract
from tests.support.engines import provisioned_bus
from tests.support.gateway import ROOT, Rig, contract, known, replica, upstreams
from tests.support.ports import free_port
from tests.support.system import SYSTEMS
from tests.support.tls import Files
from tests.support.tokens import Mint
from tests.support.waiting import until

MIDDLE = SYSTEMS / "pair" / "services" / "middle"


def operation(service: str) -> Contract:
    """A service that offers what `middle` does, so that one process can stand for many."""
    paths = {"/middle/process": {"get": {"operationId": "process", "security": []}}}
    return contract(service, {path.replace("middle", service): item for path, item in paths.items()})


@dataclass
class Middle:
    """A service process that speaks TLS with what is in `files`."""

    files: Files
    more: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: Process = field(init=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.files.folder / "middle.log"

    def start(self) -> None:
        environment = {
            "ATOLL_SERVICE": "middle",
            "ATOLL_FOLDER": str(MIDDLE),
            "ATOLL_REPLICA": "middle-1",
            "ATOLL_LISTEN": self.address,
            "ATOLL_STATE_DIR": str(self.files.folder / "state"),
            "ATOLL_TLS_CERTIFICATE": str(self.files.certificate),
            "ATOLL_TLS_KEY": str(self.files.key),
            "ATOLL_TLS_CA": str(self.files.ca),
            **self.more,
        }
        command = (sys.executable, "-P", "-m", "atoll.service", "run")
        self.process = Process.start(Command("middle", command, MIDDLE, self.log, environment))

    async def ready(self) -> None:
        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return False
            writer.close()
            return True

        await self.process.wait_ready(listens)

    def ask(self, client: Files | None, authority: Files | None = None) -> int:
        """The status of a request made directly, showing the certificate in `client`; 0 when it is refused."""
        context = ssl.create_default_context(cafile=str((authority or self.files).ca))
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="middle") as secured,
            ):
                secured.sendall(b"GET /middle/process HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = secured.recv(65_536)
        except TimeoutError:
            raise
        except OSError:
            return 0
        return int(answer.split()[1]) if answer else 0

    def shown(self, client: Files) -> str:
        """The digest of the certificate that it shows now."""
        context = ssl.create_default_context(cafile=str(self.files.ca))
        context.load_cert_chain(client.certificate, client.key)
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="middle") as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


@dataclass
class World:
    """A gateway with a client certificate, and a service process with one of the same authority for `middle` and `later`."""

    rig: Rig
    middle: Middle
    gateway: Files

    @property
    def origins(self) -> list[Origin]:
        return [
            Origin("upstream_certificate", (self.gateway.certificate, self.gateway.key)),
            Origin("upstream_authorities", (self.gateway.ca,)),
        ]

    async def apply(self, what: Known) -> list[str]:
        """What was left out, and why."""
        self.rig.known = what
        made = translate(what, self.rig.listener)
        await Applier(self.rig.folders, Admin(self.rig.admin)).apply(render(made, self.rig.folders))
        return list(made.faults)

    async def add(self, service: str, address: str) -> None:
        """One further service, at this address, that says that it speaks TLS."""
        of = operation(service)
        here = known(of, replicas=(replica(of, f"{service}-1", address, tls=True),))
        system = replace_services(self.rig.known, here)
        await self.apply(system)

    async def status(self, service: str) -> int:
        async with httpx.AsyncClient(base_url=self.rig.url, timeout=20) as http:
            return (await http.get(f"/{service}/process")).status_code

    async def until(self, service: str, status: int) -> None:
        async def answers() -> bool:
            return await self.status(service) == status

        await until(answers, 20, f"{service} answers {status}")

    async def why_unhealthy(self, service: str) -> str:
        """Envoy's own word, once its health check has failed."""
        async with httpx.AsyncClient() as http:

            async def failed() -> bool:
                shown = (await http.get(f"http://{self.rig.admin}/clusters")).text
                return any(line.startswith(f"{service}::") and "failed_active_hc" in line for line in shown.splitlines())

            await until(failed, 20, f"{service} is found unhealthy")
            stats = (await http.get(f"http://{self.rig.admin}/stats?filter=cluster.{service}.ssl")).text
        counted = dict(line.rsplit(": ", 1) for line in stats.splitlines() if ": " in line)
        return " ".join(sorted(name.rsplit(".", 1)[1] for name, count in counted.items() if "fail" in name and count != "0"))


def replace_services(one: Known, other: Known) -> Known:
    """Both systems in one."""
    fields = {name: getattr(one.system, name) for name in one.system.__struct_fields__}
    entry = type(one.system)(**{**fields, "services": {**one.system.services, **other.system.services}})
    return replace(
        one,
        system=entry,
        contracts={**one.contracts, **other.contracts},
        replicas={**one.replicas, **other.replicas},
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, authority: Files) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("upstream")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield runner.run(_world(folder, authority, stack))
        runner.run(stack.aclose())


async def _world(folder: Path, authority: Files, stack: AsyncExitStack) -> World:
    client, server = Files(folder / "client", authority.authority), Files(folder / "server", authority.authority)
    client.fill("gateway", usage="client")
    server.fill("middle", "later")
    middle = Middle(server)
    middle.start()
    stack.callback(middle.process.kill)
    of = operation("middle")
    what = known(of, replicas=(replica(of, "middle-1", middle.address, tls=True),))
    listener = Listener("127.0.0.1", free_port(), upstream=Upstream(certified=True))
    rig = Rig(folder / "gateway", listener, Endpoint("127.0.0.1", free_port()), Known(what.system))
    made = World(rig, middle, client)
    write_secrets(rig.folders, made.origins)
    rig.start()
    stack.callback(rig.process.stop)
    await asyncio.gather(middle.ready(), rig.wait_ready())
    await made.apply(what)
    return made


async def test_a_service_that_proves_its_name_is_reached(world: World) -> None:
    await world.until("middle", 200)


async def test_its_health_is_asked_over_tls_too(world: World) -> None:
    await world.until("middle", 200)
    async with httpx.AsyncClient() as http:
        stats = (await http.get(f"http://{world.rig.admin}/stats?filter=cluster.middle.health_check.success")).text
    assert int(stats.rsplit(": ", 1)[1]) >= 1


async def test_metrics_tell_when_the_certificate_that_replicas_are_shown_ends(world: World) -> None:
    await world.until("middle", 200)
    ends = Pair.read(world.gateway.certificate, world.gateway.key, datetime.now(UTC)).ends.timestamp()
    authority_ends = world.gateway.authority.pair.ends.timestamp()
    text = (await Admin(world.rig.admin).metrics() or b"").decode()
    families = {one.name: one for one in text_string_to_metric_families(text)}
    found = families["envoy_cluster_ssl_certificate_expiration_unix_time_seconds"].samples
    assert {(one.labels["envoy_tls_certificate"], one.value) for one in found} == {
        ("upstream_certificate", ends),
        ("upstream_authorities", authority_ends),
    }


async def test_who_shows_a_certificate_of_another_name_is_refused(world: World) -> None:
    """A service that gives itself out for another one, with a certificate of its own."""
    await world.add("other", world.middle.address)

    assert "verify_san" in await world.why_unhealthy("other")
    assert await world.status("other") == 503


async def test_who_shows_a_certificate_of_another_authority_is_refused(world: World, tmp_path: Path) -> None:
    stranger = Files(tmp_path / "stranger")
    stranger.fill("stranger")
    process = Middle(stranger)
    process.start()
    try:
        await process.ready()
        await world.add("stranger", process.address)
        assert "verify_error" in await world.why_unhealthy("stranger")
        assert await world.status("stranger") == 503
    finally:
        process.process.kill()


async def test_who_does_not_speak_tls_though_it_says_so_is_refused(world: World, tmp_path: Path) -> None:
    async with upstreams(tmp_path, "plain") as (plain,):
        await world.add("plain", plain.address)
        await world.why_unhealthy("plain")
        assert await world.status("plain") == 503


async def test_a_replica_on_another_machine_can_not_do_without(world: World) -> None:
    """It is left out: not even its health is asked."""
    before = world.rig.known
    of = operation("far")
    far = known(of, replicas=(replica(of, "far-1", "192.0.2.1:2100"),))
    try:
        faults = await world.apply(replace_services(before, far))
        (fault,) = faults
        assert "far-1 of far at 192.0.2.1:2100 is left out" in fault
        assert "does not speak TLS" in fault
        assert await world.status("far") == 503
        async with httpx.AsyncClient() as http:
            assert "192.0.2.1" not in (await http.get(f"http://{world.rig.admin}/clusters")).text
    finally:
        await world.apply(before)


async def test_a_gateway_that_proves_nothing_is_refused_and_a_new_certificate_needs_no_restart(
    world: World, tmp_path: Path
) -> None:
    """Its files change twice; a new service each time, so that no old connection is used."""
    follower = Follower(world.origins, world.rig.folders, Admin(world.rig.admin), lambda *_told: None)
    await follower.look()
    stranger = Files(tmp_path / "stranger")
    stranger.fill("gateway", usage="client").save(world.gateway.certificate, world.gateway.key)
    await follower.look()
    await world.add("later", world.middle.address)
    await world.why_unhealthy("later")
    assert await world.status("later") == 503

    world.gateway.fill("gateway", usage="client")
    await follower.look()

    await world.until("later", 404)  # the service's own answer: it has no such operation


# asked directly


def test_nobody_but_the_gateway_is_answered(world: World, tmp_path: Path) -> None:
    service = Files(tmp_path / "service", world.gateway.authority)
    service.fill("orders", usage="server")
    stranger = Files(tmp_path / "stranger")
    stranger.fill("gateway", usage="client")

    assert world.middle.ask(world.gateway) == 200
    assert [world.middle.ask(client) for client in (None, service, stranger)] == [0, 0, 0]
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{world.middle.address}/middle/process")


async def test_a_service_takes_over_new_files_without_a_restart(world: World, tmp_path: Path) -> None:
    files, pid = world.middle.files, world.middle.process.pid

    async def shows(digest: str) -> bool:
        return await asyncio.to_thread(world.middle.shown, world.gateway) == digest

    new = files.fill("middle", "later")
    await until(lambda: shows(new.digest), 20, "the new certificate is shown")
    files.key.write_text("half a k")
    await until(lambda: "the last good one stays in use" in world.middle.log.read_text(), 20, "the broken pair is told")
    assert await shows(new.digest)
    mended = files.fill("middle", "later")
    await until(lambda: shows(mended.digest), 20, "the mended certificate is shown")
    assert (world.middle.process.pid, world.middle.process.running) == (pid, True)


async def test_an_authority_that_is_taken_away_is_believed_no_longer(world: World, tmp_path: Path) -> None:
    own, other = world.middle.files.ca.read_bytes(), Files(tmp_path / "other")
    other.fill("gateway", usage="client")

    async def answers(client: Files, status: int) -> bool:
        return await asyncio.to_thread(world.middle.ask, client, world.gateway) == status

    try:
        world.middle.files.ca.write_bytes(other.ca.read_bytes())
        await until(lambda: answers(other, 200), 20, "the other authority is believed")
        assert await answers(world.gateway, 0)
    finally:
        world.middle.files.ca.write_bytes(own)
    await until(lambda: answers(world.gateway, 200), 20, "the first authority is believed again")


@pytest.mark.parametrize("missing", ["certificate", "key", "ca"])
def test_a_service_whose_files_can_not_be_used_says_so_and_ends(tmp_path: Path, missing: str) -> None:
    files = Files(tmp_path / "files")
    files.fill("middle")
    getattr(files, missing).unlink()
    middle = Middle(files)
    middle.start()

    middle.process._popen.wait(20)

    assert f"{getattr(files, missing)} can't be read: No such file or directory" in middle.log.read_text()


# everything together


@pytest.fixture
async def chain(tmp_path: Path, authority: Files) -> AsyncIterator[tuple[str, Middle, Folders]]:
    """Bus, controller, Envoy and a service that announces itself: nobody is told anything by a test."""
    client, server = Files(tmp_path / "client", authority.authority), Files(tmp_path / "server", authority.authority)
    client.fill("gateway", usage="client")
    server.fill("middle")
    described = _described()
    port, admin, root = free_port(), free_port(), tmp_path / "gateway"
    async with provisioned_bus(tmp_path / "nats", {"middle": described}) as bus:
        middle = Middle(server, {"ATOLL_BUS_URL": bus.url("middle"), "ATOLL_CONTRACT_DIGEST": described.digest})
        environment = {
            "ATOLL_BUS_URL": bus.url("gateway"),
            "ATOLL_GATEWAY_DIR": str(root),
            "ATOLL_GATEWAY_PORT": str(port),
            "ATOLL_ENVOY_ADMIN": f"127.0.0.1:{admin}",
            "ATOLL_GATEWAY_UPSTREAM_CERTIFICATE": str(client.certificate),
            "ATOLL_GATEWAY_UPSTREAM_KEY": str(client.key),
            "ATOLL_GATEWAY_UPSTREAM_CA": str(client.ca),
        }
        arguments = (sys.executable, "-m", "atoll.gateway")
        processes = [Process.start(Command("controller", arguments, ROOT, tmp_path / "controller.log", environment))]
        try:
            folders = Folders(str(root))
            await until(Path(folders.bootstrap).exists, 20, "the controller has written Envoy's first files")
            command = envoy.command(envoy.find(), Path(folders.bootstrap), tmp_path / "envoy.log", workers=1)
            processes.append(Process.start(command))
            middle.start()
            processes.append(middle.process)
            mint = Mint()
            system = {"name": "pair", "public_url": "", "issuer": mint.issuer, "audience": mint.audience}
            services = {"middle": {"kind": "service", "prefix": "/middle"}}
            await bus.administrator.announce({**system, "services": services}, {"middle": described})
            yield f"http://127.0.0.1:{port}", middle, folders
        finally:
            for process in processes:
                process.kill()


def _described() -> Contract:
    environment = {"PATH": os.environ["PATH"], "ATOLL_SERVICE": "middle", "ATOLL_FOLDER": str(MIDDLE)}
    command = [sys.executable, "-P", "-m", "atoll.service", "describe"]
    return Contract.parse(json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout))


async def test_a_service_announces_that_it_speaks_tls_and_is_reached(chain: tuple[str, Middle, Folders]) -> None:
    url, middle, folders = chain

    async def reached() -> dict[str, Any]:
        async with httpx.AsyncClient(timeout=20) as http:
            try:
                answer = await http.get(f"{url}/middle/process")
            except httpx.HTTPError:
                return {}
            return dict(answer.json()) if answer.status_code == 200 else {}

    assert (await until(reached, 30, "the service is reached"))["pid"] == middle.process.pid
    shown = json.loads(Path(folders.applied).read_bytes())
    assert shown["certificates"]["upstream_certificate"]["names"] == ["gateway"]
    assert shown["faults"] == []
