"""Bytes that no honest client sends, at the real Envoy: what each is answered, and what reaches a service.

Behind every request a second one follows at once on the same connection. Each case is sent to an operation for everybody
and to one that needs a token, without a token. Whatever happens, these hold: what needs a token reaches its service with
one only, a request arrives once or never, and what arrives can be read in one way only.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from tests.support.gateway import Rig, contract, gateway, known, replica
from tests.support.raw import Answer, Recorder, Seen, answers, exchange, recorder
from tests.support.tokens import Mint
from tests.support.waiting import until_sync

MINT = Mint()
BOTH = {"get", "post"}
ORDERS = contract(
    "orders",
    {
        "/orders/open": {method: {"security": []} for method in BOTH},
        "/orders/own": {method: {"security": [{"token": []}]} for method in BOTH},
        "/orders/items/{id}": {"get": {"security": []}},
    },
)
MB = 1_048_576
OPEN, OWN = b"/orders/open", b"/orders/own"


@dataclass(frozen=True)
class Case:
    """`sent` has @PATH@ and @CASE@ in it. `status` is the answer of an operation for everybody; the second request is
    `answered` too, or the connection has ended before it. `arrives` is how often it reaches a service.
    """

    name: str
    sent: bytes
    status: int
    answered: bool = False

    @property
    def arrives(self) -> int:
        return 1 if self.status == 200 else 0


def get(*lines: bytes, line: bytes = b"GET @PATH@ HTTP/1.1\r\n", host: bytes = b"Host: shop\r\n", body: bytes = b"") -> bytes:
    return line + host + b"x-case: @CASE@\r\n" + b"".join(lines) + b"\r\n" + body


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return get(*lines, line=b"POST @PATH@ HTTP/1.1\r\n", body=body)


def chunked(body: bytes, *lines: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", *lines, body=body)


def refused(name: str, sent: bytes, status: int = 400) -> Case:
    return Case(name, sent, status)


def taken(name: str, sent: bytes) -> Case:
    return Case(name, sent, 200, answered=True)


FRAMING = [
    taken("plain", get()),
    taken("a body by length", post(b"Content-Length: 3\r\n", body=b"abc")),
    taken("a body in chunks", chunked(b"3\r\nabc\r\n0\r\n\r\n")),
    taken("a body in chunks with an extension and a trailer", chunked(b"3;a=b\r\nabc\r\n0\r\nX-Trailer: t\r\n\r\n")),
    taken("GET with a body", get(b"Content-Length: 3\r\n", body=b"abc")),
    taken("white space around a length", post(b"Content-Length: \t 3 \r\n", body=b"abc")),
    refused("length and chunks", chunked(b"0\r\n\r\n", b"Content-Length: 5\r\n")),
    refused("chunks and length", post(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", body=b"0\r\n\r\n")),
    refused("two equal lengths", post(b"Content-Length: 3\r\n", b"Content-Length: 3\r\n", body=b"abc")),
    refused("two different lengths", post(b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", body=b"abc")),
    refused("two lengths in one line", post(b"Content-Length: 3, 3\r\n", body=b"abc")),
    refused("a negative length", post(b"Content-Length: -1\r\n")),
    refused("a length with a sign", post(b"Content-Length: +3\r\n", body=b"abc")),
    refused("a length in hex", post(b"Content-Length: 0x3\r\n", body=b"abc")),
    refused("a length that is a word", post(b"Content-Length: three\r\n")),
    refused("an empty length", post(b"Content-Length:\r\n")),
    refused("a length beyond 64 bits", post(b"Content-Length: 18446744073709551617\r\n", body=b"a")),
    refused("a space before the colon of a length", post(b"Content-Length : 3\r\n", body=b"abc")),
    refused("an unknown coding", post(b"Transfer-Encoding: xchunked\r\n", body=b"0\r\n\r\n"), 501),
    refused("two codings", post(b"Transfer-Encoding: gzip, chunked\r\n", body=b"0\r\n\r\n"), 501),
    refused("chunked, identity", post(b"Transfer-Encoding: chunked, identity\r\n", body=b"0\r\n\r\n"), 501),
    refused("chunked twice", chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"), 501),
    refused("a coding after a vertical tab", post(b"Transfer-Encoding: \x0bchunked\r\n", body=b"0\r\n\r\n")),
    refused("a coding on a folded line", post(b"Transfer-Encoding:\r\n\tchunked\r\n", body=b"0\r\n\r\n")),
    refused("a chunk's size with a sign", chunked(b"+3\r\nabc\r\n0\r\n\r\n")),
    refused("a chunk's size with 0x", chunked(b"0x3\r\nabc\r\n0\r\n\r\n")),
    refused("a chunk's size beyond 64 bits", chunked(b"ffffffffffffffff3\r\nabc\r\n0\r\n\r\n")),
    refused("a chunk without a size", chunked(b"\r\nabc\r\n0\r\n\r\n")),
    refused("a chunk that is longer than its size", chunked(b"3\r\nabcd\r\n0\r\n\r\n")),
]
LINES = [
    taken("an empty line before a request", b"\r\n" + get()),
    refused("bare LF everywhere", get().replace(b"\r\n", b"\n")),
    refused("bare LF after the request line", get().replace(b"\r\n", b"\n", 1)),
    refused("bare LF after a header", get(b"a: b\nc: d\r\n")),
    refused("bare LF at the end of a head", get()[:-2] + b"\n"),
    refused("bare LF before a request", b"\n" + get()),
    refused("bare LF that would hide a header", get(b"a: b\nContent-Length: 30\r\n")),
    refused("bare LF after a chunk's size", chunked(b"3\nabc\r\n0\r\n\r\n")),
    refused("bare LF after a chunk", chunked(b"3\r\nabc\n0\r\n\r\n")),
    refused("bare LF in a chunk's extension", chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n")),
    refused("bare LF after the last chunk", chunked(b"3\r\nabc\r\n0\n\n")),
    refused("bare LF after a trailer", chunked(b"3\r\nabc\r\n0\r\na: b\n\r\n")),
    refused("bare CR in a header", get(b"a: b\rc: d\r\n")),
    refused("bare CR after the request line", get().replace(b"\r\n", b"\r", 1)),
    refused("a folded header", get(b"a: b\r\n c\r\n")),
    refused("a header folded with a tab", get(b"a: b\r\n\tc\r\n")),
    refused("a folded Host", get(host=b"Host: shop\r\n .evil\r\n")),
    refused("a folded line before any header", get(host=b" a: b\r\nHost: shop\r\n")),
    refused("a fold that is empty", get(b"a: b\r\n \r\n")),
    refused("a folded trailer", chunked(b"3\r\nabc\r\n0\r\na: b\r\n c\r\n\r\n")),
    refused("NUL in a header", get(b"a: b\0c\r\n")),
    refused("NUL in a header's name", get(b"a\0: b\r\n")),
    refused("a header without a colon", get(b"nonsense\r\n")),
    refused("a header without a name", get(b": b\r\n")),
    refused("a space before a colon", get(b"a : b\r\n")),
    refused("a header's name with an underscore", get(b"x_atoll_subject: root\r\n")),
]
HOSTS = [
    refused("no Host", get(host=b"")),
    refused("an empty Host", get(host=b"Host:\r\n")),
    refused("two Hosts", get(host=b"Host: shop\r\nHost: evil\r\n")),
    refused("two equal Hosts", get(host=b"Host: shop\r\nHost: shop\r\n")),
    refused("two Hosts in one line", get(host=b"Host: shop,evil\r\n")),
    refused("a Host with a user", get(host=b"Host: user@shop\r\n")),
    refused("a Host with a path", get(host=b"Host: shop/evil\r\n")),
    refused("a Host with a space", get(host=b"Host: shop evil\r\n")),
    refused("a Host with a port that is none", get(host=b"Host: shop:http\r\n")),
    taken("a Host with a port", get(host=b"Host: shop:8080\r\n")),
    taken("an IPv6 Host", get(host=b"Host: [::1]:8080\r\n")),
    taken("an absolute target", get(line=b"GET http://shop@PATH@ HTTP/1.1\r\n")),
    refused("an absolute target beside two Hosts", get(line=b"GET http://shop,evil@PATH@ HTTP/1.1\r\n")),
]
REQUEST_LINES = [
    refused("HTTP/0.9", b"GET @PATH@\r\n\r\n", 426),
    refused("HTTP/1.0", get(line=b"GET @PATH@ HTTP/1.0\r\n"), 426),
    refused("HTTP/1.2", get(line=b"GET @PATH@ HTTP/1.2\r\n"), 426),
    refused("HTTP/2.0 in a request line", get(line=b"GET @PATH@ HTTP/2.0\r\n"), 426),
    refused("no version that exists", get(line=b"GET @PATH@ HTTP/x\r\n")),
    refused("a space in a path", get(line=b"GET @PATH@/a b HTTP/1.1\r\n")),
    refused("NUL in a path", get(line=b"GET @PATH@\0 HTTP/1.1\r\n")),
    refused("an escaped NUL in a path", get(line=b"GET @PATH@%00 HTTP/1.1\r\n")),
    refused("a byte beyond ASCII in a path", get(line=b"GET @PATH@\xc3\xb6 HTTP/1.1\r\n")),
    refused("a fragment", get(line=b"GET @PATH@#a HTTP/1.1\r\n")),
    refused("an escaped slash", get(line=b"GET /orders%2fopen HTTP/1.1\r\n")),
    refused("an escaped backslash", get(line=b"GET /orders%5copen HTTP/1.1\r\n")),
    refused("a path without a slash", get(line=b"GET orders/open HTTP/1.1\r\n")),
    refused("a method in lower case", get(line=b"get @PATH@ HTTP/1.1\r\n")),
    refused("a method that nobody knows", get(line=b"FETCH @PATH@ HTTP/1.1\r\n")),
    Case("CONNECT", get(line=b"CONNECT shop:80 HTTP/1.1\r\n"), 404),
    Case("OPTIONS *", get(line=b"OPTIONS * HTTP/1.1\r\n"), 404, answered=True),
    Case("TRACE", get(line=b"TRACE @PATH@ HTTP/1.1\r\n"), 405, answered=True),
]
OVERSIZE = [
    refused("a request line of 100 KB", get(line=b"GET @PATH@?" + b"a" * 100_000 + b" HTTP/1.1\r\n"), 431),
    refused("a header of 100 KB", get(b"a: " + b"b" * 100_000 + b"\r\n"), 431),
    refused("a header's name of 100 KB", get(b"a" * 100_000 + b": b\r\n"), 431),
    refused("a thousand headers", get(*(b"a%d: b\r\n" % number for number in range(1000))), 431),
    refused("a thousand cookies", get(*(b"Cookie: a%d=b\r\n" % number for number in range(1000))), 431),
    refused("a body of 3 MB by length", post(b"Content-Length: %d\r\n" % (3 * MB), body=b"a" * 3 * MB), 413),
    refused("a body of 3 MB in chunks", chunked(b"".join([b"10000\r\n" + b"a" * 65_536 + b"\r\n"] * 48) + b"0\r\n\r\n"), 413),
    refused("a length of 1 TB, and nothing of it", post(b"Content-Length: 1000000000000\r\n"), 413),
    refused("trailers of 100 KB", chunked(b"0\r\na: " + b"b" * 100_000 + b"\r\n\r\n"), 431),
]
CASES = [*FRAMING, *LINES, *HOSTS, *REQUEST_LINES, *OVERSIZE]


@dataclass
class Run:
    """What came of all cases. `told` by name of the case and path, `seen` is all that reached the service."""

    rig: Rig
    service: Recorder
    told: dict[tuple[str, bytes], list[Answer]] = field(default_factory=dict)

    def send(self, case: Case, path: bytes) -> None:
        sent = case.sent + get(b"Connection: close\r\n", line=b"GET /orders/items/second HTTP/1.1\r\n")
        tag = tagged(case, path)
        self.told[case.name, path] = exchange(self.rig.listener.port, sent.replace(b"@PATH@", path).replace(b"@CASE@", tag))

    def seen(self, case: Case, path: bytes) -> tuple[list[Seen], list[Seen]]:
        """Whole requests that arrived: the case's own and the one behind it."""
        own = [one for one in self.service.seen if one.whole and one.values("x-case") == [tagged(case, path).decode()]]
        second = [one for one in own if one.target == "/orders/items/second"]
        return [one for one in own if one not in second], second


PATHS = {
    "/orders/open/../own": 401,
    "/orders/open/%2e%2e/own": 401,
    "/orders/open/%2E./own": 401,
    "/orders/open/..;/own": 401,
    "/orders/open/./../own": 401,
    "/orders/open/../../orders/own": 401,
    "/x/../orders/own": 401,
    "/orders/./own": 401,
    "/orders/items/../own": 401,
    "//orders/own": 401,
    "/orders//own": 401,
    "/orders\\own": 401,
    "/orders/open\\..\\own": 401,
    "/orders/%6fwn": 401,
    "/orders/own?a=/../open": 401,
    "/orders/own?": 401,
    "http://shop/orders/open/../own": 401,
    "/../orders/own": 401,
    "/orders/open/..%2fown": 400,
    "/orders/open%2f..%2fown": 400,
    "/orders/items/%2e%2e%2fown": 400,
    "/orders/items/..%5cown": 400,
    "/orders/own%00": 400,
    "/orders/open#/../own": 400,
    "/orders/items/%252e%252e/own": 404,
    "/orders/own/": 404,
    "/orders/own;a=b": 404,
    "/orders/own%20": 404,
    "/ORDERS/own": 404,
    "/orders/items/..%c0%afown": 200,
    "/orders/items/%252e%252e%252fown": 200,
    "/orders/items/%zz": 200,
}


@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_a_path_gets_past_a_token_check(run: Run, path: str) -> None:
    """What is 200 here is the operation for everybody, and its service sees what the client wrote."""
    before = len(run.service.seen)
    (answer,) = exchange(run.rig.listener.port, get(line=b"GET %s HTTP/1.1\r\n" % path.encode()), enough=1)

    arrived = [one.target for one in run.service.seen[before:]]
    if PATHS[path] == 200:
        assert (answer.status, arrived) == (200, [path])
    else:
        check_problem(answer, PATHS[path])
        assert arrived == []


@pytest.mark.parametrize(
    "lines",
    [
        [b"x-atoll-subject: root\r\n"],
        [b"X-ATOLL-Subject: root\r\n", b"x-atoll-scope: orders:write\r\n"],
        [b"Connection: x-atoll-subject\r\n", b"x-atoll-subject: root\r\n"],
        [b"Forwarded: for=10.0.0.1\r\n", b"X-Forwarded-Host: evil\r\n", b"X-Real-IP: 10.0.0.1\r\n"],
        [b"X-Forwarded-For: 6.6.6.6\r\n", b"x-forwarded-for: 7.7.7.7, 127.0.0.1\r\n", b"X-Forwarded-Proto: https\r\n"],
        [b"x-envoy-original-path: /orders/own\r\n", b"x-envoy-upstream-rq-timeout-ms: 1\r\n"],
        [b"Proxy-Connection: keep-alive\r\n", b"Keep-Alive: timeout=9\r\n", b"TE: gzip\r\n", b"Upgrade: h2c\r\n"],
    ],
    ids=lambda lines: lines[0].split(b":")[0].decode(),
)
def test_what_only_the_gateway_may_say_does_not_arrive(run: Run, lines: list[bytes]) -> None:
    (answer,) = exchange(run.rig.listener.port, get(*lines, line=b"GET /orders/open HTTP/1.1\r\n"), enough=1)

    names = {line.split(b":")[0].decode() for line in run.service.seen[-1].head.split(b"\r\n")[1:] if line}
    assert answer.status == 200
    assert names == {"host", "x-case", "x-forwarded-for", "x-forwarded-proto", "x-request-id"}
    (address,) = run.service.seen[-1].values("x-forwarded-for")
    assert ip_address(address) not in {ip_address("6.6.6.6"), ip_address("7.7.7.7")}


def test_what_a_trailer_says_does_not_arrive(run: Run) -> None:
    sent = chunked(b"3\r\nabc\r\n0\r\nx-atoll-subject: root\r\nAuthorization: Bearer x\r\n\r\n")
    (answer,) = exchange(run.rig.listener.port, sent.replace(b"@PATH@", OPEN), enough=1)

    assert (answer.status, run.service.seen[-1].body) == (200, b"abc")
    assert run.service.seen[-1].values("x-atoll-subject") == []


PAIR = chunked(b"3;x=y\r\nabc\r\n0\r\nt: u\r\n\r\n").replace(b"@PATH@", OPEN) + get(
    b"Connection: close\r\n", line=b"GET /orders/items/second HTTP/1.1\r\n"
)


def test_good_requests_are_understood_wherever_their_bytes_are_cut_in_two(run: Run) -> None:
    """The one behind may have to be asked again, on another connection; it is never refused."""
    found = {at: cut(run.rig, PAIR, at) for at in range(1, len(PAIR))}

    assert {at: statuses for at, statuses in found.items() if statuses not in ([200, 200], [200])} == {}
    first = PAIR.index(b"GET")
    assert {at for at, statuses in found.items() if statuses == [200, 200]} >= set(range(1, first + 1))


def test_a_head_whose_last_lf_comes_with_a_part_of_the_next_request_is_answered(run: Run) -> None:
    """Nothing is left of it to say `close` in, so what is behind it is refused."""
    first = get(line=b"GET /orders/open HTTP/1.1\r\n")

    with in_pieces(run.rig, first[:-1], first[-1:] + b"GET /ord") as connection:
        assert [answer.status for answer in answers(connection)] == [200, 400]


@pytest.mark.parametrize("fault", [b"\nc: d", b"\rc: d", b"\r\n c: d", b"\r\n\tc: d"], ids=["LF", "CR", "space", "tab"])
def test_a_fault_is_found_wherever_the_bytes_are_cut_in_two(run: Run, fault: bytes) -> None:
    sent = get(b"a: b" + fault + b"\r\n", line=b"GET /orders/open HTTP/1.1\r\n")
    before = len(run.service.seen)

    found = {at: cut(run.rig, sent, at) for at in range(1, len(sent))}

    assert found == {at: [400] for at in found}
    assert run.service.seen[before:] == []


FIRST = get(line=b"GET /orders/open HTTP/1.1\r\n")
SECOND = get(line=b"GET /orders/items/second HTTP/1.1\r\n")
FAULTY = [case for case in LINES if case.status == 400]


def test_a_fault_behind_a_good_request_is_found_too(run: Run) -> None:
    """The good one is answered, the faulty one is refused, and what follows it is not read."""
    before = len(run.service.seen)

    def told(case: Case) -> list[int]:
        sent = FIRST + case.sent.replace(b"@PATH@", b"/orders/items/faulty") + SECOND
        return [answer.status for answer in exchange(run.rig.listener.port, sent)]

    with ThreadPoolExecutor(len(FAULTY)) as pool:
        found = dict(zip([case.name for case in FAULTY], pool.map(told, FAULTY), strict=True))

    assert found == {name: [200, 400] for name in found}
    assert [one.target for one in run.service.seen[before:]] == ["/orders/open"] * len(FAULTY)


@pytest.mark.parametrize("fault", [b"\nc: d", b"\r\n c: d"], ids=["LF", "space"])
def test_a_fault_behind_a_good_request_is_found_wherever_the_bytes_are_cut_in_two(run: Run, fault: bytes) -> None:
    """Cut within the second request, that may not be read at all: then the first answer says that the connection ends."""
    sent = FIRST + get(b"a: b" + fault + b"\r\n", line=b"GET /orders/items/faulty HTTP/1.1\r\n")
    before = len(run.service.seen)

    found = {at: cut(run.rig, sent, at) for at in range(1, len(sent))}

    assert {at: statuses for at, statuses in found.items() if statuses not in ([200, 400], [200])} == {}
    assert {found[at] == [200, 400] for at in found if at <= len(FIRST)} == {True}
    assert {one.target for one in run.service.seen[before:]} == {"/orders/open"}


def test_behind_a_refusal_nothing_is_read_whenever_it_comes(run: Run) -> None:
    """What is sent after the 400 was read, too, on a connection that is still open to this side."""
    before = len(run.service.seen)
    for sent in (FAULTY[0].sent.replace(b"@PATH@", OPEN), FIRST + b"GET / HTTP/1.1\n", FIRST + SECOND[:20]):
        with socket.create_connection(("127.0.0.1", run.rig.listener.port), timeout=20) as connection:
            connection.sendall(sent)
            first = [answer.status for answer in answers(connection, enough=sent.startswith(FIRST) + 1)]
            with suppress(ConnectionError):
                connection.sendall(SECOND[20:] + SECOND)
            assert list(answers(connection)) == [], (sent, first)

    assert [one.target for one in run.service.seen[before:]] == ["/orders/open"] * 2


WEBSOCKET = get(
    b"Connection: Upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    line=b"GET /orders/open HTTP/1.1\r\n",
)
HTTP2C = get(b"Connection: Upgrade\r\n", b"Upgrade: h2c\r\n", line=b"GET /orders/open HTTP/1.1\r\n")
BARE = b"GET /orders/items/bare HTTP/1.1\nHost: shop\n\n"


@pytest.mark.parametrize("frame", [b"\x81\x85mask_____", b"G\xc5T / HTTP/1.1\r\nHost: shop\r\n\r\n"], ids=["frame", "method"])
@pytest.mark.parametrize("upgrade", [WEBSOCKET, HTTP2C], ids=["websocket", "h2c"])
def test_what_looks_like_a_frame_behind_a_refused_upgrade_is_read_by_nobody(run: Run, upgrade: bytes, frame: bytes) -> None:
    """Neither sent with it nor after its answer, nor requests behind that."""
    before = [one.target for one in run.service.seen].count("/orders/items/bare")
    for pieces in ((upgrade + frame + BARE,), (upgrade, frame + BARE), (upgrade, frame[:1], frame[1:] + BARE)):
        with socket.create_connection(("127.0.0.1", run.rig.listener.port), timeout=20) as connection:
            for piece in pieces:
                with suppress(ConnectionError):
                    connection.sendall(piece)
                if piece == upgrade:
                    assert [answer.status for answer in answers(connection, enough=1)] in ([200], [403])
            assert {answer.status for answer in answers(connection)} <= {200, 400, 403}

    assert [one.target for one in run.service.seen].count("/orders/items/bare") == before


def test_what_follows_a_refused_upgrade_is_read_as_strictly_as_ever(run: Run) -> None:
    (first, *more) = exchange(run.rig.listener.port, HTTP2C + BARE)

    assert (first.status, [answer.status for answer in more]) == (200, [400])


CHUNKED = post(b"Transfer-Encoding: chunked\r\n").replace(b"@PATH@", OPEN)
BODY_FAULTS = {
    "a size": b"5\r\nhello\r\n3\nabc\r\n0\r\n\r\n",
    "the last size": b"5\r\nhello\r\n0\n\r\n",
    "CR in a size": b"5\r\nhello\r\n3\r3\r\nabc\r\n0\r\n\r\n",
    "an extension": b"5\r\nhello\r\n3;a=b\nabc\r\n0\r\n\r\n",
    "CR in an extension": b"5\r\nhello\r\n3;a\rb\r\nabc\r\n0\r\n\r\n",
    "the end of a chunk": b"5\r\nhello\n0\r\n\r\n",
    "CR at the end of a chunk": b"5\r\nhello\r0\r\n\r\n",
    "a byte behind a chunk": b"5\r\nhelloX\r\n0\r\n\r\n",
    "a trailer": b"5\r\nhello\r\n0\r\na: b\nc: d\r\n\r\n",
    "CR in a trailer": b"5\r\nhello\r\n0\r\na: b\rc: d\r\n\r\n",
    "a folded trailer": b"5\r\nhello\r\n0\r\na: b\r\n c\r\n\r\n",
    "the last line": b"5\r\nhello\r\n0\r\na: b\r\n\n",
}


@pytest.mark.parametrize("name", BODY_FAULTS)
def test_a_fault_in_a_body_ends_its_request_wherever_the_bytes_are_cut_in_two(run: Run, name: str) -> None:
    """Its service may have begun to read it, and never sees the end of it, nor a byte that the client did not send."""
    sent = CHUNKED + BODY_FAULTS[name]
    before = len(run.service.seen)

    found = {at: cut(run.rig, sent + SECOND, at) for at in range(len(CHUNKED), len(sent))}

    assert found == {at: [400] for at in found}
    arrived = run.service.seen[before:]
    assert [one for one in arrived if one.whole] == []
    assert {b"helloabc".startswith(one.body) for one in arrived} <= {True}


def test_behind_a_fault_in_a_body_nothing_is_read(run: Run) -> None:
    """Neither what came with it nor what comes later, which may look like the rest of a chunk."""
    before = len(run.service.seen)
    for body in BODY_FAULTS.values():
        pieces = [CHUNKED + body[:8], body[8:] + SECOND, b"llo\r\n0\r\n\r\n" + SECOND]
        with in_pieces(run.rig, *pieces) as connection:
            assert [answer.status for answer in answers(connection)] == [400], body

    assert [one for one in run.service.seen[before:] if one.whole] == []


def test_a_body_that_began_earlier_is_answered_before_a_fault_behind_it(run: Run) -> None:
    before = len(run.service.seen)
    pieces = [CHUNKED + b"5\r\nhel", b"lo\r\n0\r\n\r\n" + FAULTY[0].sent.replace(b"@PATH@", OPEN) + SECOND]

    with in_pieces(run.rig, *pieces) as connection:
        assert [answer.status for answer in answers(connection)] == [200, 400]
    assert [one.body for one in run.service.seen[before:]] == [b"hello"]


def test_http_2_is_known_wherever_its_bytes_are_cut_in_two(run: Run) -> None:
    """From the twelve bytes on that Envoy knows it by. A cut before them is answered by its HTTP/1.1."""
    names = {":method": "GET", ":scheme": "http", ":authority": "shop", ":path": "/orders/open", "x-case": "http2"}

    def told(at: int) -> bytes | None:
        client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        client.initiate_connection()
        client.send_headers(1, [*names.items()], end_stream=True)
        sent = client.data_to_send()
        with in_pieces(run.rig, sent[:at], sent[at:]) as connection:
            while received := connection.recv(65_536):
                for event in client.receive_data(received):
                    if isinstance(event, h2.events.ResponseReceived):
                        return dict(event.headers)[b":status"]
        return None

    assert {at: told(at) for at in range(12, 40)} == dict.fromkeys(range(12, 40), b"200")


def cut(rig: Rig, sent: bytes, at: int) -> list[int]:
    """The statuses of what is answered when the bytes come in two pieces, up to the one that says that it is the last."""
    found = []
    with in_pieces(rig, sent[:at], sent[at:]) as connection:
        for answer in answers(connection):
            found.append(answer.status)
            if answer.headers.get("connection") == "close":
                break
    return found


@contextmanager
def in_pieces(rig: Rig, *pieces: bytes) -> Iterator[socket.socket]:
    """A connection on which each piece is sent after Envoy has read those before it."""
    before, size = received(rig), 0
    with socket.create_connection(("127.0.0.1", rig.listener.port), timeout=20) as connection:
        for piece in pieces:
            until_sync(partial(_has_received, rig, before + size), what="Envoy to read")
            with suppress(ConnectionError):
                connection.sendall(piece)
            size += len(piece)
        yield connection


def _has_received(rig: Rig, size: int) -> bool:
    return received(rig) >= size


def received(rig: Rig) -> int:
    """How many bytes Envoy has read from clients so far."""
    name = "http.atoll.downstream_cx_rx_bytes_total"
    (answer,) = exchange(rig.admin.port, f"GET /stats?filter=^{name}$ HTTP/1.1\r\nHost: a\r\n\r\n".encode(), enough=1)
    return int(answer.body.split()[-1])


def test_a_flood_of_pipelined_requests_is_answered_in_order_and_none_twice(run: Run) -> None:
    """Where a request is cut by the end of what was read, or more is behind the first one than is looked at for it, the
    connection ends after the answers before that.
    """
    flood = b"".join(get(line=b"GET /orders/items/%d HTTP/1.1\r\n" % number) for number in range(2000))
    before = len(run.service.seen)
    found = exchange(run.rig.listener.port, flood.replace(b"@CASE@", b"flood"), enough=2000)

    assert {answer.status for answer in found} == {200}
    assert [answer.headers.get("connection") for answer in found] == [None] * (len(found) - 1) + ["close"]
    arrived = [one.target for one in run.service.seen[before:]]
    assert arrived == [f"/orders/items/{number}" for number in range(len(found))]


def test_heads_that_never_end_are_ended(run: Run) -> None:
    """By Envoy's own time limit for a head, whatever a client has sent of it."""
    whole = get(line=b"GET /orders/open HTTP/1.1\r\n")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda size: exchange(run.rig.listener.port, whole[:size]), (1, 20, 40, len(whole) - 2)))

    for (answer,) in found:
        check_problem(answer, 408)


def tagged(case: Case, path: bytes) -> bytes:
    return b"%d%s" % (CASES.index(case), path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All cases, many at a time: Envoy leaves a connection that it refused open for a second."""
    with asyncio.Runner() as runner, recorder() as service:
        stack = AsyncExitStack()
        rig = runner.run(_rig(tmp_path_factory.mktemp("hard"), service, stack))
        state = Run(rig, service)
        with ThreadPoolExecutor(48) as pool:
            for done in [pool.submit(state.send, case, path) for case in CASES for path in (OPEN, OWN)]:
                done.result()
        yield state
        runner.run(stack.aclose())


async def _rig(folder: Path, service: Recorder, stack: AsyncExitStack) -> Rig:
    what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", service.address),))
    return await stack.enter_async_context(gateway(folder, what, MINT))


def by_name(cases: list[Case]) -> Callable[..., Callable[..., None]]:
    return pytest.mark.parametrize("case", cases, ids=[case.name.replace(" ", "-") for case in cases])


def check_problem(answer: Answer, status: int) -> None:
    assert answer.status == status, answer
    assert answer.media_type == "application/problem+json"
    problem = json.loads(answer.body)
    assert problem["status"] == status
    assert problem["code"]


@by_name(CASES)
def test_each_is_answered_as_it_should_be(run: Run, case: Case) -> None:
    first, *rest = run.told[case.name, OPEN]

    if case.status == 200:
        assert first.status == 200, first
    else:
        check_problem(first, case.status)
    assert [answer.status for answer in rest] == ([200] if case.answered else [])


@by_name(CASES)
def test_none_gets_past_a_token_check(run: Run, case: Case) -> None:
    first, *rest = run.told[case.name, OWN]

    # The token is looked at before a body has come, so a fault in that may not be met at all.
    check_problem(first, first.status if first.status == case.status != 200 else 401)
    own, second = run.seen(case, OWN)
    assert own == []
    # Envoy may end the connection when it has answered before a body was there.
    assert [answer.status for answer in rest] in ([], [200])
    assert len(second) == len(rest)


@by_name(CASES)
def test_each_arrives_once_or_never_and_so_does_what_follows_it(run: Run, case: Case) -> None:
    own, second = run.seen(case, OPEN)

    assert len(own) == case.arrives
    assert len(second) == (1 if case.answered else 0)


def test_what_arrives_can_be_read_in_one_way_only(run: Run) -> None:
    assert run.service.seen
    for one in run.service.seen:
        lines = one.head.split(b"\r\n")
        assert not any(byte in line for line in lines for byte in (b"\r", b"\n", b"\0")), one
        assert not any(line.startswith((b" ", b"\t")) for line in lines[1:]), one
        assert len(one.values("host")) == 1, one
        assert len(one.values("content-length")) + len(one.values("transfer-encoding")) <= 1, one
        assert one.values("x-case") != [], one
        assert one.target.startswith(("/orders/open", "/orders/items/")), one
