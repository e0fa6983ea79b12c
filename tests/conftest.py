"""Fixtures that every question's tests share. They live in `tests/support`; here they are only made known."""

from __future__ import annotations

from tests.support.auth import auth, auth_url
from tests.support.mongodb import mongod, mongodb_url
from tests.support.postgresql import postgresql, postgresql_url
from tests.support.shop import customer, shop

__all__ = ["auth", "auth_url", "customer", "mongod", "mongodb_url", "postgresql", "postgresql_url", "shop"]
