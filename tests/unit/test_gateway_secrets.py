"""The gateway's certificates are followed, whatever happens to who is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from atoll.gateway import secrets
from atoll.gateway.admin import Admin
from atoll.gateway.ir import Endpoint
from atoll.gateway.secrets import Follower, Origin
from atoll.gateway.xds.folders import Folders
from tests.support.waiting import until


async def test_a_report_that_cannot_be_written_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "LOOK_S", 0.01)
    told: list[Sequence[str]] = []

    def report(_shown: Mapping[str, Any], faults: Sequence[str]) -> None:
        told.append(faults)
        if len(told) == 1:
            raise OSError(28, "No space left on device")

    missing = Origin("server_certificate", (tmp_path / "a.pem", tmp_path / "a.key"))
    follower = Follower([missing], Folders(str(tmp_path / "gateway")), Admin(Endpoint("127.0.0.1", 9)), report)
    following = asyncio.create_task(follower.follow())
    try:
        await until(lambda: len(told) == 2 or following.done(), what="a second report")
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
    assert told[0] == told[1] != []
