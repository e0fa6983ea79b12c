"""How Alembic finds the models. atoll runs the migrations; `alembic revision --autogenerate` writes the next one."""

from inventory.models import Base

from atoll.sqlalchemy import run_migrations

run_migrations(Base.metadata)
