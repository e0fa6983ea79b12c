"""Power loss can't be tested here; that the setting for it reaches the server can."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.system import system


@pytest.mark.parametrize("sync_always", [False, True])
def test_the_manifest_decides_whether_the_bus_syncs_before_it_acknowledges(tmp_path: Path, sync_always: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    bus = f"[bus]\nsync_always = {str(sync_always).lower()}\n"
    (source / "atoll.toml").write_text(f'format = 1\nname = "durable"\n{bus}')
    with system(source, tmp_path / "durable") as durable:
        durable.up()
        assert durable.processes()["nats"]["state"] == "ready"
        configuration = (durable.folder / ".atoll" / "nats.conf").read_text()
        assert ('sync_interval: "always"' in configuration) is sync_always
