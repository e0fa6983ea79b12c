"""Tries at run time what it must not: to import another service."""

import importlib

from atoll import Service

service = Service("sneak", database=None)


@service.get("/sneak/attempt", public=True)
async def attempt() -> dict[str, str]:
    try:
        importlib.import_module("new.service")
    except ImportError as error:
        return {"outcome": type(error).__name__}
    return {"outcome": "imported"}
