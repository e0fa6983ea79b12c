"""What the gateway's module for Envoy computes, held against plain Python; and that the compiled files are of its source.

Every input lies at the edge of a page that may not be touched: a byte read too many ends the test run.
"""

from __future__ import annotations

import hashlib
import platform
import random
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from atoll.engines import envoy, envoy_module
from atoll.errors import EngineOutage
from atoll.gateway.xds import module
from atoll.service import context
from tests.support.envoy_module import Buckets, Core, Http1, compiled, make

FOLDER = Path(envoy_module.__file__).parent
# Where it is said what it is for, and how: in the header of ELF and of Mach-O.
PLATFORMS = {"x86_64-linux": (18, b"\x3e\0"), "aarch64-linux": (18, b"\xb7\0"), "aarch64-macos": (4, b"\x0c\0\0\x01")}
ROUNDS = 4000
PIPELINED = 16_384
NONSENSE, CLOSE = b"\0\r\0\r\n\r\n", b"connection: close\r\n"


@pytest.fixture(scope="module")
def core() -> Iterator[Core]:
    with compiled() as found:
        yield found


# ---- the files


def test_every_compiled_file_and_every_source_is_that_of_the_last_make_native() -> None:
    lines = [line.split() for line in (FOLDER / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}

    compiled_ones = {f"{one}/libatoll.so" for one in PLATFORMS}
    assert set(sums) == compiled_ones | {path.name for path in FOLDER.glob("*.[ch]")}
    for name, digest in sums.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, f"{name} was changed: make native"


def test_the_source_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    for source in FOLDER.glob("*.[ch]"):
        shutil.copy(source, tmp_path)

    make("native", f"NATIVE={tmp_path}")

    for one, (at, machine) in PLATFORMS.items():
        made = (tmp_path / one / "libatoll.so").read_bytes()
        assert made == (FOLDER / one / "libatoll.so").read_bytes()
        assert made[at:].startswith(machine)
        foreign = made.replace(b"/usr/lib/dyld", b"").replace(b"/usr/lib/libSystem.B.dylib", b"")  # macOS's own, on every Mac
        assert not re.search(rb"/(home|root|tmp|usr|work)/", foreign), "a path of the machine that compiled it"


def test_another_platform_is_told_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    with pytest.raises(EngineOutage, match="for Linux on x86_64 and aarch64 and macOS on arm64; this is Darwin on x86_64"):
        envoy_module.environment()


def test_an_installation_without_it_is_told_which_file_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_module, "_FOLDERS", {(platform.system(), platform.machine()): "lost"})

    with pytest.raises(EngineOutage, match=r"is not there: .*/lost/libatoll\.so"):
        envoy_module.folder()


def test_envoys_configuration_calls_it_by_its_name() -> None:
    assert module.NAME == envoy_module.NAME


def test_an_envoy_that_the_module_is_not_made_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would load it, warn, and call it with whatever its own interface says."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.41.0")

    with pytest.raises(EngineOutage, match=r"the Envoy that is installed is 1\.41\.0") as refused:
        envoy.find()

    assert "brings Envoy 1.40" in refused.value.hint


# ---- credentials


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        (b"Bearer abc", True),
        (b"bEARER   a.b-c_d~e+f/g==", True),
        (b"Bearer", False),
        (b"Bearer ", False),
        (b"Bearer a b", False),
        (b"Bearer =", False),
        (b"Bearer a=b", False),
        (b"Bearer\ta", False),
        (b"Basic abc", False),
        (b"Bearer a,Bearer b", False),
        (b"Bearer \xe9", False),
        (b"", False),
    ],
)
def test_a_bearer_token_is_what_rfc_6750_says(core: Core, value: bytes, is_one: bool) -> None:
    assert core.is_bearer(value) is is_one


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"", 0),
        (b"chat.v1", 0),
        (b"Bearer.abc", 0),
        (b"bearer.abc", 1),
        (b"chat.v1, bearer.abc", 1),
        (b"chat.v1,\tbearer.abc, more", 1),
        (b"xbearer.abc", 2),
        (b"bearer.bearer.abc", 2),
        (b"bearer.abc, bearer.def", 2),
    ],
)
def test_a_protocol_is_a_token_when_it_begins_so_and_there_is_one(core: Core, value: bytes, found: int) -> None:
    assert core.offered(value) == found


def test_fuzz_credentials_are_read_as_regular_expressions_read_them(core: Core) -> None:
    chance = random.Random(17)
    words = [b"bearer", b"Bearer", b"bearer.", b"beare", *(bytes([one]) for one in b" \t,=a@[b\0\xff"), b"Z9-._~+/"]
    for _ in range(ROUNDS):
        value = b"".join(chance.choices(words, k=chance.randrange(8)))
        assert core.is_bearer(value) is bool(re.fullmatch(rb"(?i:bearer) +[A-Za-z0-9._~+/-]+=*", value)), value
        doubtful = re.search(rb"(?s)bearer\..*bearer\.|[^ \t,]bearer\.", value)
        expected = 2 if doubtful else int(b"bearer." in value)
        assert core.offered(value, first=chance.random() < 0.5) == expected, value


# ---- rate limits


def test_the_limit_that_has_less_left_is_told_in_requests_and_seconds(core: Core) -> None:
    buckets = _buckets(core, b"1000000000 100000000 1000000000 10,999999999 16666666 16666666 60")

    assert core.tell(buckets, b"1000000000", b"900000000") == (10, 9, 1, 0)
    assert core.tell(buckets, b"999999999", b"0") == (60, 0, 61, 1)
    assert core.tell(buckets, b"5", b"0") is None, "no bucket of this route"


@pytest.mark.parametrize(
    "setting",
    [
        *(b"", b"1", b"1 2 3", b"1 2 3 4 ", b"1 2 3 4,", b",1 2 3 4", b"1 0 3 4", b"1 2 0 4", b"1 2 3 -4", b"1  2 3 4"),
        b"1 2 3 " + b"9" * 19,
        b",".join([b"1 2 3 4"] * 5),
    ],
)
def test_a_setting_that_is_not_one_is_refused(core: Core, setting: bytes) -> None:
    assert core.read_buckets(setting) is None


@pytest.mark.parametrize("said", [b"", b"-1", b"1.5", b"x", b"1,2", b"9" * 19, b" 1"])
def test_what_is_no_number_tells_nothing(core: Core, said: bytes) -> None:
    buckets = _buckets(core, b"1 1 1 1")

    assert core.tell(buckets, said, b"1") is None
    assert core.tell(buckets, b"1", said) is None


def test_fuzz_limits_are_what_python_computes(core: Core) -> None:
    chance = random.Random(18)
    for _ in range(ROUNDS):
        rows = [[chance.randrange(1, 10 ** chance.randrange(1, 18)) for _ in range(4)] for _ in range(chance.randrange(1, 5))]
        buckets = _buckets(core, ",".join(" ".join(map(str, row)) for row in rows).encode())
        asked = chance.choice(rows)[0]
        size, cost, a_second, limit = next(row for row in rows if row[0] == asked)
        left = chance.randrange(10 ** chance.randrange(1, 18))
        expected = (limit, left // cost, max(0, -((left - size) // a_second)), max(0, -((left - cost) // a_second)))
        assert core.tell(buckets, b"%d" % size, b"%d" % left) == expected
        number = chance.randrange(1 << chance.randrange(1, 65))
        assert core.number(number) == b"%d" % number


def _buckets(core: Core, setting: bytes) -> Buckets:
    found = core.read_buckets(setting)
    assert found is not None, setting
    return found


# ---- the trace of a log line

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_fuzz_the_trace_is_the_one_that_services_go_on_with(core: Core) -> None:
    chance = random.Random(19)
    seen = set()
    for _ in range(ROUNDS):
        value = _changed(chance, chance.choice([PARENT, PARENT + b"-more", b"cc" + PARENT[2:]]))
        expected = _trace_of_services(value)
        seen.add(bool(expected))
        assert core.trace_id(value) == expected, value
    assert seen == {True, False}


def test_an_id_has_no_dashes_and_an_end(core: Core) -> None:
    assert core.plain_id(b"6f1c1f8e-9d3c-4d58-8f5e-1f6f4b1f9d11") == b"6f1c1f8e9d3c4d588f5e1f6f4b1f9d11"
    assert core.plain_id(b"") == b""
    assert core.plain_id(b"-a" * 1000) == b"a" * 64


def _changed(chance: random.Random, value: bytes) -> bytes:
    match chance.randrange(5):
        case 0:
            return value[: chance.randrange(len(value) + 1)]
        case 1:
            at = chance.randrange(len(value))
            return value[:at] + chance.choice([b"-", b"g", b"A", b"0", b"\0", b"\xff"]) + value[at + 1 :]
        case 2:
            begin, size = chance.choice([(0, 2), (3, 32), (36, 16), (53, 2)])
            return value[:begin] + chance.choice([b"0", b"f"]) * size + value[begin + size :]
        case 3:
            return value + bytes(chance.choices(b"-0f", k=chance.randrange(4)))
    return value


def _trace_of_services(value: bytes) -> bytes:
    found = context._TRACEPARENT.match(value.decode("latin-1"))
    return found[1].encode() if found else b""


# ---- HTTP/1.1


def test_what_passes_is_not_touched_and_what_is_refused_ends_in_nonsense(core: Core) -> None:
    assert _sent(core, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n") is None
    assert _sent(core, b"GET / HTTP/1.1\nhost: a\r\n\r\n") == NONSENSE
    whole = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"
    assert _sent(core, whole + b"GET / HTTP/1.1\r\n folded\r\n\r\n") == whole + NONSENSE


def test_a_part_of_a_request_behind_a_whole_one_is_cut_off_and_the_client_told(core: Core) -> None:
    assert _sent(core, b"GET / HTTP/1.1\r\n\r\nGET") == b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n" + NONSENSE


def test_where_all_of_a_head_but_its_lf_was_passed_on_nothing_is_left_to_tell_the_client_in(core: Core) -> None:
    early, later = Http1(), Http1()
    assert core.read(early, [b"GET / HTTP/1.1\r\n\r"]) is None
    assert core.read(early, [b"\nGET"]) == b"\n" + NONSENSE
    assert core.read(later, [b"GET / HTTP/1.1\r\n"]) is None
    assert core.read(later, [b"\r\nGET"]) == CLOSE + b"\r\n" + NONSENSE


def test_after_nonsense_everything_is_nonsense(core: Core) -> None:
    connection = Http1()
    assert core.look(connection, 1) == 1
    assert core.read(connection, [b"\n"]) == NONSENSE
    assert core.look(connection, 5) == 2


def test_bodies_http_2_and_upgrades_pass_unread(core: Core) -> None:
    body = Http1()
    assert core.read(body, [b"POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\n\n"]) is None
    assert (core.look(body, 98), core.look(body, 1)) == (0, 1), "the last byte of a body ends it"
    http2 = Http1()
    assert core.read(http2, [b"PRI * HTTP/2.0\r\n\r\n\n\n"]) is None
    assert core.look(http2, 5) == 0
    socket = Http1()
    assert core.read(socket, [b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"]) is None
    assert core.read(socket, [b"\x81\x85\n\n\n"]) is None
    assert core.look(socket, 5) == 0


def test_fuzz_requests_are_read_as_a_plain_reader_reads_them_in_whatever_pieces_they_lie(core: Core) -> None:
    chance = random.Random(20)
    verdicts = set()
    for _ in range(ROUNDS):
        sent = _spoilt(chance, b"".join(_request(chance) for _ in range(chance.randrange(1, 4))))
        expected = _expected(sent)
        verdicts.add("passes" if expected is None else "closes" if CLOSE in expected else "ends")
        assert _sent(core, *_pieces(chance, sent)) == expected, sent
    assert verdicts == {"passes", "closes", "ends"}


def test_fuzz_one_request_is_refused_or_not_however_it_arrives(core: Core) -> None:
    chance = random.Random(21)
    for _ in range(ROUNDS):
        sent = _spoilt(chance, _request(chance))
        connection, read = Http1(), []
        for piece in _pieces(chance, sent):
            if core.look(connection, len(piece)) == 1:
                read.append(core.read(connection, [piece]))
        refused = _reads(sent)[0] == "refused"
        if _reads(sent)[0] != "whole" or _reads(sent)[1] == len(sent):
            assert any(one is not None for one in read) is refused, sent


def test_fuzz_any_bytes_at_all_end_in_an_answer(core: Core) -> None:
    chance = random.Random(22)
    for _ in range(ROUNDS):
        connection = Http1()
        for _ in range(3):
            noise = bytes(chance.choices(b"\r\n\0 :;0aAfPG\xff", k=chance.randrange(1, 60)))
            if core.look(connection, len(noise)) == 1:
                given = core.read(connection, [noise])
                assert given is None or given.endswith(NONSENSE)


def test_what_is_pipelined_beyond_the_bound_is_cut_off(core: Core) -> None:
    one = b"GET /%04d HTTP/1.1\r\n\r\n" % 1
    given = _sent(core, one * 2000)

    assert given == _expected(one * 2000)
    assert given is not None
    assert given.count(b"GET") == 1 + PIPELINED // len(one)


def _sent(core: Core, *pieces: bytes) -> bytes | None:
    """On a new connection, all at once."""
    return core.read(Http1(), pieces)


def _pieces(chance: random.Random, sent: bytes) -> list[bytes]:
    cuts = sorted({0, len(sent), *(chance.randrange(len(sent) + 1) for _ in range(chance.randrange(4)))})
    return [sent[begin:end] for begin, end in pairwise(cuts)] or [sent]


def _request(chance: random.Random) -> bytes:
    some = [b"Host: a", b"x-y: \xff\0", b"no colon", b"Transfer-Encodings: x", b"X: ;"]
    headers = chance.choices(some, k=chance.randrange(3))
    body = bytes(chance.choices(b"ab\r\n", k=chance.randrange(20)))
    match chance.randrange(3):
        case 0:
            headers.append(b"CONTENT-length:  %d" % len(body))
        case 1:
            headers.append(b"Transfer-Encoding: chunked")
            trailers = chance.choice([b"", b"a: b\r\n", b"content-length: 7\r\n"])
            chunk = b"%X%b\r\n%b\r\n" % (len(body), chance.choice([b"", b";x=y", b" "]), body) if body else b""
            body = chunk * chance.randrange(3) + b"0\r\n" + trailers + b"\r\n"
        case _:
            body = b""
    chance.shuffle(headers)
    return chance.choice([b"", b"", b"\r\n"]) + b"\r\n".join([b"POST /x HTTP/1.1", *headers, b"", b""]) + body


def _spoilt(chance: random.Random, sent: bytes) -> bytes:
    at = chance.randrange(len(sent))
    match chance.randrange(4):
        case 0:
            return sent[: at or 1]
        case 1:
            return sent[:at] + chance.choice([b"\r", b"\n", b" ", b"\t", b"\r\n", b"\0"]) + sent[at:]
        case 2:
            return sent[:at] + sent[at + 1 :] or b"x"
    return sent


Read = tuple[str, int, int]
"""`whole`, `part` or `refused`, where a whole one ends, and where its head does."""


class _Refused(Exception):
    pass


class _Part(Exception):
    pass


def _expected(sent: bytes) -> bytes | None:
    """What a plain reader makes of the first bytes of a connection."""
    begin, head_end, until = 0, 0, len(sent)
    while begin < until:
        verdict, end, head = _reads(sent[:until], begin)
        if verdict == "refused":
            return sent[:begin] + NONSENSE
        if verdict == "part":
            break
        if begin == 0 and until - end > PIPELINED:
            until = end + PIPELINED
        begin, head_end = end, head
    empty_lines = until == len(sent) and re.fullmatch(rb"(?:\r\n)*", sent[begin:])
    if begin == 0 or empty_lines:
        return None
    return sent[: head_end - 2] + CLOSE + sent[head_end - 2 : begin] + NONSENSE


def _reads(sent: bytes, begin: int = 0) -> Read:
    try:
        return "whole", *_whole(sent, begin)
    except _Refused:
        return "refused", 0, 0
    except _Part:
        return "part", 0, 0


def _whole(sent: bytes, at: int) -> tuple[int, int]:
    line = b""
    while not line:
        line, at = _line(sent, at)
    headers, at = _headers(sent, at)
    head_end = at
    length = int(b"".join(re.sub(rb"\D", b"", value) for name, value in headers if name == b"content-length") or b"0")
    if any(name == b"transfer-encoding" for name, _ in headers):
        return _chunks(sent, at), head_end
    if at + length > len(sent):
        raise _Part
    return at + length, head_end


def _headers(sent: bytes, at: int) -> tuple[list[tuple[bytes, bytes]], int]:
    found: list[tuple[bytes, bytes]] = []
    while True:
        if sent[at : at + 1] in (b" ", b"\t"):
            raise _Refused
        line, at = _line(sent, at)
        if not line:
            return found, at
        name, colon, value = line.partition(b":")
        if colon:
            found.append((name.lower(), value))


def _chunks(sent: bytes, at: int) -> int:
    while True:
        line, at = _line(sent, at)
        digits = re.match(rb"[0-9a-fA-F]*", line)
        size = int((digits and digits[0]) or b"0", 16)
        if not size:
            return _headers(sent, at)[1]
        at += size
        end = sent[at : at + 2]
        if not b"\r\n".startswith(end):
            raise _Refused
        if len(end) < 2:
            raise _Part
        at += 2


def _line(sent: bytes, at: int) -> tuple[bytes, int]:
    found = re.compile(rb"[\r\n]").search(sent, at)
    if not found:
        raise _Part
    if sent[found.start() :][:2] == b"\r\n":
        return sent[at : found.start()], found.start() + 2
    if sent[found.start() :] == b"\r":
        raise _Part
    raise _Refused
