"""Comparing two answers: what is a difference and what is none; and what a mirror does with a request."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from atoll.errors import Malformed
from atoll.gateway.ir import Endpoint, Listener, Route
from atoll.gateway.known import Known, MirrorEntry
from atoll.gateway.mirror.asking import copied
from atoll.gateway.mirror.differences import Rules, compare
from atoll.gateway.mirror.plan import Plan
from atoll.gateway.mirror.report import MOST_OPERATIONS, Moment, Report
from atoll.gateway.mirror.samples import LIMIT_BYTES, Answer, Captured, Request, parse
from atoll.gateway.mirror.server import Arrivals
from atoll.gateway.mirror.shown import text
from atoll.gateway.translate import translate
from tests.support.gateway import contract, known, replica

PUBLIC: dict[str, Any] = {"security": []}
JSON = (("content-type", "application/problem+json; charset=utf-8"),)
MOMENT = Moment("2026-11-27T15:00:00.000Z", "id-1")


def _json(value: Any) -> Answer:
    return Answer(200, JSON, json.dumps(value).encode())


def _places(one: Any, other: Any, *ignore: str) -> list[tuple[str, str, str]]:
    return [(found.where, found.first, found.second) for found in compare(_json(one), _json(other), Rules.parse(ignore))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (1, 1.0),
        ([1e3], [1000]),
        ({"text": "é"}, {"text": "\u00e9"}),
    ],
)
def test_json_that_means_the_same_is_the_same(one: Any, other: Any) -> None:
    assert _places(one, other) == []


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({"a": 1}, {"a": True}, ("/a", "1", "true")),
        ({"a": None}, {}, ("/a", "null", "(absent)")),
        ([1, 2], [2, 1], ("/*", "1", "2")),
        ([1], [1, 2], ("", "(1 items)", "(2 items)")),
        ({"a": []}, {"a": {}}, ("/a", "[]", "{}")),
        ({"a": "1"}, {"a": 1}, ("/a", '"1"', "1")),
        ({"a/b": {"~": 1}}, {"a/b": {"~": 2}}, ("/a~1b/~0", "1", "2")),
        ({"a": "x" * 500}, {"a": ""}, ("/a", '"' + "x" * 78 + "…", '""')),
    ],
)
def test_json_that_means_something_else_is_told_with_its_place(one: Any, other: Any, found: tuple[str, str, str]) -> None:
    assert _places(one, other)[0] == found


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("body:/items", ["/total"]),
        ("body:/items/*/id", ["/items/*/n", "/total"]),
        ("body:/items/0", ["/items/*/id", "/items/*/n", "/total"]),
        ("body:/total", ["/items/*/id", "/items/*/n"]),
        ("body:/tot", ["/items/*/id", "/items/*/n", "/total"]),
        ("body:", []),
    ],
)
def test_a_rule_leaves_out_its_place_and_all_below(rule: str, left: list[str]) -> None:
    one = {"items": [{"id": 1, "n": 1}, {"id": 2, "n": 2}], "total": 1}
    other = {"items": [{"id": 3, "n": 3}, {"id": 4, "n": 4}], "total": 2}

    assert sorted({where for where, _, _ in _places(one, other, rule)}) == left


def test_json_that_is_nested_without_end_is_compared_all_the_same() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = {"a": [deep]}
    assert _places(deep, deep) == []
    assert len(_places({"b": deep}, {"b": {"a": [deep]}})) == 1


def test_what_says_it_is_json_and_is_not_is_compared_byte_by_byte() -> None:
    one, other = Answer(200, JSON, b'{"a": '), Answer(200, JSON, b'{"b": ')

    (found,) = compare(one, other, Rules())
    assert (found.kind, found.where) == ("body", "byte 2")


def test_headers_of_the_connection_and_of_the_moment_are_never_compared() -> None:
    one = Answer(200, (("date", "then"), ("content-length", "1"), ("x-request-id", "1"), ("vary", "a"), ("vary", "b")))
    other = Answer(200, (("date", "now"), ("transfer-encoding", "chunked"), ("server", "x"), ("vary", "a, b")))

    assert compare(one, other, Rules()) == ()


def test_a_header_that_is_a_secret_by_its_name_is_compared_and_never_shown() -> None:
    names = ("x-auth-token", "x-api-key", "x-csrf-token", "authorization", "x-session-id")
    one, other = (Answer(200, tuple((name, f"{name}-{number}") for name in names)) for number in (1, 2))

    found = compare(one, other, Rules())
    assert {difference.where for difference in found} == set(names)
    assert {value for difference in found for value in (difference.first, difference.second)} == {"***"}


def test_a_rule_for_a_header_does_not_mind_how_it_is_written() -> None:
    one, other = Answer(200, (("x-build", "1"),)), Answer(200, (("x-build", "2"),))

    assert len(compare(one, other, Rules())) == 1
    assert compare(one, other, Rules.parse(["header:X-Build"])) == ()


def test_more_differences_than_anybody_reads_are_not_looked_for() -> None:
    assert len(_places({str(n): 1 for n in range(1000)}, {str(n): 2 for n in range(1000)})) == 100


def test_a_packed_body_is_unpacked_and_a_bomb_is_not() -> None:
    packed = Answer(200, (("content-encoding", "gzip"),), gzip.compress(b"hello"))
    bomb = Answer(200, (("content-encoding", "gzip"),), gzip.compress(b"\0" * (50 * LIMIT_BYTES)))
    broken = Answer(200, (("content-encoding", "gzip"),), b"no gzip")

    assert packed.unpacked().body == b"hello"
    assert (bomb.unpacked().body, bomb.unpacked().fault) == (b"", "too_large")
    assert broken.unpacked().fault == "encoded"


# what Envoy sends


def _row(*words: bytes) -> bytes:
    return b"".join(b"%d:%b" % (len(word), word) for word in words)


def _message(mirror: bytes = b"next", body: bytes = b"\x00\xff") -> bytes:
    sent = _row(_row(b":method", b"POST", b":path", b"/a?b", b":authority", b"shop", b"x-own", b"\xe9"), body, b"")
    return _row(mirror, b"table: 0x1 9", b"41", base64.b64encode(sent), _row(b":status", b"201", b"x-a", b""), b"answer", b"")


def test_a_sample_is_read_as_it_was_captured() -> None:
    request = Request("POST", "/a?b", (("host", "shop"), ("x-own", "é")), b"\x00\xff")

    assert parse(_message()) == Captured("next", "table: 0x1 9", 41, request, Answer(201, (("x-a", ""),), b"answer"))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"nonsense",
        b"3:abc",
        _message()[:-5],
        _message() + b"1:x",
        b"9999999999:x",
        b"-1:x",
        _row(b"a", b"b", b"1", b"!", b"", b"", b""),
    ],
)
def test_what_is_no_sample_is_refused(message: bytes) -> None:
    with pytest.raises(Malformed):
        parse(message)


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [([7, 8, 9], 0), ([7, 9], 1), ([7, 9, 8], 0), ([7, 10, 8, 11], 1), ([7, 7000], 6992)],
)
def test_samples_that_never_arrive_are_counted_and_those_that_are_late_are_not(numbers: list[int], missing: int) -> None:
    arrivals = Arrivals()
    request, answer = Request("GET", "/", ()), Answer(200, ())

    found = [arrivals.missing(Captured(mirror, "1", number, request, answer)) for number in numbers for mirror in ("a", "b")]
    assert sum(found) == 2 * missing


# what is done with it

ORDERS = contract("orders", {"/orders/{id}": {"get": PUBLIC, "put": PUBLIC}, "/orders/search": {"get": PUBLIC}})
NEXT = contract("orders_next", {"/orders_next/{id}": {"get": PUBLIC}})
LEGACY = contract("legacy", {"/legacy/{rest:path}": {"get": PUBLIC, "post": PUBLIC}})
REVIEWS = contract("reviews", {"/reviews/{sku}": {"get": PUBLIC}})


def _known(**mirrors: MirrorEntry) -> Known:
    replicas = (replica(NEXT, "orders_next-1", "127.0.0.1:2101"), replica(REVIEWS, "reviews-1", "127.0.0.1:2102"))
    return known(ORDERS, NEXT, LEGACY, REVIEWS, replicas=replicas, fallback="legacy", mirrors=mirrors)


WHOLE = _known(
    next=MirrorEntry("orders", "orders_next", share=1.0), carve=MirrorEntry("legacy", "reviews", ("/reviews",), share=1.0)
)


@pytest.mark.parametrize(
    ("mirror", "path", "asked", "operation"),
    [
        ("next", "/orders/7?x=/orders", "/orders_next/7?x=/orders", "GET /orders_next/{id}"),
        ("next", "/orders/7/more", "/orders_next/7/more", "GET /orders/*"),
        ("carve", "/reviews/mug", "/reviews/mug", "GET /reviews/{sku}"),
        ("carve", "/reviews", "/reviews", "GET /reviews/*"),
        ("carve", "/made-up/1", "/made-up/1", "GET /*"),
        ("carve", "/reviewsx", "/reviewsx", "GET /*"),
    ],
)
def test_the_second_service_is_asked_at_its_own_path(mirror: str, path: str, asked: str, operation: str) -> None:
    plan = Plan.of(WHOLE, mirror)

    assert (plan.path(path), plan.operation(Request("GET", path, ()))) == (asked, operation)


def test_a_mirror_that_there_is_not_is_refused() -> None:
    with pytest.raises(Malformed):
        Plan.of(WHOLE, "other")


def test_a_request_is_copied_without_what_belongs_to_its_connection() -> None:
    headers = (("host", "shop"), ("connection", "close"), ("content-length", "3"), ("accept-encoding", "br, gzip"), ("a", "b"))
    copy = copied(Request("GET", "/a", headers), "/b", "next")

    assert copy.path == "/b"
    assert [pair for pair in copy.headers if pair[0] != "traceparent"] == [
        *(("host", "shop"), ("a", "b"), ("accept-encoding", "gzip"), ("x-atoll-mirror", "next"))
    ]


def test_the_second_service_does_not_stand_in_the_clients_trace() -> None:
    sent = (("traceparent", f"00-{'1' * 32}-{'2' * 16}-01"), ("tracestate", "a=b"), ("x-request-id", "9"))
    copy = copied(Request("GET", "/a", sent), "/a", "next")

    assert [name for name, _ in copy.headers] == ["x-request-id", "accept-encoding", "traceparent", "x-atoll-mirror"]
    version, trace, span, flags = copy.header("traceparent").split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "00")
    assert trace != "1" * 32


LISTENER = Listener("127.0.0.1", 8080, comparer=Endpoint("127.0.0.1", 2300))


def _sampled(**mirrors: MirrorEntry) -> list[tuple[str, str]]:
    routes = [one for one in translate(_known(**mirrors), LISTENER).routes if isinstance(one, Route)]
    return sorted((",".join(one.methods), str(one.path)) for one in routes if one.sample)


@pytest.mark.parametrize(
    ("paths", "unsafe", "found"),
    [
        ((), (), [("GET,HEAD", "/orders/search"), ("GET,HEAD", "/orders/{id}")]),
        (("/orders/search",), (), [("GET,HEAD", "/orders/search"), ("GET,HEAD", "/orders/{id}")]),
        (("/orders/other/deep",), (), []),
        ((), ("PUT /orders/{other}",), [("GET,HEAD", "/orders/search"), ("GET,HEAD", "/orders/{id}"), ("PUT", "/orders/{id}")]),
    ],
)
def test_what_is_mirrored_is_what_may_match(
    paths: tuple[str, ...], unsafe: tuple[str, ...], found: list[tuple[str, str]]
) -> None:
    assert _sampled(next=MirrorEntry("orders", "orders_next", paths, 1.0, unsafe)) == found


def test_of_a_path_that_may_be_upgraded_the_requests_are_mirrored_and_the_websockets_are_not() -> None:
    rooms = contract("rooms", {"/rooms/{id}": {"get": {**PUBLIC, "x-atoll-upgrade": "websocket"}}})
    replicas = (replica(NEXT, "orders_next-1", "127.0.0.1:2101"),)
    what = known(rooms, NEXT, replicas=replicas, mirrors={"next": MirrorEntry("rooms", "orders_next", share=1.0)})
    routes = [one for one in translate(what, LISTENER).routes if isinstance(one, Route) and one.service == "rooms"]

    assert [(one.header, one.methods, bool(one.sample)) for one in routes] == [
        ("upgrade", ("GET",), False),
        (None, ("GET", "HEAD"), True),
    ]


def test_a_mirror_that_can_do_nothing_says_why() -> None:
    alone = MirrorEntry("orders", "orders_next", ("/orders/other/deep",), 1.0)
    missing = MirrorEntry("orders", "nobody", share=1.0)

    assert translate(_known(alone=alone), LISTENER).faults == (
        "the mirror alone has nothing to do: no operation of orders is in its paths",
    )
    assert translate(_known(missing=missing), LISTENER).faults == (
        "the mirror missing is left out: there is no service nobody",
    )
    (fault,) = translate(_known(next=MirrorEntry("orders", "orders_next")), Listener("127.0.0.1", 8080)).faults
    assert "no process compares answers here" in fault


# the report


def test_operations_beyond_the_most_share_one_line() -> None:
    report = Report("next", "orders", "orders_next", MOMENT.time)
    for number in range(MOST_OPERATIONS + 50):
        report.compared(f"GET /{number}", (), MOMENT)

    assert len(report.operations) == MOST_OPERATIONS + 1
    assert report.operations["(others)"].same == 50


def test_a_report_for_people_has_a_table_and_then_what_differs() -> None:
    report = Report("next", "orders", "orders_next", MOMENT.time)
    report.compared("GET /orders/{id}", compare(_json({"a": 1}), _json({"a": 2}), Rules()), MOMENT)
    report.failed("GET /orders/{id}", "no replica can be reached", 200, MOMENT)
    report.left_out("GET /orders/{id}", "streaming", MOMENT)
    report.dropped = 2

    assert text(report).splitlines() == [
        "next: orders answers, orders_next is compared, since 2026-11-27T15:00:00.000Z",
        "",
        "  OPERATION         COMPARED  SAME  DIFFERENT  FAILED  NOT COMPARABLE",
        "  GET /orders/{id}  1         0     1          1       1 streaming",
        "  2 samples came too fast and were left out",
        "",
        "  GET /orders/{id}",
        "    body /a, 1 times, last 2026-11-27T15:00:00.000Z in request id-1",
        "      orders       1",
        "      orders_next  2",
        "    failure, 1 times, last 2026-11-27T15:00:00.000Z in request id-1",
        "      orders       200",
        "      orders_next  no replica can be reached",
    ]
