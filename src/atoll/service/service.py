"""A service: its name, its database, what it publishes, and everything that is declared on it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from atoll.database.ports import Kind, OutboxRow
from atoll.errors import SystemMistake
from atoll.service import annotations as types
from atoll.service.arguments import Argument, From
from atoll.service.events import Declaration, Event, declaration, encoder
from atoll.service.injection import Provider, check_providers
from atoll.service.operations import Operation, Subscription
from atoll.service.router import Hook, Router, refuse_twice
from atoll.service.settings import Settings

__all__ = ["Flavour", "Service"]

Flavour = Literal["sqlite", "postgresql", "mongodb", "sqlalchemy"]
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,39}$")
_KINDS = ("sqlite", "postgresql", "mongodb", None)


class Service(Router):
    """One process, one purpose, one database of its own. Declaring connects to nothing and reads nothing.

    `app` is an ASGI or WSGI application that answers what no operation here does; ASGI takes WebSockets too. It checks its
    callers itself when `public` is true, otherwise a token is required as everywhere. `folder` is the one that its package
    lies in, told from the file that made it.
    """

    def __init__(
        self,
        name: str,
        *,
        database: Kind | None = "sqlite",
        publishes: Sequence[type[Event]] = (),
        title: str = "",
        version: str = "1.0.0",
        app: Any = None,
        public: bool = False,
    ) -> None:
        super().__init__()
        if not _NAME.match(name):
            raise SystemMistake(f"{name!r} is no name for a service", hint="lower case, digits and underscores: orders")
        if database not in _KINDS:
            raise SystemMistake(
                f"{name}: database={database!r} is no kind of database", hint='"sqlite", "postgresql", "mongodb" or None'
            )
        self.name = name
        self.database = database
        self.title = title or name.replace("_", " ").capitalize()
        self.version = version
        self.app = app
        self.app_public = public
        self.folder = _folder(sys._getframe(1).f_code.co_filename)
        self.publishes = tuple(publishes)
        _check_events(name, database, self.declarations)

    @property
    def declarations(self) -> tuple[Declaration, ...]:
        """What its events declare, in order."""
        return tuple(declaration(cls) for cls in self.publishes)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Every operation, settled and checked. Raises SystemMistake for what can't work."""
        provided = self.providers
        found: list[Operation] = []
        for router in self._all():
            for operation in router._operations:
                refuse_twice(found, operation)
                found.append(operation.providing(provided))
        self._check([(one.handler.__name__, one.where, argument) for one in found for argument in one.arguments])
        return tuple(found)

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Every event handler, checked. Raises SystemMistake for what can't work."""
        found: dict[str, Subscription] = {}
        for router in self._all():
            for one in router._subscriptions:
                if one.type in found:
                    raise SystemMistake(f"{one.type} has two handlers: here and at {found[one.type].where}", where=one.where)
                found[one.type] = one
        if found and self.database is None:
            first = next(iter(found.values()))
            raise SystemMistake(
                f"{self.name} has no database, so it can't remember that {first.type} was handled", where=first.where
            )
        asking = [(one.handler.__name__, one.where, argument) for one in found.values() for argument in one.arguments]
        self._check(asking)
        return tuple(found.values())

    @property
    def providers(self) -> dict[Any, Provider]:
        """By the type that they provide."""
        found: dict[Any, Provider] = {}
        for router in self._all():
            for provider in router._providers:
                if provider.type in found:
                    raise SystemMistake(
                        f"{provider.type} is provided twice: here and at {found[provider.type].where}", where=provider.where
                    )
                found[provider.type] = provider
        return found

    @property
    def start_hooks(self) -> tuple[Hook, ...]:
        return tuple(hook for router in self._all() for hook in router._start_hooks)

    @property
    def stop_hooks(self) -> tuple[Hook, ...]:
        return tuple(hook for router in self._all() for hook in router._stop_hooks)

    @property
    def settings(self) -> tuple[type[Settings], ...]:
        """Every Settings class that somebody asks for."""
        found: dict[type[Settings], None] = {}
        for argument in self._arguments():
            if isinstance(argument.type, type) and issubclass(argument.type, Settings):
                found[argument.type] = None
        return tuple(found)

    @property
    def flavour(self) -> Flavour | None:
        """Which implementation its database needs: its kind, or "sqlalchemy" when handlers ask for a Session."""
        asked = {types.transaction_flavour(one.type) or types.database_flavour(one.type) for one in self._arguments()}
        return "sqlalchemy" if "sqlalchemy" in asked else self.database

    @property
    def encode(self) -> Callable[[Any], OutboxRow]:
        """What its database is given to turn an event into an outbox row (`database.ports.Encode`)."""
        return encoder(self.name, self.publishes)

    def _arguments(self) -> Iterator[Argument]:
        for router in self._all():
            for operation in router._operations:
                yield from operation.arguments
            for subscription in router._subscriptions:
                yield from subscription.arguments
            for provider in router._providers:
                yield from provider.arguments
            for _hook, arguments in (*router._start_hooks, *router._stop_hooks):
                yield from arguments

    def _check(self, asking: list[tuple[str, str, Argument]]) -> None:
        providers = self.providers
        for one in providers.values():
            asking += [(one.function.__name__, one.where, argument) for argument in one.arguments]
        check_providers(providers, asking)
        flavour = self.flavour
        for who, where, argument in asking:
            if argument.source in (From.TRANSACTION, From.DATABASE):
                _check_flavour(self, flavour, who, where, argument)


def _folder(file: str) -> Path:
    """The folder that the package lies in: `orders/service.py` of services/orders/orders → services/orders."""
    return Path(file).resolve().parent.parent


def _check_flavour(service: Service, flavour: Flavour | None, who: str, where: str, argument: Argument) -> None:
    asked = types.transaction_flavour(argument.type) or types.database_flavour(argument.type)
    if flavour is None:
        raise SystemMistake(f"{who}: {service.name} has no database", where=where, hint='Service(…, database="sqlite")')
    if flavour == "sqlalchemy" and service.database == "mongodb":
        raise SystemMistake(f"{who}: SQLAlchemy does not speak to mongodb", where=where)
    if asked not in ("any", flavour):
        name = argument.type.__name__
        right = f"from atoll.{flavour} import {'Session' if flavour == 'sqlalchemy' and name != 'Database' else name}"
        raise SystemMistake(
            f"{who}: {argument.name} is a {asked} {name}, but the database of {service.name} is {flavour}",
            where=where,
            hint=right,
        )


def _check_events(service: str, database: Kind | None, events: Sequence[Declaration]) -> None:
    names = [one.name for one in events]
    for name in names:
        if names.count(name) > 1:
            raise SystemMistake(f"{service} publishes two events called {name!r}")
    if events and database is None:
        raise SystemMistake(f"{service} has no database, so it can't publish: an event is part of a transaction")
