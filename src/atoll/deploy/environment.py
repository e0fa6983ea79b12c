"""What each process is told in a container: environment variables. Pure; the same wherever containers run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from atoll.deploy import entrance
from atoll.deploy.bus import BUS_PORT, BusHosts
from atoll.deploy.images import APP, APP_PORT, GATEWAY
from atoll.deploy.plan import Part, Plan
from atoll.deploy.secrets import account_variables
from atoll.system.auth import auth_kind, auth_options
from atoll.system.manifest import System

__all__ = [
    "database_environment",
    "environment",
    "gateway_environment",
    "key_set_files",
    "key_set_path",
    "provision_environment",
]

_BUS_CA = "/run/secrets/bus_ca"


def provision_environment(hosts: BusHosts) -> dict[str, str]:
    """It makes each server of the bus read what was rendered, so it is told of each."""
    return {
        "ATOLL_PROVISION_DIR": "/etc/atoll",
        "ATOLL_BUS_ADDRESS": ",".join(f"{host}:{BUS_PORT}" for host in hosts.each),
        "ATOLL_BUS_USERS_FILE": "/run/secrets/bus_users",
        "ATOLL_BUS_CA": _BUS_CA,
    }


def gateway_environment(plan: Plan, metrics_at: str, name: str = "") -> dict[str, str]:
    """`metrics_at` is the address at which metrics may be asked for, `name` tells it from others ("": its host's name)."""
    told = {
        "ATOLL_BUS_URL_FILE": "/run/secrets/bus_url",
        "ATOLL_BUS_CA": _BUS_CA,
        "ATOLL_GATEWAY_DIR": "/data",
        "ATOLL_GATEWAY_NAME": name,
        "ATOLL_GATEWAY_UPSTREAM": "plain",
        "ATOLL_GATEWAY_METRICS": f"{metrics_at}:{entrance.METRICS_PORT}",
        **entrance.told(plan.system),
    }
    return {name: value for name, value in told.items() if value}


def database_environment(part: Part) -> dict[str, str]:
    """Of a service's own server."""
    assert part.database is not None
    told = {
        "ATOLL_SERVICE": part.name,
        "ATOLL_DATABASE_KIND": part.database.kind,
        "ATOLL_DATABASE_DIR": "/data",
        "ATOLL_DATABASE_PASSWORD_FILE": "/run/secrets/database_password",
        "ATOLL_DATABASE_ADMIN_PASSWORD_FILE": "/run/secrets/database_admin_password",
    }
    key = {"ATOLL_DATABASE_KEY_FILE": "/run/secrets/database_key"} if part.database.kind == "mongodb" else {}
    return {**told, **key}


def environment(plan: Plan, part: Part, host: Callable[[str], str] = str) -> dict[str, str]:
    """Of a service, a client or auth. `host` gives the name under which another container is found."""
    system = plan.system
    told = {
        "ATOLL_BUS_URL_FILE": "/run/secrets/bus_url",
        "ATOLL_BUS_CA": _BUS_CA,
        "ATOLL_ISSUER": system.issuer,
        "ATOLL_AUDIENCE": system.name,
        "ATOLL_DATABASE_URL": f"sqlite:///data/{part.name}.sqlite" if part.database and part.database.kind == "sqlite" else "",
        "ATOLL_DATABASE_URL_FILE": "/run/secrets/database_url" if part.database and part.database.kind != "sqlite" else "",
        "ATOLL_GATEWAY_URL": _gateway_url(plan, host) if part.kind == "client" else "",
        "ATOLL_CANARY": "1" if part.tries else "",
        "ATOLL_SETTINGS": json.dumps(_values(part, host), sort_keys=True) if part.values else "",
        "OTEL_EXPORTER_OTLP_ENDPOINT": system.telemetry.otlp_endpoint,
        **{f"{key.upper()}_FILE": f"/run/secrets/{key}" for key in part.secrets or {}},
        **(_auth_environment(plan) if part.kind == "auth" else {}),
    }
    return {name: value for name, value in told.items() if value}


def _gateway_url(plan: Plan, host: Callable[[str], str]) -> str:
    name = entrance.INSIDE if entrance.inside_port(plan.system) else GATEWAY
    return f"http://{host(name)}:{entrance.client_port(plan.system)}"


def _values(part: Part, host: Callable[[str], str]) -> dict[str, Any]:
    """`{NAME.url}` is where that simulator's container answers."""
    found = dict(part.values or {})
    for key, value in found.items():
        for name in part.outside if isinstance(value, str) else ():
            found[key] = found[key].replace(f"{{{name}.url}}", f"http://{host(name)}:{APP_PORT}")
    return found


def key_set_files(system: System) -> dict[str, str]:
    """Where the keys of other issuers lie that are files beside the manifest, by provider."""
    providers = system.auth.options.get("providers", {})
    return {name: one["jwks_file"] for name, one in providers.items() if "jwks_file" in one}


def key_set_path(provider: str) -> str:
    """The same in auth's image, below its folder for files."""
    return f"providers/{provider}.json"


def _provider(name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, "jwks_file": f"{APP}/{key_set_path(name)}"} if "jwks_file" in one else dict(one)


def _auth_environment(plan: Plan) -> dict[str, str]:
    """Passwords of the manifest are left out: everybody can read them there."""
    options = dict(auth_options(plan.system))
    for kind in ("users", "clients"):
        if isinstance(accounts := options.get(kind), Mapping):
            options[kind] = {name: {"scopes": list(one.get("scopes", ()))} for name, one in accounts.items()}
    if providers := options.get("providers"):
        assert isinstance(providers, Mapping)
        options["providers"] = {name: _provider(name, one) for name, one in providers.items()}
    variables = ("AUTH_OPERATOR_SECRET", *account_variables(plan))
    return {
        "ATOLL_AUTH": json.dumps(options, sort_keys=True),
        **auth_kind(plan.system),
        **{f"{name}_FILE": f"/run/secrets/{name.lower()}" for name in variables},
    }
