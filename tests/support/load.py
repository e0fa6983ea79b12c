"""Customers who never stop: requests at a steady pace from several threads, every answer written down."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

__all__ = ["Answer", "Answers", "Ask", "load"]

_PAUSE_S = 0.03


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and the status that it should get."""

    method: str
    path: str
    expected: int = 200
    json: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is 0 where there was none; `text` then says why. Times are of the monotonic clock. `request_id` is "" where the
    gateway did not answer.
    """

    ask: Ask
    status: int
    text: str
    began_s: float
    ended_s: float
    request_id: str = ""

    def __str__(self) -> str:
        took_s = self.ended_s - self.began_s
        return f"{self.ask.method} {self.ask.path}: {self.status or 'no answer'} after {took_s:.2f} s: {self.text[:300]}"


@dataclass
class Answers:
    """All of them so far; grows while the load runs."""

    all: list[Answer] = field(default_factory=list)

    def of(self, method: str, status: int | None = None) -> list[Answer]:
        return [one for one in self.all if one.ask.method == method and status in (None, one.status)]

    @property
    def unexpected(self) -> list[str]:
        """One line for every request that did not get what it should; empty when all is well."""
        return [str(one) for one in self.all if one.status != one.ask.expected]

    def cover(self, since_s: float, duration_s: float) -> bool:
        """Whether requests were begun later than `duration_s` after `since_s` and have been answered."""
        return any(one.began_s > since_s + duration_s for one in self.all)

    def more(self, count: int) -> Callable[[], bool]:
        """A condition: `count` further answers have come since now."""
        enough = len(self.all) + count
        return lambda: len(self.all) >= enough


@contextmanager
def load(
    url: str, asks: Callable[[], Ask], headers: Mapping[str, str], clients: int = 3, trusting: ssl.SSLContext | None = None
) -> Iterator[Answers]:
    """`clients` threads ask one thing after the other until the block ends; what was begun is then still answered.

    Each keeps its connection, as browsers do, and never asks a second time.
    """
    answers, over = Answers(), threading.Event()

    def run() -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=20, verify=trusting or True) as http:
            while not over.wait(_PAUSE_S):
                answers.all.append(_answer(http, asks()))

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _answer(http: httpx.Client, ask: Ask) -> Answer:
    began_s = time.monotonic()
    try:
        found = http.request(ask.method, ask.path, json=ask.json)
        request_id = found.headers.get("x-request-id", "")
        return Answer(ask, found.status_code, found.text, began_s, time.monotonic(), request_id)
    except httpx.HTTPError as error:
        return Answer(ask, 0, repr(error), began_s, time.monotonic())
