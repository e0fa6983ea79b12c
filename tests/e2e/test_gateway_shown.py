"""`atoll gateway show` and `diff` beside a system that runs, whose controller hangs, and that no longer runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from atoll.gateway.files import replace_file
from tests.support.system import RunningSystem, running
from tests.support.waiting import until_sync


def differences(pair: RunningSystem) -> list[dict[str, Any]]:
    return list(json.loads(pair.run("gateway", "diff", "--json").stdout))


@contextmanager
def hanging_controller(pair: RunningSystem) -> Iterator[None]:
    (pid,) = [one["pid"] for one in json.loads(pair.must("ps", "--json"))["processes"] if one["name"] == "gateway"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def route(said: str, path: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("POST") and f" {path} " in line]


def test_what_the_gateway_does_is_shown_and_compared_whoever_hangs_or_is_gone(tmp_path: Path) -> None:
    with running("pair", tmp_path / "pair") as pair:
        said = pair.must("gateway", "show")
        assert route(said, "/left/notes")
        assert max(map(len, said.splitlines()[1:])) <= 128
        document = json.loads(pair.must("gateway", "show", "left", "--json"))
        assert document["running"]
        whole = json.loads(pair.must("gateway", "show", "--json"))
        assert (pair.folder / whole["access_log"]).exists()
        with pair.client() as http:
            http.get("/left/notes")
        until_sync(lambda: "atoll_requests" in httpx.get(whole["metrics"]).text, what="the request is counted")
        assert whole["access_log"] in said
        assert "by http1 of its module atoll" in said
        assert {one["health"] for one in document["health"] if one["cluster"] == "left"} == {"healthy"}
        assert pair.must("gateway", "diff") == ""

        clusters = pair.folder / ".atoll/gateway/cds/cds.json"
        before = clusters.read_bytes()
        with hanging_controller(pair):
            replace_file(clusters, before.replace(b'"connect_timeout":"0.5s"', b'"connect_timeout":"7s"'))
            found = until_sync(lambda: differences(pair), what="Envoy has read it")
            assert {(one["type"], one["field"], one["running"], one["desired"]) for one in found} == {
                ("Cluster", "connect_timeout", 7.0, 0.5)
            }
            assert pair.run("gateway", "diff").returncode == 1
            assert route(pair.must("gateway", "show"), "/left/notes")
        until_sync(lambda: not differences(pair), what="the controller has put it right")
        assert clusters.read_bytes() == before
        until_sync(lambda: "put right at" in pair.must("gateway", "show"), what="told")

        pair.down()
        said = pair.must("gateway", "show")
        assert "does not run" in said.splitlines()[0]
        assert route(said, "/left/notes")
        assert pair.run("gateway", "diff").returncode == 2
