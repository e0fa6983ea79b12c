"""Rendered manifests as the cluster would get them: written, put together by kustomize, parsed."""

from __future__ import annotations

import hashlib
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from atoll.bus import nkeys
from atoll.deploy.bus import BusHosts
from atoll.deploy.files import write, write_secrets
from atoll.deploy.kubernetes import Told, host, render, secret_generators, three_servers
from atoll.deploy.plan import Plan
from atoll.deploy.secrets import BUS_CONFIGURATION, OF_BUS, Keeper, bus_file, given_names, secret_files

OVERLAYS = ("dev", "production", "operators")
_TIMEOUT_S = 60.0


def told(plan: Plan) -> Told:
    """Tags hold digests of all sources, so here they hold none."""
    platform = ("gateway", "nats", "provision", *plan.database_kinds)
    images = {part.name: _image(part.service, "1.1.0" if part.tries else "1.0.0") for part in plan.parts}
    bus = bus_file(plan, keeper(plan), BusHosts())
    of_three = secret_files(plan, keeper(plan))[BUS_CONFIGURATION]
    return Told({**images, **{name: _image(name, "1.0.0") for name in platform}}, bus, of_three)


def _image(name: str, version: str) -> str:
    return f"shop/{name}:{version}-0123456789ab"


def keeper(plan: Plan) -> Keeper:
    """Secrets that everybody can guess, and seeds of the bus made of them."""

    def password(name: str) -> str:
        return nkeys.seed(hashlib.sha256(name.encode()).digest()) if name.startswith(OF_BUS) else f"<{name}>"

    return Keeper(password, dict.fromkeys(given_names(plan), "given"), certificates, host=host, bus=three_servers())


def certificates(names: Sequence[str]) -> dict[str, str]:
    """What would be in their places."""
    return {"tls.crt": f"<certificate of {', '.join(names)}>", "tls.key": "<key of the bus>", "ca.crt": "<authority>"}


def written(plan: Plan, folder: Path) -> None:
    """All files, and secrets that everybody can guess."""
    write(folder, render(plan, told(plan)))
    secrets = secret_files(plan, keeper(plan))
    del secrets[BUS_CONFIGURATION]
    write_secrets(folder / "secrets", {**secrets, "kustomization.yaml": secret_generators(plan)})


def built(folder: Path, overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    return list(yaml.safe_load_all(kustomized(folder, overlay)))


def kustomized(folder: Path, overlay: str) -> str:
    """The same as text."""
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    command = [str(kubectl), "kustomize", str(folder / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that one of these would start, with what starts it."""
    for one in objects:
        spec: Mapping[str, Any] = one.get("spec") or {}
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            yield f"{one['kind']} {one['metadata']['name']}", template
