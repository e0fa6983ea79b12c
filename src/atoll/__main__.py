"""`python -m atoll …` is `atoll …`, for IDEs and for interpreters without scripts."""

from __future__ import annotations

import sys

from atoll.cli import main

if __name__ == "__main__":
    sys.exit(main())
