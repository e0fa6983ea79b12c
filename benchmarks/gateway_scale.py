"""Many services at one gateway: what a snapshot costs, how long Envoy takes for a change, what a request pays for their
number, and what stays in memory.

`python -m benchmarks.gateway_scale [SERVICES [OPERATIONS [CHANGES]]]`. Besides a few requests no load: numbers of one run on
this machine. On a busy one the processor time is what counts. So many replicas move, and so many contracts have another
operation instead of one.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
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

# Enough for a processor time that is counted in steps of 10 ms.
_CONNECTIONS, _EACH = 8, 500


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


def proportional_mb(pid: int | str) -> float:
    """Its share of what is in memory."""
    (line,) = [line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")]
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


@dataclass
class Bench:
    """One gateway, and what its changes cost."""

    rig: Rig
    applier: Applier

    async def change(self, what: Known) -> Cost:
        resources, snapshot_ms = snapshot(self.rig, what)
        used, own, began = cpu_ms(self.rig.process.pid), time.process_time(), time.perf_counter()
        await self.applier.apply(resources)
        return Cost(
            snapshot_ms=snapshot_ms,
            applied_ms=(time.perf_counter() - began) * 1000,
            own_ms=(time.process_time() - own) * 1000,
            envoy_ms=cpu_ms(self.rig.process.pid) - used,
        )

    async def request_us(self, path: str) -> float:
        """What a request costs Envoy until its route is found and its token is missed; best of three turns."""
        found = []
        for _ in range(3):
            used = cpu_ms(self.rig.process.pid)
            await asyncio.gather(*(self._ask(path) for _ in range(_CONNECTIONS)))
            found.append((cpu_ms(self.rig.process.pid) - used) * 1000 / (_CONNECTIONS * _EACH))
        return min(found)

    async def _ask(self, path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.rig.listener.port)
        for _ in range(_EACH):
            writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 401 "), head
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        writer.close()
        await writer.wait_closed()

    def memory(self) -> str:
        """As it is now, of both."""
        gc.collect()
        return f"Envoy {proportional_mb(self.rig.process.pid):.0f} MB, here {proportional_mb('self'):.0f} MB"


@dataclass(frozen=True)
class Cost:
    """Of one change: the snapshot's CPU; from there until Envoy uses it the time, our CPU and Envoy's (in steps of 10 ms)."""

    snapshot_ms: float
    applied_ms: float
    own_ms: float
    envoy_ms: float

    def __str__(self) -> str:
        computed = f"snapshot {self.snapshot_ms:.0f} ms CPU"
        return f"{computed}; applied in {self.applied_ms:.0f} ms: CPU {self.own_ms:.0f} here, {self.envoy_ms:.0f} Envoy"


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(one, field.name) for one in costs) for field in fields(Cost)))


def with_contract(what: Known, number: int, services: int) -> Known:
    """Another contract of one service, which its replica has: as many operations, the last of them new."""
    name = f"s{number % services:03}"
    (digest,) = what.system.services[name].digests
    document = what.contracts[f"{name}.{digest}"].document["openapi"]
    kept = dict(list(document["paths"].items())[:-1])
    newer = contract(name, {**kept, f"/{name}/new{number}": {"get": {"security": [{"token": [f"{name}:read"]}]}}})
    system_ = msgspec.structs.replace(
        what.system,
        services={**what.system.services, name: msgspec.structs.replace(what.system.services[name], digests=(newer.digest,))},
    )
    contracts = {key: one for key, one in what.contracts.items() if key != f"{name}.{digest}"} | {
        f"{name}.{newer.digest}": newer
    }
    moved = msgspec.structs.replace(what.replicas[f"{name}.a"], digest=newer.digest)
    return replace(what, system=system_, contracts=contracts, replicas={**what.replicas, f"{name}.a": moved})


def with_address(what: Known, number: int, services: int) -> Known:
    name = f"s{number % services:03}.a"
    moved = msgspec.structs.replace(what.replicas[name], address=f"127.0.0.1:{10 + number}")
    return replace(what, replicas={**what.replicas, name: moved})


async def measure(services: int, operations: int, changes: int) -> None:
    whole = system(services, operations)
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as folder:
        async with gateway(Path(folder), system(1, 1)) as rig:
            bench = Bench(rig, Applier(rig.folders, Admin(rig.admin), confirm_s=60))
            resources, first_ms = snapshot(rig, whole)
            bytes_, entries = len(body("rds", resources["rds"])), len(resources["rds"][0]["virtual_hosts"][0]["routes"])
            print(f"{services} services of {operations} operations: {entries} route entries, {bytes_ / 1e6:.1f} MB of routes")
            print(f"snapshot of everything, when nothing was computed before: {first_ms:.0f} ms CPU")
            print(f"all of it at once: {await bench.change(whole)}")
            for number in dict.fromkeys((0, services // 2, services - 1)):
                us = await bench.request_us(f"/s{number:03}/things1/7")
                print(f"a request to service {number}, refused for want of a token: {us:.0f} us CPU of Envoy")
            for what, changed in (("a replica", with_address), ("a contract", with_contract)):
                print(f"before: {bench.memory()}")
                for half in range(2):
                    costs = []
                    for number in range(half * changes // 2, (half + 1) * changes // 2):
                        whole = changed(whole, number, services)
                        costs.append(await bench.change(whole))
                    print(f"{what} changes, median of {len(costs)}: {median(costs)}; then {bench.memory()}")


if __name__ == "__main__":
    asyncio.run(measure(*(int(one) for one in (*sys.argv[1:], *("300", "20", "100")[len(sys.argv) - 1 :]))))
