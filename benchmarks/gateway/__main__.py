"""`make bench-gateway`: CPU per request of the gateway and of others, in one run; a table and JSON in benchmarks/results/.

The harness that measures lies outside this repository, in the folder PEERS (default: ../shared/peers beside the checkout).
ONLY=atoll,HAProxy measures these alone; ROUNDS and SECONDS_EACH make it longer.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.order_path.__main__ import LAB, RESULTS, ROOT, environment, install

COLUMNS = (
    ("CPU µs/request", "cpu_us_op"),
    ("requests/s", "rps"),
    ("p50 ms", "p50_ms"),
    ("p99 ms", "p99_ms"),
    ("added p50 ms at 1,000/s", "added_p50_ms"),
    ("p99 ms at 1,000/s", "paced_p99_ms"),
    ("MB", "pss_mb"),
    ("failed", "bad"),
    ("forged token", "forged"),
)


def main() -> int:
    harness = Path(os.environ.get("PEERS", ROOT.parent / "shared" / "peers"))
    if not (harness / "gwbench.py").is_file():
        print(f"the peers' harness is not in {harness}: set PEERS to the folder that holds gwbench.py")
        return 2
    install(harness, "hand")
    install(harness, "gateways")
    RESULTS.mkdir(parents=True, exist_ok=True)
    out = RESULTS / "gateway.json"
    python = LAB / "venv" / "hand" / "bin" / "python"
    only = [os.environ["ONLY"]] if os.environ.get("ONLY") else []
    entry = ROOT / "benchmarks" / "gateway" / "entry.py"
    done = subprocess.run([python, entry, harness, out, *only], cwd=LAB, env=environment(), check=False)
    if done.returncode == 0:
        write(json.loads(out.read_text()), RESULTS / "gateway.md")
    return done.returncode


def write(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}"
    text = f"Gateways alone, {time.strftime('%F %T')}, {machine}\n\n" + "\n".join(table(found)) + "\n"
    path.write_text(text)
    print(text)


def table(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The best round of each, cheapest first, those that check a token apart."""
    yield "| gateway | what it does | " + " | ".join(title for title, _ in COLUMNS) + " |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    best = {name: min(rounds, key=lambda one: float(one["cpu_us_op"])) for name, rounds in found.items()}
    for name, one in sorted(best.items(), key=lambda item: (item[1]["kind"] != "plain", item[1]["cpu_us_op"])):
        yield f"| {name} | {one['kind']} | " + " | ".join(str(one[key]) for _, key in COLUMNS) + " |"


if __name__ == "__main__":
    sys.exit(main())
