"""`make bench-deploy`: what containers cost beside `atoll up`, in one run: images, builds, starts, CPU for each request.

    python -m benchmarks.deploy [--turns N] [--seconds S] [--only local,compose,podman] [--database sqlite|postgresql]

The order path's system, under `atoll up`, in Compose, and as pods that podman plays. In each turn each place is asked for S
seconds (default 3) for one order over and over, then told of new ones, by 32 connections; N turns (default 7), another order
each time, so that a slow minute of the machine hits all alike. CPU for each request is what the kernel has accounted to the
processes of the place (engines and health checks apart), less what they use while nobody asks; of each turn's ratios the median
is told. A table and JSON lie in benchmarks/results/deploy.*.

On a busy machine containers answer fewer requests a second, because all of them together get the share of one process: compare
CPU, not rates.

Linux and root: it has a Docker engine and a podman of its own, as the acceptance suite has, in a temporary folder; wheels and
the base image are kept between runs (ATOLL_ENGINE_CACHE). Needs wrk. Nothing of it stays.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import httpx
from tests.acceptance.engine import BASE, CannotRun, Engine, cache, engine
from tests.acceptance.podman import Podman, podman
from tests.support.manifests import kustomized
from tests.support.ports import free_port
from tests.support.system import RunningSystem

from benchmarks.order_path.__main__ import RESULTS, ROOT

SOURCE = ROOT / "benchmarks" / "order_path" / "system"
# Services of the shop that need the same packages.
_LOCKS = {"sqlite": "notifications", "postgresql": "orders"}
_CONNECTIONS = 32
_IDLE_S = 20.0
_READY_S = 180.0
_WHO = {"username": "bench", "password": "correct horse battery"}
_WRK = """
wrk.method = "{method}"
wrk.body = '{body}'
wrk.headers["authorization"] = "Bearer {token}"
wrk.headers["content-type"] = "application/json"
done = function(all, latency)
  io.write(string.format("counted %d %d %.3f %.3f\\n", all.requests, all.errors.status, latency:percentile(50) / 1000,
    latency:percentile(99) / 1000))
end
"""
_MANIFEST = """
[gateway]
port = {port}
[environments.containers.containers]
base = "{base}"
[environments.pods.containers]
base = "{base}"
[environments.pods.gateway]
port = {pods_port}
"""


class Place(Protocol):
    """Where the system runs."""

    name: str

    def start(self) -> None: ...

    def stop(self) -> None:
        """What it has stored stays."""

    @property
    def url(self) -> str: ...

    def processes(self) -> dict[str, list[int]]:
        """Pids by the part whose they are."""

    def idle_ms(self) -> float:
        """CPU of everything that belongs to it, health checks too, so far."""


@dataclass
class Local:
    system: RunningSystem
    port: int
    name: str = "atoll up"

    def start(self) -> None:
        self.system.must("up", "--detach")

    def stop(self) -> None:
        self.system.must("down")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processes(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for one in self.system.state["processes"]:
            names = {one["name"]: one["service"] or one["name"], "envoy": "gateway", "gateway": "gateway's controller"}
            part = f"{one['service']}-database" if one["kind"] == "database" else names[one["name"]]
            found.setdefault(part, []).extend(descendants(one["pid"]))
        return found

    def idle_ms(self) -> float:
        hosts = [self.system.state["pid"], self.system.state["reaper"][0]]
        return used_ms([*hosts, *(pid for pids in self.processes().values() for pid in pids)])


class InContainers(ABC):
    """What is the same in Compose and in pods. `label` is where a container says whose it is."""

    label: ClassVar[str]

    def processes(self) -> dict[str, list[int]]:
        return by_part((one["Config"]["Labels"][self.label], one["State"]["Pid"]) for one in self._containers())

    def idle_ms(self) -> float:
        return sum(of_group_ms(one["State"]["Pid"]) for one in self._containers())

    @abstractmethod
    def _containers(self) -> list[dict[str, Any]]:
        """What the engine says of those that run."""


@dataclass
class Compose(InContainers):
    """Asked at the gateway's own address: a port published on loopback passes a process of Docker's, which no client outside
    meets.
    """

    system: RunningSystem
    engine: Engine
    port: int
    name: str = "Compose"
    label = "com.docker.compose.service"

    def compose(self, *arguments: str) -> None:
        folder = self.system.folder / "deploy" / "compose"
        environment = {**os.environ, **self.engine.variables}
        done = subprocess.run(["docker-compose", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"compose {' '.join(arguments)}: {done.stderr}"

    def start(self) -> None:
        self.compose("up", "-d")

    def stop(self) -> None:
        self.compose("down", "--timeout", "20")

    @property
    def url(self) -> str:
        (gateway,) = [one for one in self._containers() if one["Name"] == "/orderpath_gateway_1"]
        return f"http://{gateway['NetworkSettings']['Networks']['orderpath_edge']['IPAddress']}:{self.port}"

    def _containers(self) -> list[dict[str, Any]]:
        ids = self.engine.docker("ps", "--quiet", "--filter", "label=com.docker.compose.project=orderpath").split()
        return list(json.loads(self.engine.docker("container", "inspect", *ids)))


@dataclass
class Pods(InContainers):
    """The overlay `podman` of the Kubernetes manifests. Its ports are published by the kernel alone."""

    system: RunningSystem
    podman: Podman
    port: int
    name: str = "podman"
    label = "app.kubernetes.io/name"

    def start(self) -> None:
        self.podman("kube", "play", "-", text=self._manifests())

    def stop(self) -> None:
        self.podman("kube", "down", "-", text=self._manifests())

    def _manifests(self) -> str:
        return kustomized(self.system.folder / "deploy" / "kubernetes", "podman")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _containers(self) -> list[dict[str, Any]]:
        names = self.podman("ps", "--quiet", "--filter", "label=io.atoll/kind").split()
        return list(json.loads(self.podman("container", "inspect", *names)))


def by_part(containers: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """Pids of containers' first processes and all below, by service; the gateway's controller apart."""
    found: dict[str, list[int]] = {}
    for service, first in containers:
        for pid in descendants(first):
            with suppress(OSError):
                python = Path(f"/proc/{pid}/comm").read_text().startswith("python")
                part = "gateway's controller" if service == "gateway" and python else service
                found.setdefault(part, []).append(pid)
    return found


# CPU


def descendants(pid: int) -> list[int]:
    """It, and all below it."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    return found


def used_ms(pids: Sequence[int]) -> float:
    """What all threads of these have used so far."""
    ns = 0
    for pid in pids:
        with suppress(OSError):
            ns += sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
    return ns / 1e6


def of_group_ms(pid: int) -> float:
    """What the control group of a container's first process has used so far, those that have ended too."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if not kinds:
            with suppress(OSError):
                text = Path(f"/sys/fs/cgroup{path}/cpu.stat").read_text()
                return float(re.findall(r"usage_usec (\d+)", text)[0]) / 1000
        if "cpuacct" in kinds.split(","):
            with suppress(OSError):
                return int(Path(f"/sys/fs/cgroup/cpuacct{path}/cpuacct.usage").read_text()) / 1e6
    return float("nan")


# load


@dataclass
class Asked:
    """What one turn at one place has cost: µs of CPU for each request by part, answers a second, ms."""

    cost_us: dict[str, float]
    rate: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def all_us(self) -> float:
        return sum(self.cost_us.values())


@dataclass(frozen=True)
class Customer:
    """`token` and an `order` of a place, and what its parts use while nobody asks, which is no request's."""

    token: str
    order: str
    resting_ms_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def at(cls, url: str) -> Customer:
        """When the place is ready: signed up, and a first order placed."""
        end = time.monotonic() + _READY_S
        while True:
            with suppress(httpx.HTTPError, KeyError, ValueError), httpx.Client(base_url=url, timeout=5) as http:
                http.post("/auth/users", json=_WHO)
                token = http.post("/auth/token", data={"grant_type": "password", **_WHO}).json()["access_token"]
                headers = {"authorization": f"Bearer {token}"}
                placed = http.post("/orders", json={"sku": "widget", "qty": 1}, headers=headers)
                if placed.status_code == 201:
                    return cls(token, placed.json()["id"])
            assert time.monotonic() < end, f"{url} is not ready"
            time.sleep(0.05)

    def ask(self, place: Place, what: str, seconds: float) -> Asked:
        url = place.url
        body = json.dumps({"sku": "widget", "qty": 1}) if what == "POST" else ""
        path = "/orders" if what == "POST" else f"/orders/{self.order}"
        before, began = _used(place), time.monotonic()
        requests, failed, p50_ms, p99_ms = _wrk(url + path, _WRK.format(method=what, body=body, token=self.token), seconds)
        took_s = time.monotonic() - began
        assert requests, f"{place.name} answered nothing within {seconds:g} s: give it more, --seconds"
        spent = {
            part: now - before.get(part, 0) - self.resting_ms_s.get(part, 0) * took_s for part, now in _used(place).items()
        }
        cost = {part: max(0.0, ms) * 1000 / requests for part, ms in spent.items()}
        return Asked(cost, requests / took_s, p50_ms, p99_ms, int(failed))


def _used(place: Place) -> dict[str, float]:
    return {part: used_ms(pids) for part, pids in place.processes().items()}


def _wrk(url: str, script: str, seconds: float) -> tuple[float, float, float, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds:g}s", "-s", file.name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    (counted,) = re.findall(r"^counted (.*)$", done.stdout, re.MULTILINE)
    requests, failed, p50_ms, p99_ms = map(float, counted.split())
    return requests, failed, p50_ms, p99_ms


# what is told


@dataclass
class Result:
    images_mb: dict[str, float] = field(default_factory=dict)
    own_mb: float = 0.0
    base_mb: float = 0.0
    builds_s: dict[str, float] = field(default_factory=dict)
    starts_s: dict[str, dict[str, float]] = field(default_factory=dict)
    idle_ms_s: dict[str, float] = field(default_factory=dict)
    turns: list[dict[str, dict[str, Asked]]] = field(default_factory=list)

    def table(self) -> Iterator[str]:
        yield from self._of_images()
        yield from ("", "| start to the first 201, s | first | again |", "|---|---|---|")
        yield from (f"| {name} | {one['first']:.1f} | {one['again']:.1f} |" for name, one in self.starts_s.items())
        for what in ("GET", "POST"):
            yield from ("", *self._of_requests(what))
        yield from ("", "| idle, ms of CPU a second, health checks too | |", "|---|---|")
        yield from (f"| {name} | {ms:.1f} |" for name, ms in self.idle_ms_s.items())

    def _of_images(self) -> Iterator[str]:
        if not self.images_mb:
            return
        yield from ("| image | MB, without the base |", "|---|---|")
        yield from (f"| {name} | {mb:.0f} |" for name, mb in sorted(self.images_mb.items()))
        yield f"| the base | {self.base_mb:.0f} |"
        yield from ("", "| build | s |", "|---|---|", *(f"| {name} | {s:.1f} |" for name, s in self.builds_s.items()))

    def _of_requests(self, what: str) -> Iterator[str]:
        asked = {name: [turn[name][what] for turn in self.turns] for name in self.turns[0]}
        yield _row(f"{what}, µs of CPU a request", asked)
        yield "|---" * (len(asked) + 1) + "|"
        for part in sorted({part for turns in asked.values() for one in turns for part in one.cost_us}):
            costs = [statistics.median(one.cost_us.get(part, 0.0) for one in turns) for turns in asked.values()]
            if max(costs) >= 1:
                yield _row(part, (f"{one:.0f}" for one in costs))
        yield _row("all", (f"{statistics.median(one.all_us for one in turns):.0f}" for turns in asked.values()))
        first = next(iter(asked.values()))
        yield _row("beside the first", (f"{_ratio(turns, first):.2f}" for turns in asked.values()))
        yield _row("a second", (f"{statistics.median(one.rate for one in turns):.0f}" for turns in asked.values()))
        yield _row("p50 / p99, ms", (_times(turns) for turns in asked.values()))
        yield _row("failed", (str(sum(one.failed for one in turns)) for turns in asked.values()))


def _row(title: str, cells: Iterable[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _ratio(turns: Sequence[Asked], first: Sequence[Asked]) -> float:
    """Within each turn, because from turn to turn the machine is another."""
    return statistics.median(one.all_us / other.all_us for one, other in zip(turns, first, strict=True))


def _times(turns: Sequence[Asked]) -> str:
    p50_ms, p99_ms = (statistics.median(values) for values in zip(*((one.p50_ms, one.p99_ms) for one in turns), strict=True))
    return f"{p50_ms:.1f} / {p99_ms:.1f}"


# the run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--database", choices=tuple(_LOCKS), default="sqlite", help="of both services (%(default)s)")
    parser.add_argument("--only", default="local,compose,podman", help="places, by comma (%(default)s)")
    told = parser.parse_args()
    wanted = told.only.split(",")
    if unknown := set(wanted) - _PLACES.keys():
        parser.error(f"there is no place {', '.join(unknown)}")
    if "podman" in wanted and "compose" not in wanted[: wanted.index("podman")]:
        parser.error("podman comes after compose, whose engine builds the images")
    if not shutil.which("wrk"):
        parser.error("wrk is not here: apt-get install wrk")
    result = Result()
    try:
        with _place() as folder, ExitStack() as stack:
            run = Run(folder, told.database, result, stack)
            places = [_entered(name, run) for name in wanted]
            _measure(places, result, told.turns, told.seconds)
    except CannotRun as reason:
        print(f"it can't be measured here: {reason}", file=sys.stderr)
        return 2
    _write(result, told)
    return 0


@contextmanager
def _place() -> Iterator[Path]:
    """A temporary folder; short, for sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="atoll-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Run:
    """What is measured goes into `result`; what has to be undone, onto `stack`. `built` is who has the images."""

    folder: Path
    database: str
    result: Result
    stack: ExitStack
    built: Compose | None = None


def _entered(name: str, run: Run) -> Place:
    """Started twice, and running."""
    say(f"{name} starts")
    made = _PLACES[name](run)
    run.stack.callback(made.stop)
    run.result.starts_s[made.name] = {"first": _started(made)}
    made.stop()
    run.result.starts_s[made.name]["again"] = _started(made)
    return made


def _started(place: Place) -> float:
    began = time.monotonic()
    place.start()
    Customer.at(place.url)
    return time.monotonic() - began


def _copy(name: str, run: Run, port: int) -> RunningSystem:
    folder = run.folder / name
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns(".atoll", "__pycache__"))
    for kind in folder.glob("services/*/*/kind.py"):
        kind.write_text(kind.read_text().replace('"sqlite"\n', f'"{run.database}"\n'))
    with (folder / "atoll.toml").open("a") as manifest:
        manifest.write(_MANIFEST.format(port=port, base=BASE, pods_port=free_port()))
    for service in ("orders", "inventory"):
        lock = ROOT / "examples" / "shop" / "services" / _LOCKS[run.database] / "requirements.txt"
        shutil.copyfile(lock, folder / "services" / service / "requirements.txt")
    return RunningSystem(folder)


def _local(run: Run) -> Place:
    port = free_port()
    return Local(_copy("local", run, port), port)


def _compose(run: Run) -> Place:
    """Its images are built by an engine that has none yet."""
    port = free_port()
    system = _copy("compose", run, port)
    found = run.stack.enter_context(_fresh_engine(run.folder))
    system.environment = found.variables
    for service in ("orders", "inventory"):
        system.must("contract", "accept", service)
    (system.folder / ".atoll" / "images").mkdir(parents=True, exist_ok=True)
    (system.folder / ".atoll" / "images" / "wheels").symlink_to(cache() / "wheels")
    _build(system, run.result)
    _weigh(found, system, run.result)
    system.must("render", "compose", "--environment", "containers")
    made = run.built = Compose(system, found, port)
    run.stack.callback(made.compose, "down", "--volumes", "--timeout", "20")
    return made


def _podman(run: Run) -> Place:
    assert run.built is not None
    system, images = run.built.system, run.folder / "images.tar"
    references = json.loads(system.must("build", "--environment", "pods", "--json", timeout_s=600.0))
    run.built.engine.docker("save", "--output", str(images), *references.values())
    player = run.stack.enter_context(podman(run.folder / "podman"))
    player("load", "--quiet", "--input", str(images))
    images.unlink()
    system.must("render", "kubernetes", "--environment", "pods")
    port = tomllib.loads((system.folder / "atoll.toml").read_text())["environments"]["pods"]["gateway"]["port"]
    return Pods(system, player, port)


_PLACES = {"local": _local, "compose": _compose, "podman": _podman}


@contextmanager
def _fresh_engine(folder: Path) -> Iterator[Engine]:
    """With the base image and wheels of other runs, and nothing built."""
    kept = cache()
    for name in ("wheels", "docker"):
        (kept / name).mkdir(parents=True, exist_ok=True)
    fresh = folder / "cache"
    fresh.mkdir()
    for name in ("base.tar", "wheels"):
        (fresh / name).symlink_to(kept / name)
    os.environ["ATOLL_ENGINE_CACHE"] = str(fresh)
    try:
        (folder / "e").mkdir()
        with engine(folder / "e") as found:
            yield found
    finally:
        os.environ["ATOLL_ENGINE_CACHE"] = str(kept)


def _build(system: RunningSystem, result: Result) -> None:
    """Cold twice: the second time all wheels are here."""

    def build(*names: str) -> float:
        began = time.monotonic()
        system.must("build", *names, "--environment", "containers", timeout_s=3000.0)
        return time.monotonic() - began

    say("images are built")
    result.builds_s["all, nothing built yet (wheels are fetched once and kept)"] = build()
    result.builds_s["all, nothing changed"] = build()
    code = system.folder / "services" / "orders" / "orders" / "service.py"
    text = code.read_text()
    code.write_text(f"{text}\n# another version\n")
    result.builds_s["one service, a line of its code changed"] = build("orders")
    code.write_text(text)


def _weigh(found: Engine, system: RunningSystem, result: Result) -> None:
    references = json.loads(system.must("build", "--environment", "containers", "--json", timeout_s=600.0))
    result.base_mb = _size_mb(found, BASE)
    result.images_mb = {name: _size_mb(found, tag) - result.base_mb for name, tag in references.items()}


def _size_mb(found: Engine, image: str) -> float:
    return int(found.docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def _measure(places: Sequence[Place], result: Result, turns: int, seconds: float) -> None:
    resting = _rest(places, result)
    customers = {place.name: replace(Customer.at(place.url), resting_ms_s=resting[place.name]) for place in places}
    order = random.Random(1)
    for number in range(turns):
        say(f"turn {number + 1} of {turns}")
        turn: dict[str, dict[str, Asked]] = defaultdict(dict)
        for what in ("GET", "POST"):
            for place in order.sample(places, len(places)):
                turn[place.name][what] = customers[place.name].ask(place, what, seconds)
        result.turns.append({place.name: turn[place.name] for place in places})


def _rest(places: Sequence[Place], result: Result) -> dict[str, dict[str, float]]:
    """What each costs while nobody asks: ms of CPU a second, by part."""
    say("nobody asks")
    before = {place.name: (place.idle_ms(), _used(place)) for place in places}
    time.sleep(_IDLE_S)
    result.idle_ms_s = {place.name: (place.idle_ms() - before[place.name][0]) / _IDLE_S for place in places}
    return {
        place.name: {part: (now - before[place.name][1].get(part, 0)) / _IDLE_S for part, now in _used(place).items()}
        for place in places
    }


def _write(result: Result, told: argparse.Namespace) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    when = f"{time.strftime('%F %T')}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    head = f"Deployed, {told.database}, {when}, {told.turns} turns of {told.seconds:g} s"
    text = f"{head}\n\n" + "\n".join(result.table()) + "\n"
    (RESULTS / "deploy.md").write_text(text)
    plain = json.dumps(vars(result), default=vars, indent=1)
    (RESULTS / "deploy.json").write_text(plain)
    print(text)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
