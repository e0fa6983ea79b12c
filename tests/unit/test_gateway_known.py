"""What the gateway knows, and what does not change it."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from atoll.errors import Malformed, SystemMistake
from atoll.gateway.known import STALE_S, Known
from atoll.tokens.keys import THROWAWAY
from atoll.tokens.providers import Providers
from tests.support.foreign import ForeignMint
from tests.support.gateway import contract, known, replica
from tests.support.tokens import Mint

ORDERS = contract("orders", {"/orders": {"get": {}}})
ONE = replica(ORDERS, "orders-1", "127.0.0.1:1", beat=1000.0)
TWO = replica(ORDERS, "orders-2", "127.0.0.1:2", beat=1000.0)


def _with(*replicas: object, listening_since: float = 0.0) -> Known:
    return replace(known(ORDERS, replicas=replicas), listening_since=listening_since)  # type: ignore[arg-type]


def _beat(entry: object, beat: float) -> object:
    return msgspec.structs.replace(entry, beat=beat)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"service": "orders", "replica": "orders-1"}',
        b'{"service": "orders", "replica": "orders-1", "address": "nowhere"}',
        b'{"service": "orders", "replica": "orders-1", "address": "orders.example:80"}',
        b'{"service": "payments", "replica": "orders-1", "address": "127.0.0.1:1"}',
        b'{"service": "orders", "replica": "orders-9", "address": "127.0.0.1:1"}',
    ],
)
def test_an_entry_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        _with(ONE).with_replica("orders.orders-1", body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"name": "shop"}'])
def test_a_system_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        known(ORDERS).with_contract("system", body)


def test_a_contract_that_is_none_is_refused() -> None:
    with pytest.raises(SystemMistake, match="contracts bucket"):
        known(ORDERS).with_contract("orders.x", b'{"format": 2}')


def test_heartbeats_alone_are_no_change() -> None:
    assert _with(ONE, TWO).view == _with(_beat(ONE, 1001.0), TWO).view
    assert _with(ONE, TWO).view != _with(ONE).view


def test_silence_counts_only_while_others_are_heard() -> None:
    late = 1000.0 + STALE_S + 1

    assert _with(ONE, TWO).present == (ONE, TWO)
    assert [one.replica for one in _with(ONE, _beat(TWO, late)).present] == ["orders-2"]


def test_after_a_reconnect_everybody_is_given_time() -> None:
    late = 1000.0 + 10 * STALE_S

    assert len(_with(ONE, _beat(TWO, late), listening_since=late - 1).present) == 2


def test_a_silence_of_all_is_the_bus_s_and_nobody_goes_for_it() -> None:
    """Servers that have lost each other: the connections stay, and nobody's beat arrives."""
    again = 1000.0 + 10 * STALE_S

    heard = _with(ONE, TWO).with_replica("orders.orders-2", msgspec.json.encode(_beat(TWO, again)))
    assert len(heard.present) == 2
    for beat in (again + 10, again + 20, again + STALE_S + 1):
        heard = heard.with_replica("orders.orders-2", msgspec.json.encode(_beat(TWO, beat)))
    assert [one.replica for one in heard.present] == ["orders-2"], "it alone was silent"


def test_keys_always_hold_the_throwaway_one() -> None:
    withdrawn = known(ORDERS).with_keys(Mint().key_set.serialize()).with_keys(b'{"keys": [], "version": 9}')

    assert withdrawn.keys.keys == (THROWAWAY,)


def test_an_older_set_of_keys_changes_nothing() -> None:
    mint = Mint()
    newest = known(ORDERS).with_keys(mint.key_set.serialize())

    assert newest.with_keys(b'{"keys": [], "version": 0}') == newest


def test_what_is_known_survives_a_restart() -> None:
    before = _with(ONE, TWO).with_keys(Mint().key_set.serialize())

    after = Known.parse(before.serialize())

    assert after == before


def test_a_contract_that_can_no_longer_be_read_costs_nobody_else_anything() -> None:
    """As after an upgrade to a version that takes less."""
    what = known(contract("orders", {"/orders": {"get": {"x-atoll-timeout-s": 7}}}), contract("stock", {"/stock": {"get": {}}}))
    saved = what.serialize().replace(b'"x-atoll-timeout-s":7', b'"x-atoll-timeout-s":0')

    again = Known.parse(saved)

    assert [one.service for one in again.contracts.values()] == ["stock"]
    assert (again.system, again.keys) == (what.system, what.keys)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", json.dumps({"system": 1}).encode()])
def test_a_broken_file_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        Known.parse(body)


def test_ended_sessions_are_kept_over_a_restart_and_an_older_list_changes_nothing() -> None:
    body = b'{"shard": 7, "version": 2, "sessions": {"session-1": 9999999999}}'
    told = known(ORDERS).with_revocations(body)
    assert told.revocations.sessions == {"session-1"}
    assert told.view != known(ORDERS).view
    assert Known.parse(told.serialize()).revocations == told.revocations
    assert told.with_revocations(b'{"shard": 7, "version": 1, "sessions": {}}') == told
    assert told.with_revocations(b'{"shard": 8, "version": 1, "sessions": {}}').revocations.sessions == {"session-1"}
    with pytest.raises(Malformed):
        told.with_revocations(b'{"shard": 64, "version": 3, "sessions": {}}')


def test_other_issuers_are_kept_over_a_restart_and_an_older_list_changes_nothing() -> None:
    trusted = Providers((ForeignMint().provider(),), version=2)
    told = known(ORDERS).with_providers(trusted.serialize())
    assert told.view != known(ORDERS).view
    assert Known.parse(told.serialize()).providers == trusted
    assert told.with_providers(Providers(version=1).serialize()) == told
    with pytest.raises(Malformed):
        told.with_providers(b"[]")
