"""Writes the files of atoll's gateway in front of one upstream, as the controller would, and says how to start it.

    python -m benchmarks.gateway.ours FOLDER plain|token|everything PORT ADMIN_PORT UPSTREAM_PORT

Prints JSON: `command`, and `token`, which is good for the operation `GET /orders/{id}`.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from atoll.engines import envoy
from atoll.gateway.files import write_initial, write_resources
from atoll.gateway.ir import Endpoint, Listener
from atoll.gateway.known import Known, ServiceEntry, SystemEntry
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.gateway.xds.typed import Json
from atoll.registry.replica import Replica
from atoll.system.contract import Contract
from atoll.tokens import Claims, KeySet, SigningKey, sign

ISSUER, AUDIENCE, SCOPE = "lab", "lab", "orders:read"
# What a contract says of the one operation. The rate is the highest there is: checked at each request, and hardly reached.
OPERATIONS: dict[str, dict[str, Any]] = {
    "plain": {"security": []},
    "token": {"security": [{"token": []}]},
    "everything": {"security": [{"token": [SCOPE]}], "x-atoll-rate-limit": "10000/s"},
}


Resources = Mapping[str, list[Json]]


def make(
    folder: str, variant: str, ports: tuple[int, int, int], part: Callable[[Resources], None] | None = None
) -> dict[str, Any]:
    """Writes the files. `ports`: its own, its admin's, its upstream's. `part` changes what the gateway would be told."""
    port, admin_port, upstream_port = ports
    key = SigningKey.generate()
    known = replace(_known(variant, upstream_port), keys=KeySet.of([key.public], version=1))
    listener = Listener("127.0.0.1", port)
    bootstrap = write_initial(Path(folder), listener, Endpoint("127.0.0.1", admin_port), known)
    if part:
        folders = Folders(str(Path(folder).absolute()))
        resources = {kind: copy.deepcopy(some) for kind, some in render(translate(known, listener), folders).items()}
        part(resources)
        write_resources(folders, resources)
    command = envoy.command(envoy.find(), bootstrap, Path(folder) / "envoy.log", workers=os.cpu_count())
    variables = [f"{name}={value}" for name, value in command.environment.items()]
    return {"command": ["env", *variables, *command.arguments], "token": sign(_claims(), key)}


def _known(variant: str, upstream_port: int) -> Known:
    operation = {"operationId": "order", "responses": {"200": {"description": "ok"}}, **OPERATIONS[variant]}
    openapi = {
        "openapi": "3.1.0",
        "info": {"title": "orders", "version": "1"},
        "paths": {"/orders/{id}": {"get": operation}},
    }
    contract = Contract.parse({"format": 1, "service": "orders", "openapi": openapi})
    services = {"orders": ServiceEntry(kind="service", prefix="/orders", digests=(contract.digest,))}
    replica = Replica("orders", "orders-1", f"127.0.0.1:{upstream_port}", digest=contract.digest, beat=time.time())
    return Known(
        SystemEntry("lab", "http://localhost", ISSUER, AUDIENCE, services),
        {f"orders.{contract.digest}": contract},
        {replica.key: replica},
    )


def _claims() -> Claims:
    now = int(time.time())
    return Claims(iss=ISSUER, aud=AUDIENCE, sub="bench", scope=SCOPE, iat=now, exp=now + 86_400, jti="bench", sid="bench")


if __name__ == "__main__":
    folder, variant, port, admin_port, upstream_port = sys.argv[1:]
    print(json.dumps(make(folder, variant, (int(port), int(admin_port), int(upstream_port)))))
