"""Which traces are recorded: of many requests about the share that the manifest says, and of each the whole trace."""

from __future__ import annotations

import asyncio
import math
import secrets
from pathlib import Path

import httpx

from tests.support.collector import collector
from tests.support.gateway import contract, gateway, known, replica, upstreams
from tests.support.waiting import until

ORDERS = contract("orders", {"/orders": {"get": {"security": []}}})
_COUNT, _SHARE = 400, 0.25


async def test_about_the_share_that_was_asked_for_is_recorded(tmp_path: Path) -> None:
    """Whatever clients say of theirs. Six standard deviations: by chance it fails once in 10**9 times."""
    sent = [secrets.token_hex(16) for _ in range(_COUNT)]
    with collector() as found:
        async with upstreams(tmp_path, "orders-1") as (one,):
            replicas = (replica(ORDERS, "orders-1", one.address),)
            what = known(ORDERS, replicas=replicas, otlp_endpoint=found.url, sampling=_SHARE)
            async with gateway(tmp_path / "gateway", what) as rig, httpx.AsyncClient(timeout=20) as http:
                turns = asyncio.Semaphore(8)

                async def seen_by_the_service(number: int) -> str:
                    """The traceparent that came with the request. Every second client says that it records its trace."""
                    said = f"00-{sent[number]}-{'1' * 16}-0{number % 2}"
                    async with turns:
                        answer = await http.get(f"{rig.url}/orders", headers={"traceparent": said})
                    return str(answer.json()["headers"]["traceparent"])

                seen = await asyncio.gather(*map(seen_by_the_service, range(_COUNT)))
                chosen = {one.split("-")[1] for one in seen if one.endswith("-01")}
                await until(lambda: {span.trace_id for span in found.spans} >= chosen, 20)

    assert [one.split("-")[1] for one in seen] == sent, "the client's trace goes on"
    assert {span.trace_id for span in found.spans} == chosen, "what services are told is what is recorded"
    for some in (sent, sent[0::2], sent[1::2]):
        count = sum(one in chosen for one in some)
        assert abs(count - _SHARE * len(some)) <= 6 * math.sqrt(len(some) * _SHARE * (1 - _SHARE))
