"""What every suite of promises on databases begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kinds import KINDS, Kind, kind_of


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    """A test that asks for it runs on every kind of database, each time on an empty one."""
    name: str = request.param
    if name == "sqlite":
        return kind_of(name, f"sqlite://{tmp_path}/test.sqlite")
    return kind_of(name, request.getfixturevalue(f"{KINDS[name].engine}_url"))
