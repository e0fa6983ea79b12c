"""What is rendered for container hosts, word for word."""

from __future__ import annotations

import re
from dataclasses import replace

from atoll.deploy import images, kubernetes
from atoll.deploy.compose import Told, cells, render
from atoll.deploy.files import sources
from atoll.deploy.images import Image, Sources, context
from atoll.deploy.plan import Plan
from atoll.deploy.secrets import Keeper, secret_files
from tests.support import golden, manifests
from tests.support.deployed import shop_plan
from tests.support.system import SYSTEMS


def told(plan: Plan) -> Told:
    """Tags hold digests of all sources, so here they hold none."""
    names = [*(part.name for part in plan.parts), "gateway", "nats", "provision", *plan.database_kinds]
    return Told({name: f"shop/{name}:1" for name in names}, cells({}, [part.name for part in plan.members]))


def test_the_compose_file_of_the_shop_is_the_golden_one() -> None:
    plan = shop_plan()
    for name, text in render(plan, told(plan)).items():
        if name != "provision/system.json" and not name.startswith(("provision/contracts/", "observability/")):
            golden.check(f"compose/{name.lstrip('.')}", text)


def test_the_secrets_of_the_shop_are_the_golden_ones() -> None:
    plan = shop_plan()
    files = secret_files(plan, Keeper(lambda name: f"<{name}>", {"session_secret": "<given>"}, manifests.certificates))
    golden.check("compose/secrets.txt", "".join(f"== {name}\n{text}\n" for name, text in sorted(files.items())))


def build_files(plan: Plan, read: Sources) -> dict[str, Image]:
    return images.images(plan, read)


def test_the_dockerfiles_of_the_shop_are_the_golden_ones() -> None:
    plan = shop_plan()
    read = sources(plan)
    for name, image in build_files(plan, read).items():
        text = context(image, plan, read)["Dockerfile"].decode()
        # Auth's contract belongs to no golden file: it changes with auth's code.
        shown = re.sub(r'ATOLL_CONTRACT_DIGEST="\w+"', 'ATOLL_CONTRACT_DIGEST="…"', text)
        golden.check(f"compose/images/{name}.Dockerfile", shown)


def test_the_manifests_of_the_shop_are_the_golden_ones() -> None:
    plan = shop_plan()
    for name, text in kubernetes.render(plan, manifests.told(plan)).items():
        if not name.startswith("base/provision/"):
            # Auth's contract belongs to no golden file: it changes with auth's code, and with it the job's name.
            golden.check(f"kubernetes/{name.lstrip('.')}", re.sub(r"provision-[0-9a-f]{10}", "provision-…", text))


# TLS, HTTP/3 apart; a `command`, a mirror, a client, a way out


def harbour_plan() -> Plan:
    return shop_plan(SYSTEMS / "harbour")


def test_the_compose_file_of_the_harbour_is_the_golden_one() -> None:
    plan = harbour_plan()
    golden.check("compose/harbour.yaml", render(plan, told(plan))["compose.yaml"])


def test_the_dockerfile_of_a_command_is_the_golden_one() -> None:
    plan = harbour_plan()
    locked = {name: {**files, "requirements.txt": b"one==1 --hash=sha256:00\n"} for name, files in sources(plan).own.items()}
    read = replace(sources(plan), own=locked)
    golden.check("compose/images/wall.Dockerfile", context(build_files(plan, read)["wall"], plan, read)["Dockerfile"].decode())


def test_the_manifests_of_the_harbour_are_the_golden_ones() -> None:
    plan = harbour_plan()
    files = kubernetes.render(plan, manifests.told(plan))
    for name in ("base/gateway.yaml", "base/wall.yaml", "base/shore.yaml", "base/network.yaml", "SECRETS.md"):
        golden.check(f"kubernetes/harbour/{name}", files[name])
    golden.check("kubernetes/harbour/secrets.kustomization.yaml", kubernetes.secret_generators(plan))


def test_the_kustomization_of_the_shop_s_secrets_is_the_golden_one() -> None:
    golden.check("kubernetes/secrets.kustomization.yaml", kubernetes.secret_generators(shop_plan()))
