"""How a test's client reaches the service: in this process, and done only when the call's events have left too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx

__all__ = ["Settling"]


class Settling(httpx.ASGITransport):
    """Every answer is given once `settled` returns."""

    def __init__(self, app: Any, settled: Callable[[], Awaitable[None]]) -> None:
        super().__init__(app)
        self._settled = settled

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        await self._settled()
        return response
