"""What each process is told in a container: environment variables. Pure; the same wherever containers run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from atoll.deploy.bus import BUS_PORT, BusHosts
from atoll.deploy.images import APP_PORT, GATEWAY
from atoll.deploy.plan import Part, Plan
from atoll.deploy.secrets import account_variables
from atoll.system.auth import auth_kind, auth_options

__all__ = ["database_environment", "environment", "gateway_environment", "provision_environment"]

_BUS_CA = "/run/secrets/bus_ca"


def provision_environment(hosts: BusHosts) -> dict[str, str]:
    """It makes each server of the bus read what was rendered, so it is told of each."""
    return {
        "ATOLL_PROVISION_DIR": "/etc/atoll",
        "ATOLL_BUS_ADDRESS": ",".join(f"{host}:{BUS_PORT}" for host in hosts.each),
        "ATOLL_BUS_USERS_FILE": "/run/secrets/bus_users",
        "ATOLL_BUS_CA": _BUS_CA,
    }


def gateway_environment(plan: Plan, name: str = "", metrics_port: int | None = None) -> dict[str, str]:
    """`name` tells it from others; "" leaves that to its host's name. Without `metrics_port` nobody may ask for metrics."""
    told = {
        "ATOLL_BUS_URL_FILE": "/run/secrets/bus_url",
        "ATOLL_BUS_CA": _BUS_CA,
        "ATOLL_GATEWAY_DIR": "/data",
        "ATOLL_GATEWAY_HOST": "0.0.0.0",
        "ATOLL_GATEWAY_PORT": str(plan.system.gateway.port),
        "ATOLL_GATEWAY_NAME": name,
        "ATOLL_GATEWAY_UPSTREAM": "plain",
        "ATOLL_ENVOY_ADMIN": "127.0.0.1:9901",
        "ATOLL_GATEWAY_METRICS": f"0.0.0.0:{metrics_port}" if metrics_port else "",
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
        "ATOLL_GATEWAY_URL": f"http://{GATEWAY}:{system.gateway.port}" if part.kind == "client" else "",
        "ATOLL_CANARY": "1" if part.tries else "",
        "ATOLL_SETTINGS": json.dumps(_values(part, host), sort_keys=True) if part.values else "",
        "OTEL_EXPORTER_OTLP_ENDPOINT": system.telemetry.otlp_endpoint,
        **{f"{key.upper()}_FILE": f"/run/secrets/{key}" for key in part.secrets or {}},
        **(_auth_environment(plan) if part.kind == "auth" else {}),
    }
    return {name: value for name, value in told.items() if value}


def _values(part: Part, host: Callable[[str], str]) -> dict[str, Any]:
    """`{NAME.url}` is where that simulator's container answers."""
    found = dict(part.values or {})
    for key, value in found.items():
        for name in part.outside if isinstance(value, str) else ():
            found[key] = found[key].replace(f"{{{name}.url}}", f"http://{host(name)}:{APP_PORT}")
    return found


def _auth_environment(plan: Plan) -> dict[str, str]:
    """Passwords of the manifest are left out: everybody can read them there."""
    options = dict(auth_options(plan.system))
    for kind in ("users", "clients"):
        if isinstance(accounts := options.get(kind), Mapping):
            options[kind] = {name: {"scopes": list(one.get("scopes", ()))} for name, one in accounts.items()}
    variables = ("AUTH_OPERATOR_SECRET", *account_variables(plan))
    return {
        "ATOLL_AUTH": json.dumps(options, sort_keys=True),
        **auth_kind(plan.system),
        **{f"{name}_FILE": f"/run/secrets/{name.lower()}" for name in variables},
    }
