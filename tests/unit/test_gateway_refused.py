"""Which contract Envoy refuses, and what its service and all the others have meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from atoll.gateway.ir import Gateway, Listener, Route
from atoll.gateway.known import Known, LeftOut
from atoll.gateway.refused import refused, with_what_is_urgent
from atoll.gateway.translate import translate
from atoll.tokens.revocations import Revocations, RevokedShard
from tests.support.gateway import contract, known, replica
from tests.support.tokens import Mint

OPEN: dict[str, Any] = {"get": {"security": []}}
ORDERS = contract("orders", {"/orders": OPEN})
WRONG = contract("orders", {"/orders": OPEN, "/orders/wrong": OPEN})
OTHERS = tuple(contract(f"service-{number}", {f"/service-{number}": OPEN}) for number in range(31))


def _gateway(what: Known) -> Gateway:
    return translate(what, Listener("127.0.0.1", 8080))


def _paths(what: Known) -> set[str]:
    return {str(one.path) for one in _gateway(what).routes if isinstance(one, Route)}


def _judge(asked: list[Known], *, also: Callable[[Known], bool] = lambda _: False) -> Callable[[Known], Awaitable[str]]:
    """Refuses every gateway with a path that ends with `wrong`, and says why."""

    async def judge(what: Known) -> str:
        asked.append(what)
        return "it is wrong" if also(what) or any(path.endswith("wrong") for path in _paths(what)) else ""

    return judge


async def test_one_of_many_that_are_new_is_found_in_few_questions() -> None:
    asked: list[Known] = []
    what = known(WRONG, *OTHERS)

    left_out = await refused(what, None, _judge(asked))

    assert left_out == {f"orders.{WRONG.digest}": LeftOut("it is wrong", None)}
    assert _paths(what.leaving_out(left_out)) == {f"/service-{number}" for number in range(31)}
    assert len(asked) <= 2 + 1 + 2 * 5


async def test_several_are_found_each_with_its_reason() -> None:
    also_wrong = contract("stock", {"/stock/wrong": OPEN})

    left_out = await refused(known(WRONG, also_wrong, *OTHERS), None, _judge([]))

    assert left_out.keys() == {f"orders.{WRONG.digest}", f"stock.{also_wrong.digest}"}


async def test_the_routes_before_it_stay_and_lead_to_its_replicas_too() -> None:
    both = (replica(ORDERS, "orders-1", "127.0.0.1:1"), replica(WRONG, "orders-2", "127.0.0.1:2"))
    last, now = known(ORDERS, replicas=both[:1]), known(ORDERS, WRONG, replicas=both)

    left_out = await refused(now, last, _judge([]))
    gateway = _gateway(now.leaving_out(left_out))

    assert _paths(now.leaving_out(left_out)) == {"/orders"}
    assert [str(one) for one in gateway.clusters[0].endpoints] == ["127.0.0.1:1", "127.0.0.1:2"]
    (fault,) = gateway.faults
    assert fault.startswith(f"orders: the contract {WRONG.digest} is left out, the routes before it stay")
    assert fault.endswith("it is wrong")


async def test_a_contract_that_was_in_the_bucket_before_it_was_listed_is_a_new_one() -> None:
    last = replace(known(ORDERS), contracts=known(ORDERS, WRONG).contracts)

    left_out = await refused(known(ORDERS, WRONG), last, _judge([]))

    assert left_out == {f"orders.{WRONG.digest}": LeftOut("it is wrong", ORDERS.document)}


async def test_the_one_that_was_taken_before_two_that_are_not_stays() -> None:
    again = contract("orders", {"/orders": OPEN, "/orders/2/wrong": OPEN})
    first = known(ORDERS, WRONG).leaving_out(await refused(known(ORDERS, WRONG), known(ORDERS), _judge([])))
    second = replace(known(WRONG, again), left_out=first.left_out)

    left_out = await refused(second, first, _judge([]))

    assert _paths(second.leaving_out(left_out)) == {"/orders"}


async def test_nobody_is_left_out_for_what_is_no_contracts_fault() -> None:
    assert await refused(known(ORDERS, *OTHERS), known(ORDERS), _judge([], also=lambda _: True)) == {}


async def test_nobody_is_left_out_when_nothing_is_refused() -> None:
    """What only a running Envoy refuses, like a key, is nobody's here."""
    assert await refused(known(ORDERS, *OTHERS), None, _judge([])) == {}


def test_keys_sessions_and_replicas_do_not_wait() -> None:
    last = known(ORDERS)
    ended = Revocations().updated(RevokedShard(0, 1, {"session-1": 4_000_000_000}))
    one = replica(ORDERS, "orders-1", "127.0.0.1:1")
    now = replace(known(ORDERS, replicas=(one,), max_header_size_kib=1), keys=Mint().key_set, revocations=ended)

    urgent = with_what_is_urgent(last, now)

    assert (urgent.keys, urgent.revocations, urgent.present) == (now.keys, now.revocations, (one,))
    assert urgent.system == last.system


@pytest.mark.parametrize("instead", [None, ORDERS.document])
def test_what_is_left_out_is_still_so_after_a_restart_and_until_its_contract_goes(instead: dict[str, object] | None) -> None:
    key = f"orders.{WRONG.digest}"
    what = known(ORDERS, WRONG).leaving_out({key: LeftOut("it is wrong", instead)})

    again = Known.parse(what.serialize())

    assert again.left_out == what.left_out
    assert _gateway(again) == _gateway(what)
    assert again.without_contract(key).left_out == {}
