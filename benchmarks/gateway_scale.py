"""Many services at one gateway: what a snapshot costs, how long Envoy takes for a change, and what stays in memory.

`python -m benchmarks.gateway_scale [SERVICES] [OPERATIONS]`. No load: numbers of one run on this machine, in milliseconds.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from tests.support.gateway import Rig, contract, gateway, known, replica

from atoll.gateway.admin import Admin
from atoll.gateway.apply import Applier
from atoll.gateway.files import body
from atoll.gateway.known import Known
from atoll.gateway.translate import translate
from atoll.gateway.xds.resources import render

_CHANGES = 50


def system(services: int, operations: int) -> Known:
    """Half of the paths have a parameter, all operations need a scope; a replica each, that nobody asks."""
    contracts = [
        contract(
            f"s{number:03}",
            {
                f"/s{number:03}/things{each}{'/{id}' if each % 2 else ''}": {
                    "get": {"security": [{"token": [f"s{number}:read"]}]}
                }
                for each in range(operations)
            },
        )
        for number in range(services)
    ]
    return known(*contracts, replicas=tuple(replica(one, "a", "127.0.0.1:9") for one in contracts))


def resident_mb(pid: int | str) -> float:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def cpu_ms(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 10.0


def snapshot(rig: Rig, what: Known) -> tuple[dict[str, list[dict[str, Any]]], float]:
    """As the controller makes it, and how much of a processor that took."""
    gc.disable()
    began = time.process_time()
    resources = dict(render(translate(what, rig.listener), rig.folders))
    took = time.process_time() - began
    gc.enable()
    return resources, took * 1000


async def measure(services: int, operations: int) -> None:
    whole = system(services, operations)
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as folder:
        async with gateway(Path(folder), system(1, 1)) as rig:
            applier = Applier(rig.folders, Admin(rig.admin), confirm_s=60)
            resources, took = snapshot(rig, whole)
            print(f"snapshot: {took:.0f} ms, {sum(len(body(one)) for one in resources.values()) / 1e6:.1f} MB of files")
            used = cpu_ms(rig.process.pid)
            print(f"all of it at once, with validation: {await applied(applier, resources):.0f} ms", end="")
            print(f", of which Envoy computed {cpu_ms(rig.process.pid) - used:.0f} ms")
            print(f"Envoy: {resident_mb(rig.process.pid):.0f} MB")
            computed, replicas = [], []
            before = resident_mb("self")
            for number in range(_CHANGES):
                name = f"s{number % services:03}.a"
                moved = msgspec.structs.replace(whole.replicas[name], address=f"127.0.0.1:{10 + number}")
                whole = replace(whole, replicas={**whole.replicas, name: moved})
                resources, took = snapshot(rig, whole)
                computed.append(took)
                replicas.append(await applied(applier, resources))
            told = f"snapshot {statistics.median(computed):.0f} ms, applied in {statistics.median(replicas):.0f} ms"
            print(f"a replica that moves, median of {_CHANGES}: {told}")
            added = contract("s000", {"/s000/new": {"get": {}}})
            system_ = replace(whole, contracts={**whole.contracts, f"s000.{whole.system.services['s000'].digests[0]}": added})
            resources, took = snapshot(rig, system_)
            told = f"snapshot {took:.0f} ms, applied in {await applied(applier, resources):.0f} ms"
            print(f"another contract of one service: {told}")
            print(f"after {_CHANGES + 1} changes: here {before:.0f} -> {resident_mb('self'):.0f} MB, ", end="")
            print(f"Envoy {resident_mb(rig.process.pid):.0f} MB")


async def applied(applier: Applier, resources: dict[str, list[dict[str, Any]]]) -> float:
    began = time.perf_counter()
    await applier.apply(resources)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    asyncio.run(measure(*(int(one) for one in (*sys.argv[1:], "300", "20")[:2])))
