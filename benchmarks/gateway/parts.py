"""`make bench-gateway-parts`: what each part of the gateway costs a request, as CPU of an Envoy that lacks it.

    python -m benchmarks.gateway.parts [plain|token|everything] [BLOCKS]

One Envoy for each part, all in front of one nginx. Each is asked for a tenth of a second in turn, in another order each time,
so that a slow minute of the machine hits all alike. Each block begins with new processes, because one process may be some µs
dearer than the next for as long as it lives. Needs nginx and wrk.
"""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

from atoll.gateway.xds import credentials, jwt, rate_limit_headers, rbac, revocations
from benchmarks.gateway import ours
from benchmarks.order_path.__main__ import RESULTS

Json = dict[str, Any]
CYCLES, SLICE_S, CONNECTIONS = 12, 0.12, 32
ANSWER = '{"id":"6f1c1f8e-9d3c-4d58-8f5e-1f6f4b1f9d11","sku":"widget","qty":1,"status":"placed"}'
COUNTED = 'done = function(all) io.write(string.format("counted %d %d\\n", all.requests, all.errors.status)) end'


@dataclass(frozen=True, slots=True)
class Files:
    """What one Envoy is told, which a part is taken out of."""

    listener: Json
    routes: list[Json]

    @property
    def chain(self) -> list[Json]:
        """Network filters."""
        filters: list[Json] = self.listener["filter_chains"][0]["filters"]
        return filters

    @property
    def manager(self) -> Json:
        found: Json = self.chain[-1]["typed_config"]
        return found


def _without_filters(*names: str) -> Callable[[Files], None]:
    def remove(files: Files) -> None:
        files.manager["http_filters"] = [one for one in files.manager["http_filters"] if one["name"] not in names]
        for route in files.routes:
            for name in names:
                route.get("typed_per_filter_config", {}).pop(name, None)

    return remove


def _without_loggers(kind: str) -> Callable[[Files], None]:
    def remove(files: Files) -> None:
        files.manager["access_log"] = [one for one in files.manager["access_log"] if not one["name"].endswith(kind)]

    return remove


def _without_trace_id(files: Files) -> None:
    for logger in files.manager["access_log"]:
        logger["typed_config"].get("log_format", {}).get("json_format", {}).pop("trace_id", None)


def _without_strict_http1(files: Files) -> None:
    del files.chain[0]


def _without_timers(files: Files) -> None:
    del files.manager["request_headers_timeout"]
    files.manager["stream_idle_timeout"] = "0s"
    for route in files.routes:
        if "route" in route:
            route["route"] |= {"timeout": "0s", "idle_timeout": "0s"}


def _without_stripping(files: Files) -> None:
    del files.manager["early_header_mutation_extensions"]


def _nothing(files: Files) -> None:
    """As it is."""


ALL = "all of it"
PARTS: dict[str, Callable[[Files], None]] = {
    ALL: _nothing,
    "access log": _without_loggers("file"),
    "of which its trace id": _without_trace_id,
    "strict HTTP/1.1": _without_strict_http1,
    "metrics per operation": _without_loggers("stats"),
    "limits on time": _without_timers,
    "headers that a client may not send": _without_stripping,
}
TOKEN = {
    "one bearer token and nothing else": _without_filters(credentials.NAME),
    "ended sessions": _without_filters(revocations.NAME),
    "token check, cached": _without_filters(jwt.NAME, credentials.NAME, revocations.NAME),
}
EVERYTHING = {
    "scope": _without_filters(rbac.NAME),
    "rate limit and its headers": _without_filters("atoll.rate_limit.by_subject", rate_limit_headers.NAME),
    "of which making the headers": _without_filters(rate_limit_headers.NAME),
}
# Without a token check there are no claims, and a scope and a subject to count for need them.
VARIANTS = {
    "plain": PARTS,
    "token": {**PARTS, **TOKEN},
    "everything": {**PARTS, "one bearer token and nothing else": TOKEN["one bearer token and nothing else"], **EVERYTHING},
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One running Envoy and the load for it, which is stopped except in its turn."""

    envoy: subprocess.Popen[bytes]
    load: subprocess.Popen[str]
    before_us: float

    def turn(self) -> None:
        self.load.send_signal(signal.SIGCONT)
        time.sleep(SLICE_S)
        self.load.send_signal(signal.SIGSTOP)

    def cost_us(self) -> float:
        """CPU of one request. Ends the load."""
        self.load.send_signal(signal.SIGCONT)
        said, _ = self.load.communicate(timeout=120)
        requests, refused = map(int, said.partition("counted ")[2].split()[:2])
        if refused or not requests:
            raise SystemExit(f"{refused} of {requests} requests were refused: the numbers mean nothing")
        return (_cpu_us(self.envoy.pid) - self.before_us) / requests


def main(variant: str = "everything", blocks: str = "4") -> None:
    found: dict[str, list[float]] = {name: [] for name in VARIANTS[variant]}
    for number in range(int(blocks)):
        for name, cost in _block(variant, random.Random(number)).items():
            found[name].append(cost)
        print(f"{number + 1} of {blocks}", {name: round(costs[-1]) for name, costs in found.items()}, flush=True)
    text = "\n".join(_table(found)) + "\n"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"gateway_parts_{variant}.md").write_text(text)
    print(text)


def _block(variant: str, order: random.Random) -> dict[str, float]:
    parts = VARIANTS[variant]
    lasts_s = int(CYCLES * len(parts) * (SLICE_S + 0.01)) + 2
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        upstream = stack.enter_context(_nginx(Path(folder)))
        running = {
            name: stack.enter_context(_measured(Path(folder, str(number)), (variant, upstream, lasts_s), part))
            for number, (name, part) in enumerate(parts.items())
        }
        for _ in range(CYCLES):
            for one in order.sample(list(running.values()), len(running)):
                one.turn()
        return {name: one.cost_us() for name, one in running.items()}


@contextmanager
def _measured(folder: Path, what: tuple[str, int, int], part: Callable[[Files], None]) -> Iterator[Measured]:
    variant, upstream, lasts_s = what
    port = free_port()
    made = ours.make(str(folder), variant, (port, free_port(), upstream), lambda told: part(_files(told)))
    with _running(made["command"]) as process:
        _until_answered(port, made["token"])
        script = folder / "load.lua"
        script.write_text(f'wrk.headers["Authorization"] = "Bearer {made["token"]}"\n{COUNTED}\n')
        before = _cpu_us(process.pid)
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{lasts_s}s", "--timeout", "60s", "-s", str(script)]
        load = subprocess.Popen([*command, f"http://127.0.0.1:{port}/orders/1"], stdout=subprocess.PIPE, text=True)
        load.send_signal(signal.SIGSTOP)
        try:
            yield Measured(process, load, before)
        finally:
            load.kill()
            load.wait()


def _files(told: ours.Resources) -> Files:
    return Files(told["lds"][0], told["rds"][0]["virtual_hosts"][0]["routes"])


@contextmanager
def _nginx(folder: Path) -> Iterator[int]:
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    server = f"server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ return 200 '{ANSWER}'; }} }}"
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;\n"
        f"events {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; keepalive_requests 100000000; {places}\n{server} }}\n"
    )
    with _running(["nginx", "-c", str(folder / "nginx.conf")]):
        yield port


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _until_answered(port: int, token: str) -> None:
    asked = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {token}"]
    end = time.monotonic() + 20
    while time.monotonic() < end:
        done = subprocess.run([*asked, f"http://127.0.0.1:{port}/orders/1"], capture_output=True, text=True, check=False)
        if done.stdout == "200":
            return
        time.sleep(0.05)
    raise SystemExit("the gateway does not answer 200")


def _cpu_us(pid: int) -> float:
    """Of all threads that there are: in nanoseconds, where utime and stime count in hundredths of a second."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1000


def _table(found: dict[str, list[float]]) -> Iterator[str]:
    """With the standard error over the blocks."""
    whole = found[ALL]
    yield "| part | CPU µs a request | share |"
    yield "|---|---|---|"
    yield f"| {ALL} | {statistics.mean(whole):.0f} | |"
    for name, costs in found.items():
        if name != ALL:
            saved = [all_ - one for all_, one in zip(whole, costs, strict=True)]
            error = statistics.stdev(saved) / len(saved) ** 0.5 if len(saved) > 1 else 0.0
            share = statistics.mean(saved) / statistics.mean(whole)
            yield f"| {name} | {statistics.mean(saved):.1f} ± {error:.1f} | {share:.0%} |"


if __name__ == "__main__":
    main(*sys.argv[1:])
