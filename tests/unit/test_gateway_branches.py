"""With what every path begins that an expression takes: too short costs time, too long would lose requests."""

from __future__ import annotations

import pytest

from atoll.gateway.xds.branches import branched


def _keys(*regexes: str) -> set[str]:
    routes = [{"match": {"safe_regex": {"regex": one}}} for one in regexes]
    matcher = branched({"virtual_hosts": [{"routes": routes}]})["virtual_hosts"][0]["matcher"]
    return set(matcher.get("matcher_tree", {}).get("prefix_match_map", {}).get("map", ()))


@pytest.mark.parametrize(
    ("regex", "keys"),
    [
        ("/orders/[^/]+", {"/orders"}),
        (r"/a\.b/[^/]+", {"/a.b"}),
        ("/ord[^/]+", {"/ord"}),
        ("/[^/]+/lines", set()),
        (".*", set()),
        ("/orders/[^/]+|/orders/[^/]+/lines", {"/orders"}),
        ("/orders|/other", {"/o"}),
        (r"/(?:\||%7[Cc])x", set()),
        (r"/a(?:\||%7[Cc])x|/ab", {"/a"}),
        (r"/a\|b|/ab", {"/a"}),
        ("/a[|]b|/ac", {"/a"}),
        ("/ab?", {"/a"}),
        ("/gr%[Cc]3%[Bb][Cc]n", {"/gr"}),
    ],
)
def test_what_an_expression_begins_with(regex: str, keys: set[str]) -> None:
    assert _keys(regex) == keys


def test_a_route_is_where_longer_and_shorter_beginnings_lead() -> None:
    routes = [{"match": {"prefix": "/"}}, {"match": {"path": "/a"}}, {"match": {"path": "/ab"}}, {"match": {"path": "/b"}}]
    matcher = branched({"virtual_hosts": [{"routes": routes}]})["virtual_hosts"][0]["matcher"]
    lists = matcher["matcher_tree"]["prefix_match_map"]["map"]
    found = {key: [one["match"] for one in some["action"]["typed_config"]["routes"]] for key, some in lists.items()}

    assert found == {
        "/a": [{"prefix": "/"}, {"path": "/a"}, {"path": "/ab"}],
        "/ab": [{"prefix": "/"}, {"path": "/a"}, {"path": "/ab"}],
        "/b": [{"prefix": "/"}, {"path": "/b"}],
    }
    assert matcher["on_no_match"]["action"]["typed_config"]["routes"] == [{"match": {"prefix": "/"}}]


def test_a_host_without_routes_has_no_tree() -> None:
    assert branched({"virtual_hosts": [{"name": "x", "routes": []}]}) == {"virtual_hosts": [{"name": "x"}]}
