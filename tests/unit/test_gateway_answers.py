"""Many paths share an entry of the route table, and every request meets what it met before."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from atoll.gateway.ir import Border, Listener, MethodList, MethodRefusal, Route
from atoll.gateway.known import ServiceEntry
from atoll.gateway.matching import NotFound, matched
from atoll.gateway.paths import Path
from atoll.gateway.translate import translate
from atoll.gateway.xds.answers import together
from atoll.gateway.xds.branches import branched
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from tests.support.gateway import contract, known

WORDS = ("a", "b", "a-b", "{x}", "{y}-b", "{x}.json", "{rest:path}")
SAID = ("a", "b", "a-b", "c", "c-b", "c.json", "")
METHODS = ("get", "post", "delete", "options")
LISTENER, FOLDERS = Listener("127.0.0.1", 8080), Folders("/gateway")


def _template(prefix: str, rng: random.Random) -> str:
    segments = [rng.choice(WORDS) for _ in range(rng.randint(0, 3))]
    # The rest of a path is its last segment, and no name stands in a path twice.
    kept = [one for one in segments[:-1] if one != "{rest:path}"] + segments[-1:]
    named = [one.replace("{x}", f"{{x{at}}}").replace("{y}", f"{{y{at}}}") for at, one in enumerate(kept)]
    return "/".join([prefix, *named])


def _paths(prefix: str, rng: random.Random) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for template in {Path(one).shape: one for one in (_template(prefix, rng) for _ in range(12))}.values():
        found[template] = {method: {"security": []} for method in rng.sample(METHODS, rng.randint(1, 3))}
    return found


def _met(table: list[dict[str, Any]], method: str, path: str) -> str:
    """What the first entry that takes it does."""
    for entry in table[1:]:
        if _takes(entry["match"], method, path):
            answer = entry.get("direct_response", {"status": entry.get("name")})
            allow = [one["header"]["value"] for one in entry.get("response_headers_to_add", ())]
            return f"{answer['status']} {allow}"
    return "nothing"


def _takes(match: dict[str, Any], method: str, path: str) -> bool:
    for condition in match.get("headers", ()):
        wanted = condition["string_match"]
        if not re.fullmatch(wanted.get("exact") or wanted["safe_regex"]["regex"], method):
            return False
    if "path" in match:
        return path == str(match["path"])
    if "safe_regex" in match:
        return re.fullmatch(match["safe_regex"]["regex"], path) is not None
    return path.startswith(match.get("prefix") or match["path_separated_prefix"])


def _expected(planned: Any, method: str, path: str) -> str:
    found = matched(planned, method, path)
    if isinstance(found, Route):
        return f"{found.name} []"
    if isinstance(found, NotFound):
        return "404 []"
    assert isinstance(found, MethodList | MethodRefusal)
    return f"{204 if isinstance(found, MethodList) else 405} {[', '.join(found.allow)]}"


@pytest.mark.parametrize("seed", range(30))
def test_every_request_meets_what_the_paths_one_by_one_would_say(seed: int) -> None:
    rng = random.Random(seed)
    planned = translate(known(*(contract(name, _paths(f"/{name}", rng)) for name in ("s", "t"))), LISTENER)
    (rendered,) = render(planned, FOLDERS)["rds"]
    table = [one for one in rendered["virtual_hosts"][0]["routes"] if not str(one.get("name")).startswith("gateway/")]
    for _ in range(300):
        path = "/".join(["", rng.choice("stu"), *rng.choices(SAID, k=rng.randint(0, 4))])
        method = rng.choice(("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT"))
        if not any(Path(one.path).matches(path) for one in planned.documents):
            assert _met(table, method, path) == _expected(planned, method, path), (method, path)


def _branch(table: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """What Envoy tries for it: the routes of the longest beginning that it has."""
    matcher = branched(table)["virtual_hosts"][0]["matcher"]
    lists = matcher["matcher_tree"]["prefix_match_map"]["map"]
    key = max((one for one in lists if path.startswith(one)), key=len, default=None)
    routes: list[dict[str, Any]] = (matcher["on_no_match"] if key is None else lists[key])["action"]["typed_config"]["routes"]
    return routes


@pytest.mark.parametrize("seed", range(30))
def test_a_branch_has_whatever_its_paths_may_meet_in_the_same_order(seed: int) -> None:
    """Beginnings of each other among the services, and one that has all other paths."""
    rng = random.Random(seed)
    names = ("s", "st", "a", "t")
    prefixes = {"s": "/s", "st": "/st", "a": "/a.b", "t": "/"}
    contracts = [contract(name, _paths(prefixes[name].rstrip("/"), rng)) for name in names]
    services = {one.service: ServiceEntry(prefix=prefixes[one.service], digests=(one.digest,)) for one in contracts}
    (table,) = render(translate(known(*contracts, services=services), LISTENER), FOLDERS)["rds"]
    (host,) = table["virtual_hosts"]
    for _ in range(200):
        path = "/".join(
            ["", rng.choice(("s", "st", "sta", "a", "a.b", "axb", "u", "")), *rng.choices(SAID, k=rng.randint(0, 4))]
        )
        method = rng.choice(("GET", "POST", "OPTIONS", "PUT"))
        assert _met(_branch(table, path), method, path) == _met(host["routes"], method, path), (method, path)


def test_a_request_to_one_of_many_services_is_compared_with_its_own_routes_alone() -> None:
    paths = [contract(f"s{number}", {f"/s{number}/{{id}}": {"get": {"security": []}}}) for number in range(100)]
    (table,) = render(translate(known(*paths), LISTENER), FOLDERS)["rds"]

    assert len(table["virtual_hosts"][0]["routes"]) > 300
    assert len(_branch(table, "/s77/1")) < 10


def _of(service: str, count: int) -> list[Any]:
    paths: dict[str, dict[str, Any]] = {f"/{service}/{number}": {"get": {"security": []}} for number in range(count)}
    return list(together(translate(known(contract(service, paths)), LISTENER).routes))


def test_paths_that_take_the_same_methods_have_two_entries_for_all_others() -> None:
    kinds = [type(one).__name__ for one in _of("s", 20)]

    assert kinds == 20 * ["Route"] + 2 * ["Answer"]


def test_an_expression_stays_far_from_what_envoy_takes_at_most() -> None:
    answers = [one for one in _of("s", 2_000) if not isinstance(one, Route)]

    assert all(sum(len(path.regex) for path in one.paths) <= 2_000 for one in answers)
    assert sum(len(one.paths) for one in answers) == 2 * 2_000


def test_what_stands_before_another_services_paths_or_a_border_stays_there() -> None:
    first, second = (MethodRefusal(Path(f"/{name}"), ("GET",)) for name in "st")

    kept = list(together([first, Border("/x"), second]))

    assert [type(one).__name__ for one in kept] == ["Answer", "Border", "Answer"]
