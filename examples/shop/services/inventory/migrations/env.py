"""How Alembic finds the models. atoll runs the migrations; `alembic revision --autogenerate` writes the next one."""

from atoll.sqlalchemy import run_migrations
from inventory.models import Base

run_migrations(Base.metadata)
