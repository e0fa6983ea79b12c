"""Ports that stay: outside the ephemeral range, recorded, and used again."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.errors import SystemMistake
from atoll.host.ports import Ports, bind, is_free, port_holder, usable_range
from tests.support.ports import free_port


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with bind(free_port()) as listener:
        yield listener


@pytest.mark.parametrize(
    ("ephemeral", "first", "last"),
    [
        ("32768 60999", 10_000, 32_767),
        ("49152 65535", 10_000, 49_151),
        ("1024 50000", 50_001, 65_535),
        ("10100 65400", 2_000, 10_099),
    ],
)
def test_ports_lie_outside_the_range_of_outgoing_connections(ephemeral: str, first: int, last: int) -> None:
    usable = usable_range(ephemeral)
    assert (usable.start, usable.stop - 1) == (first, last)


def test_a_name_keeps_its_port_and_two_names_have_two(tmp_path: Path) -> None:
    first = Ports(tmp_path / "ports.json")
    leased = {name: first.lease(name) for name in ("nats", "orders-1", "orders-2")}
    assert len(set(leased.values())) == 3
    again = Ports(tmp_path / "ports.json")
    assert {name: again.lease(name) for name in reversed(leased)} == leased


def test_a_recorded_port_that_somebody_took_is_replaced(tmp_path: Path, taken: socket.socket) -> None:
    path = tmp_path / "ports.json"
    path.write_text(json.dumps({"nats": taken.getsockname()[1]}))
    port = Ports(path).lease("nats")
    assert port != taken.getsockname()[1]
    assert json.loads(path.read_text()) == {"nats": port}


def test_a_leased_port_stays_leased_while_its_process_listens(tmp_path: Path) -> None:
    ports = Ports(tmp_path / "ports.json")
    with bind(ports.lease("orders-1")) as listener:
        assert ports.lease("orders-1") == listener.getsockname()[1]


def test_many_ports_are_recorded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = Ports(tmp_path / "ports.json")
    replaced: list[Path] = []

    def replace(draft: Path, path: Path) -> None:
        replaced.append(path)
        draft.rename(path)

    monkeypatch.setattr(os, "replace", replace)
    names = [f"orders-{number}" for number in range(1, 31)]
    leased = ports.lease_all(names)
    assert len(set(leased)) == 30
    assert json.loads((tmp_path / "ports.json").read_text()) == dict(zip(names, leased, strict=True))
    assert ports.lease_all(names) == leased
    assert replaced == [tmp_path / "ports.json"]


def test_when_no_port_is_free_every_lease_says_so(tmp_path: Path, taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    ports = Ports(tmp_path / "ports.json", range(port, port + 1))
    for _ in range(2):
        with pytest.raises(SystemMistake, match="no free port"):
            ports.lease("orders-1")
    taken.close()
    assert ports.lease("orders-1") == port


def test_a_record_that_can_not_be_read_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{")
    assert Ports(tmp_path / "ports.json").lease("nats") in usable_range()


def test_when_every_port_is_taken_the_range_is_named(tmp_path: Path, taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    with pytest.raises(SystemMistake, match=f"from {port} to {port}"):
        Ports(tmp_path / "ports.json", range(port, port + 1)).lease("nats")


def test_who_holds_a_port_is_said(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    assert not is_free(port)
    assert port_holder(port).startswith(f"pid {os.getpid()} ")


def test_a_port_is_free_again_when_its_listener_is_gone() -> None:
    with bind(free_port()) as listener:
        port = listener.getsockname()[1]
    assert is_free(port)
    assert port_holder(port) == ""
