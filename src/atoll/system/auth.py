"""The auth service as a part of every system, though it stands in no manifest."""

from __future__ import annotations

from pathlib import Path

from atoll.system.manifest import ServiceSpec, System
from atoll.system.plan import AUTH

__all__ = ["AUTH_MODULE", "auth_kind", "auth_options", "auth_service"]

AUTH_MODULE = "atoll.auth.service"
"""Where its program is; nobody below the command line imports it."""


def auth_service(system: System) -> ServiceSpec:
    """Auth as if it stood in the manifest: its folder is atoll's own package."""
    folder = Path(__file__).resolve().parent.parent / AUTH
    where = str(system.folder / "atoll.toml")
    return ServiceSpec(AUTH, folder, prefix="/auth", where=where, failures=system.gateway.failures)


def auth_kind(system: System) -> dict[str, str]:
    """Auth is one program for every kind of database, so it is told which, for its contract too."""
    return {"ATOLL_AUTH_DATABASE": system.auth.database}


def auth_options(system: System) -> dict[str, object]:
    """`[auth]` as its process is told, in ATOLL_AUTH."""
    return {"access_token_lifetime_s": system.auth.access_token_lifetime_s, **system.auth.options}
