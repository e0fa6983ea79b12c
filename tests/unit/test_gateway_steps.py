"""From one set of files to the next: clusters before the routes that use them, and after those that no longer do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from atoll.gateway.apply import steps
from atoll.gateway.files import body, forget_unfinished, version, write, write_initial
from atoll.gateway.ir import Endpoint, Listener
from atoll.gateway.known import SystemEntry
from atoll.gateway.xds.folders import TYPES, Folders
from atoll.gateway.xds.typed import typed

Resources = dict[str, list[dict[str, Any]]]


def _resources(clusters: str, routes: str, keys: str = "a", ended: str = "") -> Resources:
    return {
        "ecds": [{"keys": keys}],
        "revocations": [{"ended": ended}],
        "cds": [{"name": name} for name in clusters],
        "rds": [typed("envoy.config.route.v3.RouteConfiguration", name=routes)],
        "lds": [{"name": "listener"}],
    }


def _files(resources: Resources) -> dict[str, bytes]:
    return {kind: body(kind, resources[kind]) for kind in TYPES}


def _told(old: Resources, new: Resources) -> list[str]:
    """Each step as `cds ab` (names of the clusters) or `rds`."""
    found = []
    for kind, content in steps(_files(old), new, _files(new)):
        names = "".join(one["name"] for one in json.loads(content)["resources"]) if kind == "cds" else ""
        found.append(f"{kind} {names}".strip())
    return found


def test_nothing_changed_nothing_written() -> None:
    assert _told(_resources("ab", "1"), _resources("ab", "1")) == []


def test_a_new_cluster_comes_before_the_routes_that_use_it() -> None:
    assert _told(_resources("a", "1"), _resources("ab", "2")) == ["cds ab", "rds"]


def test_a_cluster_goes_after_the_routes_that_used_it() -> None:
    assert _told(_resources("ab", "1"), _resources("b", "2")) == ["rds", "cds b"]


def test_one_cluster_for_another() -> None:
    assert _told(_resources("a", "1"), _resources("b", "2")) == ["cds ab", "rds", "cds b"]


def test_new_keys_touch_nothing_else() -> None:
    assert _told(_resources("a", "1"), _resources("a", "1", keys="b")) == ["ecds"]


def test_an_ended_session_leaves_the_token_filter_and_its_cache_alone() -> None:
    assert _told(_resources("a", "1"), _resources("a", "1", ended="session-1")) == ["revocations"]


def test_the_version_of_a_file_is_its_content() -> None:
    assert version(body("cds", [{"a": 1}])) == version(body("cds", [{"a": 1}])) != version(body("cds", [{"a": 2}]))


def test_a_file_is_written_only_when_its_content_changes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"

    assert [write(path, b"1"), write(path, b"1"), write(path, b"2")] == [True, False, True]
    assert [one.name for one in path.parent.iterdir()] == ["file.json"]


def test_the_first_files_are_complete(tmp_path: Path) -> None:
    """Envoy does not start, or never sees a listener, when a file that is referred to is missing."""
    system = SystemEntry("shop", "http://localhost:8080", "http://localhost:8080/auth", "shop")

    bootstrap = write_initial(tmp_path, Listener("127.0.0.1", 8080), Endpoint("127.0.0.1", 9901), system)

    referred = [part for part in bootstrap.read_text().split('"') if part.startswith(str(tmp_path))]
    referred += [part for part in (tmp_path / "lds/lds.json").read_text().split('"') if part.startswith(str(tmp_path))]
    assert [path for path in referred if not Path(path).exists() and not path.endswith("access.log")] == []


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    system = SystemEntry("shop", "http://localhost:8080", "http://localhost:8080/auth", "shop")
    write_initial(tmp_path, Listener("127.0.0.1", 8080), Endpoint("127.0.0.1", 9901), system)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    for left in (".inputs.json.4711", "rds/.rds.pb.4711"):
        (tmp_path / left).write_bytes(b"{")

    forget_unfinished(Folders(str(tmp_path)))

    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
