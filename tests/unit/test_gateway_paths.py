"""Path templates: what they match, and which comes first."""

from __future__ import annotations

import re

import pytest

from atoll.gateway.paths import Path, parameters


@pytest.mark.parametrize(
    ("template", "yes", "no"),
    [
        ("/orders/{id}", ["/orders/7", "/orders/a.b", "/orders/%20"], ["/orders", "/orders/", "/orders/7/x", "/orders/7/"]),
        ("/a.b/{id}", ["/a.b/1"], ["/axb/1"]),
        ("/f/{rest:path}", ["/f/a", "/f/a/b", "/f/"], ["/f", "/g/a"]),
        ("/f/{+rest}", ["/f/a/b"], ["/f"]),
        ("/o/{id}.pdf", ["/o/7.pdf"], ["/o/7pdf", "/o/.pdf", "/o/7.pdfx"]),
        ("/o/{a}-{b}", ["/o/1-2"], ["/o/12", "/o/-2"]),
    ],
)
def test_a_parameter_is_one_segment(template: str, yes: list[str], no: list[str]) -> None:
    pattern = re.compile(Path(template).regex)

    assert [path for path in yes if not pattern.fullmatch(path)] == []
    assert [path for path in no if pattern.fullmatch(path)] == []


def test_what_must_be_escaped_is_matched_as_it_stands_in_a_request_line() -> None:
    assert Path("/größe/a b").matches("/gr%C3%B6%C3%9Fe/a%20b")
    assert not Path("/größe/a b").matches("/größe/a b")


@pytest.mark.parametrize(
    ("prefix", "under"), [("/", True), ("/orders", True), ("/orders/7", True), ("/order", False), ("/orders/77", False)]
)
def test_a_prefix_is_whole_segments(prefix: str, under: bool) -> None:
    assert Path("/orders/7").under(prefix) is under


def test_parameters_by_the_names_that_openapi_has() -> None:
    assert parameters("/f/{id}/{rest:path}") == ["id", "rest"]
    assert parameters("/f/{+rest}") == ["rest"]


@pytest.mark.parametrize(
    ("template", "prefix", "reaches"),
    [
        ("/{page}", "/orders", True),
        ("/{page}/{part}", "/orders", True),
        ("/{rest:path}", "/orders", True),
        ("/o{rest}", "/orders", True),
        ("/{page}/lines", "/orders", True),
        ("/shop/{rest:path}", "/shop/orders", True),
        ("/{page}", "/shop/orders", False),
        ("/x{rest}", "/orders", False),
        ("/shop/{rest:path}", "/orders", False),
        ("/orders/{id}", "/orders", False),
        ("/about", "/orders", False),
    ],
)
def test_a_pattern_may_reach_into_a_prefix_that_it_is_not_written_below(template: str, prefix: str, reaches: bool) -> None:
    assert Path(template).reaches_into(prefix) is reaches


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("/a", "/a", True),
        ("/a", "/b", False),
        ("/a:b", "/a%3Ab", True),
        ("/a", "/{x}", True),
        ("/a/b", "/{x}", False),
        ("/a/{x}", "/{y}/b", True),
        ("/a/{x}", "/b/{x}", False),
        ("/a/{x}", "/a/{x}.json", True),
        ("/a/{rest:path}", "/a/b/c", True),
        ("/a/{rest:path}", "/a", False),
        ("/{rest:path}", "/a/b", True),
        ("/a/{+rest}", "/b/c", False),
    ],
)
def test_two_paths_meet_when_a_request_may_be_for_both(one: str, other: str, meet: bool) -> None:
    assert Path(one).meets(Path(other)) is Path(other).meets(Path(one)) is meet
