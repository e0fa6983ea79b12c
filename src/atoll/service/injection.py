"""What handlers are given besides their input: settings, the database, and what the service itself provides.

A provider's lifetime is `service` (made once at start, cleaned up at stop) or `call` (made for one request or event,
cleaned up after its transaction). A provider that yields cleans up after its yield.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec

from atoll.errors import SystemMistake
from atoll.service.arguments import Argument, From, arguments_of, declared_at, hints_of
from atoll.service.settings import Settings, Sources, load

if TYPE_CHECKING:
    from atoll.service.calls import Call
    from atoll.service.service import Service

__all__ = ["Injector", "Lifetime", "Provider"]

Lifetime = Literal["service", "call"]
_UNMADE: Any = object()
_CALL_ONLY = (From.REQUEST, From.SOCKET, From.PRINCIPAL, From.TRANSACTION, From.DELIVERY)


class Provider(msgspec.Struct, frozen=True):
    """A function that makes a `type`."""

    type: Any
    function: Callable[..., Any]
    lifetime: Lifetime
    arguments: tuple[Argument, ...]
    where: str

    @classmethod
    def derive(cls, function: Callable[..., Any], lifetime: Lifetime, names: Mapping[str, Any] | None = None) -> Provider:
        """The type is the return annotation, of a generator what it yields. Raises SystemMistake."""
        where = declared_at(function)
        arguments = arguments_of(function, names)
        returns = hints_of(function, names).get("return")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            returns = get_args(returns)[0] if get_origin(returns) else None
        if returns is None:
            raise SystemMistake(
                f"{function.__name__}: its return annotation is the type that it provides",
                where=where,
                hint="-> Thing, or -> AsyncIterator[Thing] when it yields",
            )
        provider = cls(returns, function, lifetime, arguments, where)
        if lifetime == "service" and (wrong := [one for one in arguments if one.source in _CALL_ONLY]):
            raise SystemMistake(
                f"{function.__name__}: {wrong[0].name!r} exists only during a call",
                where=where,
                hint='@service.provides(lifetime="call")',
            )
        return provider


class Injector:
    """Everything injectable in one running service. `start` before the first call, `close` after the last."""

    def __init__(self, service: Service, *, database: Any = None, sources: Sources | None = None) -> None:
        """Reads the settings. Raises SystemMistake that names every faulty one."""
        self.database = database
        self.providers = service.providers
        self._values: dict[Any, Any] = dict(load(service.settings, sources or Sources()))
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Makes what lives as long as the service."""
        for kind, provider in self.providers.items():
            if provider.lifetime == "service" and kind not in self._values:
                await self._make_for_service(provider)

    async def close(self) -> None:
        """Cleans up in reverse order."""
        await self._stack.aclose()

    @contextmanager
    def override(self, kind: Any, value: Any) -> Iterator[None]:
        """`value` stands in for what is provided as `kind`. For tests."""
        missing = object()
        before = self._values.get(kind, missing)
        self._values[kind] = value
        try:
            yield
        finally:
            if before is missing:
                del self._values[kind]
            else:
                self._values[kind] = before

    async def fill(self, values: dict[str, Any], arguments: Iterable[Argument], call: Call) -> None:
        """Puts the injected `arguments` of one call into `values`, by name. Awaits only what is made for this call."""
        for one in arguments:
            value = self._at_hand(one, call)
            values[one.name] = await self._provided(one, call) if value is _UNMADE else value

    def _at_hand(self, argument: Argument, call: Call) -> Any:
        match argument.source:
            case From.TRANSACTION:
                return call.transaction
            case From.PRINCIPAL:
                return call.principal
            case From.DELIVERY:
                return call.delivery
            case From.DATABASE:
                return self.database
            case From.REQUEST:
                return call.request()
            case From.SOCKET:
                return call.socket
        return self._values.get(argument.type, _UNMADE)

    async def _provided(self, argument: Argument, call: Call) -> Any:
        kind = argument.type
        if kind in call.provided:
            return call.provided[kind]
        provider = self.providers.get(kind)
        if provider is None:
            return argument.default
        if provider.lifetime == "service":
            async with self._lock:
                return self._values[kind] if kind in self._values else await self._make_for_service(provider)
        values: dict[str, Any] = {}
        await self.fill(values, provider.arguments, call)
        call.provided[kind] = made = await _make(provider.function, values, call.stack())
        return made

    async def _make_for_service(self, provider: Provider) -> Any:
        values = {}
        for one in provider.arguments:
            if one.source is From.DATABASE:
                values[one.name] = self.database
            elif one.type in self._values:
                values[one.name] = self._values[one.type]
            elif one.type in self.providers:
                values[one.name] = await self._make_for_service(self.providers[one.type])
            else:
                values[one.name] = one.default
        self._values[provider.type] = made = await _make(provider.function, values, self._stack)
        return made

    async def run(self, function: Callable[..., Any], arguments: Iterable[Argument]) -> None:
        """Calls a start or stop hook with what it asks for."""
        result = function(**{one.name: self._lasting(one) for one in arguments})
        if inspect.isawaitable(result):
            await result

    def _lasting(self, argument: Argument) -> Any:
        return self.database if argument.source is From.DATABASE else self._values.get(argument.type, argument.default)


async def _make(function: Callable[..., Any], values: Mapping[str, Any], stack: AsyncExitStack) -> Any:
    if inspect.isasyncgenfunction(function):
        return await stack.enter_async_context(asynccontextmanager(function)(**values))
    if inspect.isgeneratorfunction(function):
        return await stack.enter_async_context(_threadless(contextmanager(function)(**values)))
    made = function(**values)
    return await made if inspect.isawaitable(made) else made


@asynccontextmanager
async def _threadless(manager: Any) -> AsyncIterator[Any]:
    with manager as value:
        yield value


def check_providers(providers: Mapping[Any, Provider], asking: Iterable[tuple[str, str, Argument]]) -> None:
    """Raises SystemMistake for an argument that nobody provides and for providers that need each other.

    `asking` are (who, file:line, argument).
    """
    for who, where, argument in asking:
        if argument.source is not From.PROVIDED or not argument.required or _is_settings(argument.type):
            continue
        if argument.type not in providers:
            raise SystemMistake(
                f"{who}: nobody provides {argument.name}: {_show(argument.type)}",
                where=where,
                hint=f"@service.provides() on a function that returns {_show(argument.type)}"
                " (a body needs POST, PUT or PATCH; query parameters as a struct need Annotated[…, Query()])",
            )
    for kind in providers:
        _check_chain(providers, kind, ())


def _check_chain(providers: Mapping[Any, Provider], kind: Any, above: tuple[Any, ...]) -> None:
    provider = providers.get(kind)
    if provider is None:
        return
    if kind in above:
        names = " → ".join(_show(one) for one in (*above[above.index(kind) :], kind))
        raise SystemMistake(f"providers need each other: {names}", where=provider.where)
    for one in provider.arguments:
        below = providers.get(one.type) if one.source is From.PROVIDED else None
        if below and provider.lifetime == "service" and below.lifetime == "call":
            raise SystemMistake(
                f"{_show(kind)} lives as long as the service, but needs {_show(one.type)}, which lives for one call",
                where=provider.where,
            )
        _check_chain(providers, one.type, (*above, kind))


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _show(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)
