"""How often a client may do something: `10/s`, `600/min`, `5/h`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["MEANING", "MOST", "WINDOWS_S", "Rate"]

WINDOWS_S = {"s": 1, "min": 60, "h": 3600}
# What the gateway can count exactly, with room: beyond it a limit is no limit but a load test.
MOST = 10_000
MEANING = f'a rate like "10/s", "600/min" or "5/h", a whole number from 1 to {MOST}'
_TEXT = re.compile(r"([1-9][0-9]{0,5})/(s|min|h)")


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` requests in every window of `unit`. A client that was quiet for a whole window may send `count` at once."""

    count: int
    unit: str

    @classmethod
    def parse(cls, text: Any) -> Rate:
        """Raises ValueError that says what a rate looks like."""
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if not found or int(found[1]) > MOST:
            raise ValueError(f"{text!r} is not {MEANING}")
        return cls(int(found[1]), found[2])

    @property
    def window_s(self) -> int:
        return WINDOWS_S[self.unit]

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}"
