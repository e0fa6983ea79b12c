"""One request or event in hand: what its handler's arguments are read from."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from atoll.delivery.handling import Delivery
    from atoll.service.principal import Principal

__all__ = ["Call"]


class Call:
    """Made once per call; what is costly is made when somebody asks."""

    __slots__ = (
        "_headers",
        "_provided",
        "_query",
        "_stack",
        "body",
        "delivery",
        "form",
        "path",
        "principal",
        "receive",
        "scope",
        "socket",
        "transaction",
    )

    def __init__(self, scope: MutableMapping[str, Any] | None = None, receive: Any = None, path: tuple[str, ...] = ()) -> None:
        self.scope: MutableMapping[str, Any] = {} if scope is None else scope
        self.receive = receive
        self.path = path
        self.body: bytes = b""
        self.form: Any = None
        self.principal: Principal | None = None
        self.transaction: Any = None
        self.socket: WebSocket | None = None
        self.delivery: Delivery | None = None
        self._headers: dict[str, str] | None = None
        self._query: dict[str, list[str]] | None = None
        self._provided: dict[Any, Any] | None = None
        self._stack: AsyncExitStack | None = None

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case name; of a repeated one the first."""
        if self._headers is None:
            self._headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in reversed(self.scope["headers"])}
        return self._headers

    @property
    def query(self) -> dict[str, list[str]]:
        if self._query is None:
            text = self.scope.get("query_string", b"").decode("latin-1")
            self._query = parse_qs(text, keep_blank_values=True, max_num_fields=1000) if text else {}
        return self._query

    @property
    def provided(self) -> dict[Any, Any]:
        """What was made for this call, by type."""
        if self._provided is None:
            self._provided = {}
        return self._provided

    def stack(self) -> AsyncExitStack:
        """What is to be cleaned up after this call's transaction."""
        if self._stack is None:
            self._stack = AsyncExitStack()
        return self._stack

    async def close(self, error: BaseException | None = None) -> None:
        """Cleans up what was made for this call; what yielded it sees the error."""
        if self.form is not None:
            await self.form.close()
        if self._stack is not None:
            await self._stack.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def request(self) -> Request:
        """Starlette's view of it; a body that was read here is not read again."""
        from starlette.requests import Request

        request = Request(dict(self.scope), self.receive)
        if self.body:
            request._body = self.body
        return request
