"""Whose contract it is that Envoy refuses, so that everybody else's changes don't wait for it.

Envoy takes a route table whole or not at all, and says of many routes only what is wrong with the first. So it is asked about
parts: first without all that could be at fault, then by halves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from atoll.gateway.known import Known, LeftOut

__all__ = ["refused", "with_what_is_urgent"]

Judge = Callable[[Known], Awaitable[str]]
"""Envoy's reason against a gateway, "" for none."""


async def refused(known: Known, last: Known | None, judge: Judge) -> Mapping[str, LeftOut]:
    """The contracts of `known` that Envoy refuses; none when its refusal is not about contracts.

    `last` is what was in use: contracts that were not are looked at first, and its routes are those that stay.
    """
    if not await judge(known):
        return {}
    for suspects in _suspects(known, last):
        left_out = {key: LeftOut("", _before(key, suspects, last)) for key in suspects}
        if left_out and not await judge(known.leaving_out(left_out)):
            return await _at_fault(known, left_out, judge)
    return {}


def with_what_is_urgent(last: Known, known: Known) -> Known:
    """What was in use, with the keys, ended sessions and replicas of now, which wait for nobody."""
    return replace(
        last,
        contracts={**last.contracts, **known.contracts},
        replicas=known.replicas,
        keys=known.keys,
        revocations=known.revocations,
        providers=known.providers,
        listening_since=known.listening_since,
    )


def _suspects(known: Known, last: Known | None) -> Iterator[list[str]]:
    counting = known.listed - known.left_out.keys()
    if last is not None:
        yield sorted(counting - last.listed)
    yield sorted(counting)


def _before(key: str, suspects: list[str], last: Known | None) -> dict[str, Any] | None:
    """The document whose routes were in use for the service of `key`."""
    service = key.partition(".")[0]
    entry = last.system.services.get(service) if last else None
    for digest in entry.digests if entry else ():
        earlier = f"{service}.{digest}"
        if last and earlier in last.usable and earlier not in suspects:
            left_out = last.left_out.get(earlier)
            return left_out.instead if left_out else last.contracts[earlier].document
    return None


async def _at_fault(known: Known, suspects: Mapping[str, LeftOut], judge: Judge) -> dict[str, LeftOut]:
    """By halves: one of many is found in few questions. Each half is judged without the other."""
    if not (reason := await judge(known)):
        return {}
    if len(suspects) == 1:
        return {key: LeftOut(reason, one.instead) for key, one in suspects.items()}
    entries = list(suspects.items())
    first, second = dict(entries[: len(entries) // 2]), dict(entries[len(entries) // 2 :])
    return {
        **await _at_fault(known.leaving_out(second), first, judge),
        **await _at_fault(known.leaving_out(first), second, judge),
    }
