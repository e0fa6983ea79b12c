"""Golden files: what we publish, word for word. `REWRITE_GOLDEN=1 pytest …` writes them anew; then read the difference."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "golden"


def check(name: str, text: str) -> None:
    """Fails when `text` is not what `tests/golden/<name>` holds."""
    path = FOLDER / name
    if os.environ.get("REWRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, f"{path} differs; if that is meant: REWRITE_GOLDEN=1, and read the difference"
