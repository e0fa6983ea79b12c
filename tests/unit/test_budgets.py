"""The table of time budgets: whoever is further inside gives up first, so that the cause is what is reported."""

from __future__ import annotations

from atoll.system.budgets import BUDGETS


def test_each_layer_gives_up_before_the_one_above_it_does() -> None:
    layers = [BUDGETS.gateway_s, BUDGETS.handler_s, BUDGETS.idle_in_transaction_s, BUDGETS.statement_s]
    assert layers == sorted(set(layers), reverse=True)


def test_a_process_that_leaves_has_left_before_its_leases_end() -> None:
    assert BUDGETS.batch_s < BUDGETS.drain_s < BUDGETS.lease_s
