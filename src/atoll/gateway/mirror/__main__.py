"""`python -m atoll.gateway.mirror`: the comparing process. Its environment is described at `server.Environment.read`."""

from __future__ import annotations

import logging
import sys

from atoll.errors import AtollError
from atoll.gateway.mirror.server import run

if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        run()
    except AtollError as error:
        sys.exit(f"mirror: {error}")
