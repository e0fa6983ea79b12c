"""Where handlers are declared: a Service is one, and a Router is one for another file, taken in by `service.include`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from atoll.errors import SystemMistake
from atoll.service.arguments import Argument, arguments_of
from atoll.service.injection import Lifetime, Provider
from atoll.service.operations import Operation, Options, SocketOptions, Subscription

if TYPE_CHECKING:
    from atoll.service.static import Files

__all__ = ["Hook", "Router"]

F = TypeVar("F", bound=Callable[..., Any])
Hook = tuple[Callable[..., Any], tuple[Argument, ...]]


class Router:
    """Operations, event handlers and providers. Every decorator gives the function back unchanged."""

    def __init__(self, prefix: str = "") -> None:
        """`prefix` stands before every path declared here: Router("/orders")."""
        self._prefix = prefix.rstrip("/")
        self._operations: list[Operation] = []
        self._subscriptions: list[Subscription] = []
        self._providers: list[Provider] = []
        self._start_hooks: list[Hook] = []
        self._stop_hooks: list[Hook] = []
        self._routers: list[Router] = []

    def get(self, path: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """Answers GET, and HEAD with it. Its transaction can only read."""
        return self._operation("GET", path, options)

    def post(self, path: str, **options: Unpack[Options]) -> Callable[[F], F]:
        return self._operation("POST", path, options)

    def put(self, path: str, **options: Unpack[Options]) -> Callable[[F], F]:
        return self._operation("PUT", path, options)

    def patch(self, path: str, **options: Unpack[Options]) -> Callable[[F], F]:
        return self._operation("PATCH", path, options)

    def delete(self, path: str, **options: Unpack[Options]) -> Callable[[F], F]:
        return self._operation("DELETE", path, options)

    def websocket(self, path: str, **options: Unpack[SocketOptions]) -> Callable[[F], F]:
        """Takes WebSockets: `async def chat(socket: WebSocket, …)`, which has to accept it. Needs `atoll[websocket]`."""
        names = sys._getframe(1).f_locals
        full = self._full(path)

        def declare(handler: F) -> F:
            self._add(Operation.of_socket(full, handler, options, names))
            return handler

        return declare

    def static(self, prefix: str, folder: str) -> Files:
        """Answers below `prefix` with the files of `folder`, a path from the file that calls this. To anybody, no token asked.

        What it gives knows their URLs: `assets = service.static("/assets", "assets")`, then `assets.url("shop.css")`.
        """
        from atoll.service.static import Files

        caller = sys._getframe(1)
        full = self._prefix + prefix.rstrip("/")
        files = Files(full, Path(caller.f_code.co_filename).parent / folder, f"{caller.f_code.co_filename}:{caller.f_lineno}")
        name = re.sub(r"\W+", "_", f"static{full}")
        operation = Operation.derive("GET", f"{full}/{{file:path}}", files.answer, {"id": name, "public": True})
        self._add(operation)
        return files

    def on(self, type: str, *, alone: bool = False) -> Callable[[F], F]:
        """Handles events of `type`, `<publisher>.<name>`: each changes this service's data once.

        `alone=True` for a handler with an effect outside the database: one event per transaction, and `delivery.id` is the
        key that makes the effect idempotent.
        """
        names = sys._getframe(1).f_locals

        def declare(handler: F) -> F:
            self._subscriptions.append(Subscription.derive(type, handler, alone, names))
            return handler

        return declare

    def provides(self, *, lifetime: Lifetime = "service") -> Callable[[F], F]:
        """The function makes what its return annotation names; whoever asks for that type gets it."""
        names = sys._getframe(1).f_locals

        def declare(function: F) -> F:
            self._providers.append(Provider.derive(function, lifetime, names))
            return function

        return declare

    def on_start(self, hook: F) -> F:
        """Called once providers stand, before the first request."""
        self._start_hooks.append((hook, arguments_of(hook, sys._getframe(1).f_locals)))
        return hook

    def on_stop(self, hook: F) -> F:
        """Called after the last request, before providers are cleaned up."""
        self._stop_hooks.append((hook, arguments_of(hook, sys._getframe(1).f_locals)))
        return hook

    def include(self, router: Router) -> None:
        """Takes in what `router` declares, also what it declares later."""
        self._routers.append(router)

    def _operation(self, method: str, path: str, options: Options) -> Callable[[F], F]:
        names = sys._getframe(2).f_locals
        full = self._full(path)

        def declare(handler: F) -> F:
            self._add(Operation.derive(method, full, handler, options, names))
            return handler

        return declare

    def _full(self, path: str) -> str:
        return self._prefix + path if path != "/" or not self._prefix else self._prefix

    def _add(self, operation: Operation) -> None:
        refuse_twice(self._operations, operation)
        self._operations.append(operation)

    def _all(self) -> Iterator[Router]:
        """This one and everything taken in, in the order of `include`."""
        yield self
        for router in self._routers:
            yield from router._all()


def refuse_twice(declared: list[Operation], operation: Operation) -> None:
    """Raises SystemMistake when verb and path, parameters' names aside, or the id are taken."""
    for other in declared:
        if other.method == operation.method and _shape(other.path) == _shape(operation.path):
            raise SystemMistake(
                f"{operation.method} {operation.path} is declared twice: here and at {other.where}", where=operation.where
            )
        if other.id == operation.id:
            raise SystemMistake(
                f"two operations are called {operation.id!r}: here and at {other.where}",
                where=operation.where,
                hint="rename the function, or give one of them id=",
            )


def _shape(path: str) -> tuple[str, ...]:
    return tuple("{}" if segment.startswith("{") else segment for segment in path.split("/"))
