"""The end of a gateway: nobody new comes, who is there is answered and told to go, and only then may Envoy end."""

from __future__ import annotations

import asyncio

from atoll.engines import envoy
from atoll.gateway.admin import Admin
from atoll.system.budgets import BUDGETS

__all__ = ["DRAIN_S", "begin", "finish"]

# As long as a request may take, and a moment for its answer's way.
DRAIN_S = BUDGETS.gateway_s + 1.0
_PAUSE_S = 0.02
# A client that asks without a pause has been told to go by then; one that says nothing is not waited for.
_QUIET_S = 0.3


async def begin(admin: Admin) -> None:
    """From now on connections are refused, and each that stands ends with its next answer. Envoy may be gone already."""
    await envoy.drain(admin.endpoint.host, admin.endpoint.port)


async def finish(admin: Admin, timeout_s: float = DRAIN_S) -> bool:
    """Waits until nobody waits for an answer. False when somebody still does: a stream or a WebSocket that nobody ends."""
    try:
        async with asyncio.timeout(timeout_s):
            await _quiet(admin)
    except TimeoutError:
        return False
    return True


async def _quiet(admin: Admin) -> None:
    now = asyncio.get_running_loop().time
    busy = now()
    while (there := await admin.clients()).connections:
        busy = now() if there.requests else busy
        if now() - busy > _QUIET_S:
            return
        await asyncio.sleep(_PAUSE_S)
