"""`python -m cardprovider --port 9090`: the simulator as a process."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import uvicorn

from cardprovider.app import provider
from cardprovider.ledger import Ledger

LEDGER = Path(os.environ.get("ATOLL_DATA_DIR", ".")) / "ledger.sqlite"


def main() -> None:
    options = argparse.ArgumentParser(prog="cardprovider", description="A simulated card provider.")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--ledger", type=Path, default=LEDGER)
    chosen = options.parse_args()
    uvicorn.run(provider(Ledger(chosen.ledger)), host=chosen.host, port=chosen.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
