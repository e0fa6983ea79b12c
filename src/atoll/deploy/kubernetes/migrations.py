"""A service's migrations: a Job that applies them, and what its pods wait for. Pure.

A service whose database is a file in its own volume has neither: only its one pod reaches that, so it migrates when it starts.
"""

from __future__ import annotations

from atoll.deploy.kubernetes.objects import Container, Object, Pod, digest, host, labels, named
from atoll.deploy.plan import SERVERS, Part, Plan
from atoll.errors import SystemMistake

__all__ = ["job", "migrates", "migrating", "waiting"]

_WAIT_S = 600
_TRIES = 10
_KEPT_S = 7 * 86_400
_ATOLL = ("python3", "-m", "atoll")
_MIB = 256
_MOST_LETTERS = 63


def migrates(one: Part) -> bool:
    """Whether a Job does it. A `command` has migrations of its own, which nobody here knows."""
    return one.database is not None and one.database.kind in SERVERS and not one.foreign


def migrating(name: str) -> str:
    """What the Job's pods are called."""
    return f"{name}-migrate"


def job(plan: Plan, one: Part, image: str, told: list[Object]) -> Object:
    """Its name has a digest of its image and of all that it is told: another version is another Job, and the same one runs no
    second time. `told` is the service's `envFrom`.
    """
    marked, name = labels(plan, migrating(one.name), "migration"), host(one.name)
    first = _container("wait", image, told, ("wait", "database", "--timeout", str(_WAIT_S)))
    container = _container("migrate", image, told, ("migrate", one.service))
    pod = Pod(name, container, (first,), secret=host(one.service), more={"restartPolicy": "Never"})
    template = {"metadata": {"labels": marked}, "spec": pod.spec()}
    spec = {"backoffLimit": _TRIES, "ttlSecondsAfterFinished": _KEPT_S, "template": template}
    return named("batch/v1 Job", _job_name(one, template), marked, spec=spec)


def _job_name(one: Part, template: Object) -> str:
    """Raises SystemMistake: it is too long, which no other name made of a service's can be."""
    found = f"{host(migrating(one.name))}-{digest(template)}"
    if (over := len(found) - _MOST_LETTERS) > 0:
        detail = f"the Job that migrates {one.name} can't be called {found}: that is {over} letters too long for Kubernetes"
        raise SystemMistake(detail, where=one.spec.where, hint=f"a name for {one.service} of {len(one.service) - over} letters")
    return found


def waiting(image: str, told: list[Object]) -> Container:
    """Until the schema is the one that this version's code needs, or a newer one."""
    return _container("schema", image, told, ("wait", "schema", "--timeout", str(_WAIT_S)))


def _container(name: str, image: str, told: list[Object], words: tuple[str, ...]) -> Container:
    return Container(name, image, _MIB, more={"command": [*_ATOLL, *words], "envFrom": told})
