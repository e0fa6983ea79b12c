"""The API page."""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.gateway.ir import Document

__all__ = ["documents"]


def documents(title: str, api: dict[str, Any]) -> tuple[Document, ...]:
    """`/openapi.json` and `/docs`."""
    text = msgspec.json.encode(api).decode()
    return (Document("/openapi.json", "application/json", text),)
