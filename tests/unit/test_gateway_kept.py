"""What is not computed again is what would have been computed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from atoll.gateway.ir import Cors, Listener
from atoll.gateway.kept import Kept, Same
from atoll.gateway.known import Known
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.tokens.providers import Providers
from tests.support.foreign import ForeignMint
from tests.support.gateway import contract, known, replica

FOLDERS = Folders("/gateway")
PROVIDER = ForeignMint(claim="scope").provider()
CORS = Cors(("https://a.example",), credentials=False, max_age_s=60, headers=("x-a",), exposed=())


def test_what_was_asked_in_this_round_or_the_last_is_not_computed_again() -> None:
    computed = []

    def double(number: int) -> int:
        computed.append(number)
        return 2 * number

    kept = Kept(double)
    for numbers in ((1, 2), (1, 3), (1, 2)):
        kept.begin()
        assert [kept(number) for number in (*numbers, *numbers)] == [2 * number for number in (*numbers, *numbers)]

    assert computed == [1, 2, 3, 2]


def test_an_object_is_the_same_as_itself_alone() -> None:
    one, equal = [1], [1]

    assert Same(one) == Same(one)
    assert hash(Same(one)) == hash(Same(one))
    assert Same(one) != Same(equal)


def _variant(rng: random.Random) -> tuple[Known, Listener]:
    """A system as it may become by a few changes."""
    item = {"get": {"security": [{"token": [rng.choice(("a:read", "b:read"))]}]}, "post": {"x-atoll-streaming": True}}
    paths: dict[str, dict[str, Any]] = {
        f"/a/{name}": {method: item[method] for method in rng.sample(("get", "post"), rng.randint(1, 2))}
        for name in rng.sample(("x", "y", "{id}", "{id}/z"), 3)
    }
    a, b = contract("a", paths), contract("b", {"/b": {"get": {"security": []}}})
    made = known(
        *(a, b),
        replicas=(replica(b, "b-1", f"127.0.0.1:{rng.choice((1, 2))}"),),
        compression=rng.random() < 0.5,
        cors=rng.choice((None, CORS)),
        rate_limit=rng.choice((None, "10/s")),
        issuer=rng.choice(("http://one/auth", "http://two/auth")),
    )
    if rng.random() < 0.5:
        made = replace(made, providers=Providers((PROVIDER,), 1))
    return made, Listener("127.0.0.1", 8080, body_limit_bytes=rng.choice((1 << 20, 1 << 21)))


def _rendered(what: Known, listener: Listener) -> Mapping[str, Any]:
    made = render(translate(what, listener), FOLDERS)
    return {kind: msgspec.json.decode(msgspec.json.encode(some)) for kind, some in made.items()}


def test_a_snapshot_is_the_same_whatever_was_computed_before() -> None:
    rng = random.Random(7)
    variants = [_variant(rng) for _ in range(40)]
    alone = []
    for one in variants:
        # Two rounds of something else, and nothing of one's own is left.
        for _ in range(2):
            _rendered(known(contract("other", {})), Listener("127.0.0.1", 1, body_limit_bytes=1))
        alone.append(_rendered(*one))

    for _ in range(200):
        at = rng.randrange(len(variants))
        assert _rendered(*variants[at]) == alone[at]
    assert len({msgspec.json.encode(one, order="deterministic") for one in alone}) > 20
