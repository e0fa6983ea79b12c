"""What a service process is told by whoever started it: read once, from environment variables (twelve-factor, III).

docs/reference/environment.md is this table for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from atoll.errors import SystemMistake

__all__ = ["Environment", "TlsFiles"]


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files: this service's certificate, its key, and the authorities that the gateway's certificate must come from."""

    certificate: Path
    key: Path
    ca: Path

    @property
    def all(self) -> tuple[Path, ...]:
        return (self.certificate, self.key, self.ca)


class Environment(msgspec.Struct, frozen=True):
    """`listen` is `fd:N`, an inherited socket, or `host:port`; `address` is what the registry announces.

    `replica` names the slot: a process that restarts under the same name may retake its leases at once. With `tls`, nobody but
    the gateway is answered.
    """

    service: str
    replica: str
    listen: str
    address: str
    state_dir: Path
    folder: Path
    database_url: str = ""
    bus_url: str = ""
    bus_ca: str = ""
    issuer: str = ""
    audience: str = ""
    contract_digest: str = ""
    gateway_url: str = ""
    gateway_ca: str = ""
    tls: TlsFiles | None = None
    local: bool = False
    otlp_endpoint: str = ""
    settings: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Environment:
        """Raises SystemMistake that names every missing or wrong variable at once."""
        missing = [name for name in ("ATOLL_SERVICE", "ATOLL_LISTEN") if not variables.get(name)]
        if missing:
            raise SystemMistake(
                f"these environment variables are missing: {', '.join(missing)}",
                hint="`atoll run NAME` sets them; docs/reference/environment.md lists them",
            )
        service = variables["ATOLL_SERVICE"]
        listen = variables["ATOLL_LISTEN"]
        return cls(
            service=service,
            replica=variables.get("ATOLL_REPLICA") or f"{service}-{_random_name()}",
            listen=listen,
            address=variables.get("ATOLL_ADDRESS") or ("" if listen.startswith("fd:") else listen),
            state_dir=Path(variables.get("ATOLL_STATE_DIR") or ".atoll-state"),
            folder=Path(variables.get("ATOLL_FOLDER") or "."),
            database_url=variables.get("ATOLL_DATABASE_URL", ""),
            bus_url=variables.get("ATOLL_BUS_URL", ""),
            bus_ca=variables.get("ATOLL_BUS_CA", ""),
            issuer=variables.get("ATOLL_ISSUER", ""),
            audience=variables.get("ATOLL_AUDIENCE", ""),
            contract_digest=variables.get("ATOLL_CONTRACT_DIGEST", ""),
            gateway_url=variables.get("ATOLL_GATEWAY_URL", ""),
            gateway_ca=variables.get("ATOLL_GATEWAY_CA", ""),
            tls=_tls(variables),
            local=variables.get("ATOLL_MODE") == "local",
            otlp_endpoint=variables.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").rstrip("/"),
            settings=_settings(variables.get("ATOLL_SETTINGS", "")),
        )


def _settings(text: str) -> Mapping[str, Any]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise SystemMistake(f"ATOLL_SETTINGS is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise SystemMistake("ATOLL_SETTINGS must be a JSON object")
    return found


def _tls(variables: Mapping[str, str]) -> TlsFiles | None:
    names = ("ATOLL_TLS_CERTIFICATE", "ATOLL_TLS_KEY", "ATOLL_TLS_CA")
    files = [variables.get(name, "") for name in names]
    if not any(files):
        return None
    if missing := [name for name, file in zip(names, files, strict=True) if not file]:
        hint = f"{', '.join(names)} go together"
        raise SystemMistake(f"these environment variables are missing: {', '.join(missing)}", hint=hint)
    return TlsFiles(*map(Path, files))


def _random_name() -> str:
    import secrets

    return secrets.token_hex(4)
