"""What the manifests promise beyond the rest, as far as podman plays them."""

from __future__ import annotations

import httpx

from tests.acceptance.deployed import Pods
from tests.acceptance.test_shop import ended, place
from tests.support.waiting import until_sync


def running(pods: Pods, *, once: bool) -> dict[str, bool]:
    """By name, of what runs once or of the others."""
    found = [
        one for one in pods.containers() if (one["Config"]["Labels"]["io.atoll/kind"] in ("provision", "migration")) is once
    ]
    return {one["Name"]: one["State"]["Running"] for one in found}


def test_everything_runs_and_what_runs_once_has_ended_well(pods: Pods) -> None:
    until_sync(lambda: not any(running(pods, once=True).values()), 60, "what runs once has ended")
    found = {one["Name"]: one for one in pods.containers()}
    once, lasting = running(pods, once=True), running(pods, once=False)
    assert any(name.startswith("provision-") for name in once)
    assert {found[name]["State"]["ExitCode"] for name in once} == {0}
    assert len(lasting) == 14
    assert {name for name, runs in lasting.items() if not runs} == set()
    again = [name for name in lasting if found[name]["RestartCount"]]
    assert {name: pods.podman("logs", "--tail", "30", name) for name in again} == {}, "who waits ends for nothing"


def test_no_container_has_rights_or_can_change_its_image(pods: Pods) -> None:
    for container in pods.containers():
        name, host = container["Name"], container["HostConfig"]
        assert container["Config"]["User"] == "10001:10001", name
        assert container["EffectiveCaps"] in ([], None), name
        assert host["ReadonlyRootfs"], name
        assert not host["Privileged"], name
        assert "no-new-privileges" in host["SecurityOpt"], name
        assert host["Memory"] > 0, name


def test_no_secret_stands_in_an_environment(pods: Pods) -> None:
    secrets = [path.read_text() for path in (pods.folder / "secrets").glob("*/*") if path.parent.name != "given"]
    assert len(secrets) > 20
    for container in pods.containers():
        assert not [one for one in secrets if one in repr(container["Config"]["Env"])], container["Name"]


def test_only_the_gateway_s_port_is_published(pods: Pods) -> None:
    published = pods.podman("ps", "--all", "--format", "{{.Ports}}").split()
    assert set(published) == {f"127.0.0.1:{pods.port}->{pods.port}/tcp"}


def test_what_was_ordered_is_there_after_all_pods_were_removed_and_played_again(pods: Pods, ada: httpx.Client) -> None:
    order = place(ada)
    until_sync(ended(ada, order), 30)
    pods.down()
    pods.play()
    until_sync(pods.serves, 120, "the gateway serves")
    assert until_sync(ended(ada, order), 60) == "confirmed"
