"""What runs once, whenever contracts have changed, and each night: streams, durables, contracts, purge. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.deploy.bus import BUS_PORT, BusHosts
from atoll.deploy.environment import provision_environment
from atoll.deploy.images import BUS, PROVISION
from atoll.deploy.kubernetes.objects import Container, Object, Pod, digest, host, labels, named, variables
from atoll.deploy.plan import Plan
from atoll.deploy.provisioning import canary_file, contract_file, former_file, texts, tried
from atoll.provision.job import SYSTEM_FILE

__all__ = ["generators", "job"]

_WAIT_S = 600
# A changed Secret reaches the bus's volume within a minute or so; what is asked for before is tried again, after ever longer.
_TRIES = 10
_NIGHTLY = "17 3 * * *"
# Long enough for somebody to read why one failed. A Job that comes again does what was done already.
_KEPT_S = 7 * 86_400


def generators(plan: Plan) -> list[Object]:
    """One ConfigMap for each contract, since none may have more than a MiB."""
    return [{"name": name, "files": [f"provision/{file}"]} for name, file in _files(plan).items()]


def _files(plan: Plan) -> dict[str, str]:
    """By ConfigMap."""
    return {
        "system": SYSTEM_FILE,
        **{f"contract-{host(name)}": contract_file(name) for name in plan.contracts},
        **{f"canary-{host(name)}": canary_file(name) for name in tried(plan)},
        **{f"former-{host(one.service)}-{one.digest}": former_file(one) for one in plan.former},
    }


def job(plan: Plan, image: str) -> list[Object]:
    """Its name has a digest of all that it is told: what is new is a new Job, and what is not runs no second time."""
    marked = labels(plan, PROVISION, PROVISION)
    template = {"metadata": {"labels": marked}, "spec": _pod(plan, image)}
    once = {"backoffLimit": _TRIES, "ttlSecondsAfterFinished": _KEPT_S, "template": template}
    nightly = {
        "schedule": _NIGHTLY,
        "concurrencyPolicy": "Forbid",
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"metadata": {"labels": marked}, "spec": once},
    }
    return [
        named("v1 ServiceAccount", PROVISION, marked, automountServiceAccountToken=False),
        named("batch/v1 Job", f"{PROVISION}-{digest(texts(plan), template, plan.system.bus.servers)}", marked, spec=once),
        named("batch/v1 CronJob", PROVISION, marked, spec=nightly),
    ]


def _pod(plan: Plan, image: str) -> Mapping[str, Any]:
    waiting = ["python3", "-m", "atoll", "wait", f"nats://{BUS}:{BUS_PORT}", "--timeout", str(_WAIT_S)]
    first = Container("wait", image, 128, more={"command": waiting})
    container = Container(PROVISION, image, 256, more={"env": variables(provision_environment(BusHosts()))})
    volumes = {"/etc/atoll": {"name": "contracts", "projected": {"sources": _sources(plan)}}}
    return Pod(PROVISION, container, (first,), volumes, more={"restartPolicy": "Never"}).spec()


def _sources(plan: Plan) -> list[Object]:
    items = {name: {"key": file.rpartition("/")[2], "path": file} for name, file in _files(plan).items()}
    return [{"configMap": {"name": name, "items": [item]}} for name, item in items.items()]
