"""What a service imports that keeps its PostgreSQL database with SQLAlchemy: `Session`, and `run_migrations` for `env.py`.

`Session` is an AsyncSession with `publish()`; a handler that asks for one chooses SQLAlchemy for its service.
"""

from atoll.database.alembic import run_migrations
from atoll.database.sqlalchemy import Database, Session

__all__ = ["Database", "Session", "run_migrations"]
