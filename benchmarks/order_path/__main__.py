"""`make bench`: the order path beside the peers that can be installed, in one run; a table and JSON in benchmarks/results/.

The peers and the harness that measures everybody lie outside this repository, in the folder PEERS (default: ../shared/peers
beside the checkout). ONLY=atoll-sqlite,moleculer measures these alone; TESTS=load runs part of the tests.
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

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
LAB = Path(os.environ.get("LAB", Path.home() / ".cache" / "atoll-peers"))
OURS = ("atoll-sqlite", "atoll-postgresql")
PEERS = ("moleculer", "moleculer-channels", "nest", "hand-sqlite-nginx", "hand-pg-nginx", "nameko")
TESTS = "cold+event,load,faults,finale"


def main() -> int:
    if sys.argv[1:]:
        print(__doc__)
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    harness = Path(os.environ.get("PEERS", ROOT.parent / "shared" / "peers"))
    if not (harness / "bench.py").is_file():
        print(f"the peers' harness is not in {harness}: set PEERS to the folder that holds bench.py")
        return 2
    wanted = [name for name in os.environ.get("ONLY", "").split(",") if name] or [*OURS, *PEERS]
    tests = os.environ.get("TESTS", TESTS)
    install(harness, "hand")
    measured = [name for name in wanted if measure(harness, name, tests)]
    write(measured)
    return 0


def install(harness: Path, name: str) -> bool:
    """Whether the harness could install this peer."""
    kind = "hand" if name.startswith("hand") else "moleculer" if name.startswith("moleculer") else name
    done = subprocess.run(
        ["bash", "setup.sh", kind], cwd=harness, env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(f"{name} can't be installed here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return done.returncode == 0


def measure(harness: Path, name: str, tests: str) -> bool:
    python = LAB / "venv" / "hand" / "bin" / "python"
    if name in OURS:
        command = [str(python), str(ROOT / "benchmarks" / "order_path" / "entry.py"), str(harness), name]
    elif install(harness, name):
        command = [str(python), str(harness / "bench.py"), name]
    else:
        return False
    print(f"measuring {name}", flush=True)
    results_of(name).unlink(missing_ok=True)  # the harness adds to it, and another run's figures are not comparable
    return subprocess.run([*command, "--tests", tests], cwd=LAB, env=environment(), check=False).returncode == 0


def results_of(name: str) -> Path:
    return LAB / "results" / f"{name}.json"


def environment() -> dict[str, str]:
    return {**os.environ, "LAB": str(LAB)}


def write(names: list[str]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = {name: json.loads(results_of(name).read_text()) for name in names}
    about = {"when": time.strftime("%F %T"), "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}"}
    (RESULTS / "order_path.json").write_text(json.dumps({"about": about, "peers": found}, indent=1))
    text = f"Order path, {about['when']}, {about['machine']}\n\n" + "\n".join(table(found)) + "\n"
    (RESULTS / "order_path.md").write_text(text)
    print(text)


COLUMNS = (
    ("cold s", "cold.median"),
    ("MB idle", "mem.idle_mb"),
    ("MB after", "mem.after_mb"),
    ("GET/s", "get.rps"),
    ("GET p50 ms", "get.p50_ms"),
    ("GET p99 ms", "get.p99_ms"),
    ("GET µs", "get.cpu_us_op"),
    ("POST/s", "post.rps"),
    ("POST p50 ms", "post.p50_ms"),
    ("POST p99 ms", "post.p99_ms"),
    ("POST µs", "sustained.cpu_us_order"),
    ("effect p50 ms", "event.after_resp_p50_ms"),
    ("effect p99 ms", "event.after_resp_p99_ms"),
    ("µs at 50/s", "event.cpu_us_order"),
    ("orders/s applied", "sustained.orders_s"),
    ("lost", "LOST"),
    ("twice", "TWICE"),
    ("outage 201", "outage.during.201"),
    ("replica killed: GETs failed", "blast.replica.failed_get"),
)


def table(found: dict[str, Any]) -> Iterator[str]:
    """POST µs holds everything until the last effect was applied: gateway, services, databases, bus, consumers."""
    yield "| peer | " + " | ".join(title for title, _ in COLUMNS) + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for name, result in found.items():
        if name == "atoll-sqlite":  # SQLite has one replica, so there is no other one to answer
            result.get("blast", {}).pop("replica", None)
        yield f"| {name} | " + " | ".join(str(value(result, path)) for _, path in COLUMNS) + " |"


def value(result: dict[str, Any], path: str) -> Any:
    if path in ("LOST", "TWICE"):
        kind = "lost" if path == "LOST" else "dups"
        rows = [result[test][kind] for test in ("fault_order", "fault_inventory", "fault_broker", "outage") if test in result]
        return sum(rows) if rows else "–"
    current: Any = result
    for part in path.split("."):
        current = current.get(part, "–") if isinstance(current, dict) else "–"
    return current


if __name__ == "__main__":
    sys.exit(main())
