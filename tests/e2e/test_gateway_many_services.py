"""More services than Envoy could watch files of: each of them is routed, and none of them takes an inotify instance."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams

# A user has 128 inotify instances, by default.
MANY = 150
ONE: dict[str, Any] = {"get": {"security": []}}
CONTRACTS = [
    contract(f"service{number}", {f"/service{number}/things": ONE, f"/service{number}/things/{{id}}": ONE})
    for number in range(MANY)
]


def watches(rig: Rig) -> int:
    """Envoy's open inotify instances."""
    folder = Path(f"/proc/{rig.process.pid}/fd")
    return sum(os.readlink(link) == "anon_inode:inotify" for link in folder.iterdir())


async def test_more_services_than_inotify_instances_are_routed_and_changed(tmp_path: Path) -> None:
    async with upstreams(tmp_path, "everyone") as (one,):
        few = known(CONTRACTS[0], replicas=(replica(CONTRACTS[0], "a", one.address),))
        all_ = known(*CONTRACTS, replicas=tuple(replica(each, "a", one.address) for each in CONTRACTS))
        async with gateway(tmp_path / "gateway", few) as rig, httpx.AsyncClient(base_url=rig.url, timeout=20) as http:
            before = watches(rig)

            await rig.apply(replace(all_, keys=few.keys))

            assert watches(rig) == before > 0
            last = f"/service{MANY - 1}/things/7"
            assert (await http.get(last)).json()["path"] == last
            await rig.apply(few)
            assert (await http.get(last)).status_code == 404
            assert watches(rig) == before
