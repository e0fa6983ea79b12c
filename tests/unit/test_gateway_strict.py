"""The compiled filter is the one that its source gives."""

from __future__ import annotations

import hashlib
from pathlib import Path

from atoll.gateway import strict


def test_filter_and_source_are_those_of_the_last_make_wasm() -> None:
    folder = Path(strict.__file__).parent
    lines = [line.split() for line in (folder / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}

    assert set(sums) == {"strict_http1.c", "strict_http1.wasm"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, f"{name} was changed: make wasm"
    assert strict.code().startswith(b"\0asm")
