"""Fixtures that every question's tests share. They live in `tests/support`; here they are only made known."""

from __future__ import annotations

from tests.support.mongodb import mongod, mongodb_url

__all__ = ["mongod", "mongodb_url"]
