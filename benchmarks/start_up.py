"""What each process of a small system costs before it does anything: CPU to start, CPU of its imports, memory when idle.

    python -m benchmarks.start_up [TIMES]

Brings the order path's system (SQLite) up and down TIMES times in a temporary folder (default 5; the first start, which derives
contracts and makes databases, does not count) and prints the least CPU and the median memory. CPU is what the kernel has
accounted to the process when the host says that everything is ready; memory is PSS: shared pages are divided among their users.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

SYSTEM = Path(__file__).resolve().parent / "order_path" / "system"
ATOLL = (sys.executable, "-c", "import sys; from atoll.cli import main; sys.exit(main())")
IMPORTS = {
    "interpreter": "pass",
    "asyncio, uvloop, msgspec": "import asyncio, uvloop, msgspec",
    "service": "import atoll.service.__main__, atoll.service.process, atoll.service.logs, atoll.service.service, "
    "atoll.database.sqlite, atoll.bus.jetstream, atoll.delivery.loops, atoll.registry.announcement, uvloop",
    "gateway controller": "import atoll.gateway.controller, atoll.bus.jetstream",
    "auth": "import atoll.service.__main__, atoll.service.process, atoll.service.logs, atoll.auth.service, "
    "atoll.database.sqlite, atoll.bus.jetstream, atoll.delivery.loops, atoll.registry.announcement, uvloop",
    "host": "import atoll.cli.up, atoll.host.host",
}


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print("imports, CPU ms (best of 7)")
    for name, program in IMPORTS.items():
        print(f"  {name:<26}{cpu_ms(sys.executable, '-P', '-c', program):8.0f}")
    print(f"  {'atoll --help':<26}{cpu_ms(*ATOLL, '--help'):8.0f}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(SYSTEM, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".atoll", "__pycache__"))
        measure_system(folder, times)


def cpu_ms(*argv: str) -> float:
    """The least of seven runs, user and system."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def once() -> float:
        before = spent()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        return (spent() - before) * 1000

    return min(once() for _ in range(7))


def measure_system(folder: str, times: int) -> None:
    took: list[float] = []
    cpu: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[float]] = defaultdict(list)
    for turn in range(times + 1):
        summary = json.loads(atoll(folder, "up", "--detach", "--isolated", "--json"))
        try:
            if turn:
                took.append(summary["took_s"])
                look(Path(folder, ".atoll/state.json"), cpu, memory)
        finally:
            atoll(folder, "down")
    print(f"\nthe order path's system, started {times} times\n  {'':<26}{'CPU ms':>8}{'PSS MB':>8}")
    for name in cpu:
        print(f"  {name:<26}{min(cpu[name]):8.0f}{statistics.median(memory[name]):8.1f}")
    all_cpu, all_memory = sum(map(min, cpu.values())), sum(map(statistics.median, memory.values()))
    print(f"  {'sum':<26}{all_cpu:8.0f}{all_memory:8.1f}")
    print(f"  `atoll up`, warm: best {min(took):.2f} s, median {statistics.median(took):.2f} s")


def atoll(folder: str, *words: str) -> str:
    done = subprocess.run([*ATOLL, *words], cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode()


def look(state: Path, cpu: dict[str, list[float]], memory: dict[str, list[float]]) -> None:
    """CPU at once, memory when everything has been quiet for a moment."""
    known = json.loads(state.read_text())
    pids = {one["name"]: one["pid"] for one in known["processes"]} | {"host": known["pid"], "reaper": known["reaper"][0]}
    for name, pid in pids.items():
        tasks = Path(f"/proc/{pid}/task").iterdir()
        cpu[name].append(sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in tasks) / 1e6)
    time.sleep(1)
    for name, pid in pids.items():
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        memory[name].append(int(found[1]) / 1024 if found else 0.0)


if __name__ == "__main__":
    main()
