"""What the gateway's module for Envoy computes, called from Python, without Envoy and where no byte too many can be read."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
_PROT_NONE = 0


class Piece(ctypes.Structure):
    """`Bytes` of core.h."""

    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Http1(ctypes.Structure):
    """Room for one connection, zeroed: what is in it is its own matter."""

    _fields_ = (("content", ctypes.c_uint64 * 16),)


class Change(ctypes.Structure):
    _fields_ = (("changed", ctypes.c_bool), ("closes", ctypes.c_bool), ("kept", ctypes.c_size_t), ("close", ctypes.c_size_t))


class Bucket(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("size", "cost", "a_second", "limit"))


class Buckets(ctypes.Structure):
    _fields_ = (("count", ctypes.c_size_t), ("buckets", Bucket * 4))


class Told(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("limit", "remaining", "reset_s", "wait_s"))


class Guarded:
    """Memory between two pages that nobody may touch: who reads past its content is ended by the operating system."""

    def __init__(self, pages: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._size = pages * mmap.PAGESIZE
        self._map = mmap.mmap(-1, self._size + 2 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._begin = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + mmap.PAGESIZE
        for guard in (self._begin - mmap.PAGESIZE, self._begin + self._size):
            if self._libc.mprotect(ctypes.c_void_p(guard), mmap.PAGESIZE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, content: bytes, *, first: bool = False) -> Piece:
        """Right before the page behind it, or, `first`, right behind the page before it."""
        at = self._begin if first else self._begin + self._size - len(content)
        ctypes.memmove(at, content, len(content))
        return Piece(at, len(content))


class Core:
    """The functions of core.h."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.http1_read.restype = Change
        self._library.http1_changed_size.restype = ctypes.c_size_t
        self._library.is_bearer.restype = self._library.read_buckets.restype = self._library.tell.restype = ctypes.c_bool
        self._library.trace_id.restype = Piece
        self._library.write_number.restype = self._library.write_plain_id.restype = ctypes.c_size_t
        self._library.write_number.argtypes = (ctypes.c_uint64, ctypes.c_char_p)
        self._one, self._other = Guarded(16), Guarded(1)

    def is_bearer(self, value: bytes) -> bool:
        return bool(self._library.is_bearer(self._one.put(value)))

    def offered(self, value: bytes, *, first: bool = False) -> int:
        """0: no token. 1: one. 2: it is doubtful."""
        return int(self._library.offered(self._one.put(value, first=first)))

    def read_buckets(self, setting: bytes) -> Buckets | None:
        found = Buckets()
        return found if self._library.read_buckets(self._one.put(setting), ctypes.byref(found)) else None

    def tell(self, buckets: Buckets, size: bytes, left: bytes) -> tuple[int, int, int, int] | None:
        """Limit, remaining, reset and wait."""
        told = Told()
        said = self._one.put(size), self._other.put(left)
        if not self._library.tell(ctypes.byref(buckets), *said, ctypes.byref(told)):
            return None
        return told.limit, told.remaining, told.reset_s, told.wait_s

    def number(self, number: int) -> bytes:
        into = ctypes.create_string_buffer(20)
        size = self._library.write_number(number, into)
        return into.raw[:size]

    def trace_id(self, traceparent: bytes) -> bytes:
        found = self._library.trace_id(self._one.put(traceparent))
        return ctypes.string_at(found.at, found.size) if found.size else b""

    def plain_id(self, request_id: bytes) -> bytes:
        into = ctypes.create_string_buffer(64)
        size = self._library.write_plain_id(self._one.put(request_id), into)
        return into.raw[:size]

    def look(self, connection: Http1, size: int) -> int:
        """0: passes. 1: is to be read. 2: is to be replaced."""
        return int(self._library.http1_look(ctypes.byref(connection), ctypes.c_size_t(size)))

    def read(self, connection: Http1, pieces: Sequence[bytes]) -> bytes | None:
        """What is passed on instead of the pieces; None when they are passed on as they are."""
        memory = [Guarded(-(-len(piece) // mmap.PAGESIZE) or 1) for piece in pieces]
        there = (Piece * len(pieces))(*(guarded.put(piece) for guarded, piece in zip(memory, pieces, strict=True)))
        change = self._library.http1_read(ctypes.byref(connection), there, ctypes.c_size_t(len(pieces)))
        if not change.changed:
            return None
        into = ctypes.create_string_buffer(self._library.http1_changed_size(ctypes.byref(change)))
        self._library.http1_write_changed(ctypes.byref(change), there, ctypes.c_size_t(len(pieces)), into)
        return into.raw


@contextmanager
def compiled() -> Iterator[Core]:
    """From the source as it is, or what ATOLL_NATIVE_CORE names (`make native-sanitized`)."""
    if given := os.environ.get("ATOLL_NATIVE_CORE"):
        yield Core(Path(given))
        return
    with TemporaryDirectory() as folder:
        library = Path(folder, "libcore.so")
        make("native-core", f"CORE={library}")
        yield Core(library)


def make(*arguments: str) -> None:
    """Fails with what the compiler said."""
    done = subprocess.run(["make", "--silent", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
