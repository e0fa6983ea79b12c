"""`python -m atoll.gateway`: the controller. Its environment is described at `environment.Environment.read`."""

from __future__ import annotations

import logging
import sys

from atoll.errors import AtollError
from atoll.gateway.controller import run

if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        run()
    except AtollError as error:
        sys.exit(f"gateway: {error}")
