"""A service's own database, as its declaration asks for it, and where its migrations lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atoll.errors import SystemMistake

if TYPE_CHECKING:
    from atoll.database.ports import Database
    from atoll.service.service import Service

__all__ = ["database_of", "migrations_of"]


def database_of(service: Service, url: str) -> Database | None:
    """Not connected yet; None for a service without one. Raises SystemMistake when `url` is missing or of another kind."""
    if service.database is None:
        return None
    if not url:
        raise SystemMistake(
            f"{service.name} declares a {service.database} database, but ATOLL_DATABASE_URL is not set",
            hint="`atoll up` and `atoll run` set it",
        )
    from atoll.database import open_database

    database: Database = open_database(url, service.encode, sqlalchemy=service.flavour == "sqlalchemy")
    if database.kind != service.database:
        raise SystemMistake(f"{service.name} declares a {service.database} database, but its URL is of {database.kind}")
    return database


def migrations_of(folder: Path, kind: str) -> Path:
    """`migrations/`, or `migrations/<kind>/` in a service that can live on several kinds of databases."""
    own = folder / "migrations" / kind
    return own if own.is_dir() else folder / "migrations"
