"""Ports for servers that tests start, and may start again."""

from __future__ import annotations

import random

from atoll.host.ports import is_free, usable_range

__all__ = ["free_port"]


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago, and that no outgoing connection takes while its server is away."""
    return next(port for port in random.sample(usable_range(), 1000) if is_free(port))
