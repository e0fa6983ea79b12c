"""`python -m atoll.service run --module atoll.auth.service`: auth on the kind of database that ATOLL_AUTH_DATABASE names."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, cast

from atoll.auth.accounts import UserRegistered
from atoll.auth.administration import administration
from atoll.auth.operations import operations
from atoll.auth.providers import ProvidersPublished
from atoll.auth.revocations import SessionsRevoked
from atoll.auth.signing import KeysPublished
from atoll.database.ports import Kind
from atoll.errors import SystemMistake
from atoll.service.service import Service

__all__ = ["auth"]


_PUBLISHES = (UserRegistered, KeysPublished, SessionsRevoked, ProvidersPublished)


@cache
def auth(database: str) -> Service:
    """The service on "sqlite" or "postgresql"; the statements are the same. Raises SystemMistake for another kind."""
    if database not in ("sqlite", "postgresql"):
        raise SystemMistake(f"auth can't keep its data in {database}", hint='[auth] database = "sqlite" or "postgresql"')
    made = Service("auth", database=cast(Kind, database), publishes=_PUBLISHES, title="Auth")
    made.include(operations)
    made.include(administration)
    return made


def __getattr__(name: str) -> Any:
    """`service`, made when it is asked for: importing reads no environment."""
    if name == "service":
        return auth(os.environ.get("ATOLL_AUTH_DATABASE") or "sqlite")
    raise AttributeError(name)
