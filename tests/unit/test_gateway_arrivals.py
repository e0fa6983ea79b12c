"""Which replicas are new to the gateway beside others, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from msgspec import structs

from atoll.gateway.arrivals import Arrivals
from atoll.gateway.ir import Endpoint
from atoll.gateway.known import Known
from atoll.gateway.translate import translate
from atoll.registry.replica import Replica
from atoll.system.failures import FailureDetection
from tests.support.gateway import contract, known, replica
from tests.unit.test_gateway_translate import LISTENER

ORDERS = contract("orders", {"/orders": {"get": {"security": []}}})
ONE, TWO, THREE = (replica(ORDERS, f"orders-{number}", f"127.0.0.1:210{number}") for number in (1, 2, 3))


def of(*replicas: Replica, slow_start_s: float = 10) -> Known:
    what = known(ORDERS, replicas=replicas)
    entry = structs.replace(what.system.services["orders"], failures=FailureDetection(slow_start_s=slow_start_s))
    return replace(what, system=structs.replace(what.system, services={"orders": entry}))


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_who_comes_beside_another_is_new_for_as_long_as_the_manifest_says(clock: Clock) -> None:
    arrivals = Arrivals(of(ONE), clock)

    assert arrivals.fresh(of(ONE, TWO)) == {TWO.key}
    assert arrivals.changes_in_s == 10
    clock.now_s += 9.9
    assert arrivals.fresh(of(ONE, TWO)) == {TWO.key}
    clock.now_s += 0.1
    assert arrivals.fresh(of(ONE, TWO)) == frozenset()
    assert arrivals.changes_in_s is None


def test_who_was_there_when_the_controller_started_is_not_new(clock: Clock) -> None:
    assert Arrivals(of(ONE, TWO), clock).fresh(of(ONE, TWO)) == frozenset()


def test_those_that_are_started_together_are_alike(clock: Clock) -> None:
    arrivals = Arrivals(of(), clock)
    arrivals.fresh(of(ONE))
    clock.now_s += 0.5

    assert arrivals.fresh(of(ONE, TWO)) == frozenset()


def test_the_first_one_of_a_service_has_nobody_beside_it(clock: Clock) -> None:
    assert Arrivals(of(), clock).fresh(of(ONE)) == frozenset()


def test_who_has_left_and_comes_back_is_new_again(clock: Clock) -> None:
    arrivals = Arrivals(of(ONE, TWO), clock)
    arrivals.fresh(of(ONE))

    assert arrivals.fresh(of(ONE, TWO)) == {TWO.key}


def test_without_slow_start_nobody_is_new(clock: Clock) -> None:
    assert Arrivals(of(ONE, slow_start_s=0), clock).fresh(of(ONE, TWO, slow_start_s=0)) == frozenset()


def test_a_new_one_has_less_beside_others_and_everything_when_it_is_alone() -> None:
    def endpoints(*replicas: Replica) -> tuple[Endpoint, ...]:
        what = replace(of(*replicas), fresh=frozenset({TWO.key, THREE.key}))
        return translate(what, LISTENER).clusters[0].endpoints

    assert [one.fresh for one in endpoints(ONE, TWO, THREE)] == [False, True, True]
    assert [one.fresh for one in endpoints(TWO, THREE)] == [False, False], "somebody has to do the work"


def test_who_is_new_is_saved_and_is_a_change() -> None:
    before = of(ONE, TWO)
    after = replace(before, fresh=frozenset({TWO.key}))

    assert Known.parse(after.serialize()).fresh == {TWO.key}
    assert before.view != after.view
