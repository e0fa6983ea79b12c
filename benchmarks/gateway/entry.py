"""Measures gateways alone, in front of one fast upstream: runs under the peers' harness and its own Python, without atoll.

    python entry.py HARNESS OUT.json [NAME,NAME]

Each round measures every gateway once, so that a slow minute of the machine hits all alike; the best round of each counts.
Throughput: wrk, 32 connections, CPU of the gateway's processes alone. Latency: 1,000 requests/s, open loop, beside the same
load sent to the upstream directly. Peers with a token check verify ES256 at every request; a forged token must be a 401.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HARNESS, OUT = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
ONLY = sys.argv[3].split(",") if len(sys.argv) > 3 else []
ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"
sys.path.insert(0, str(HARNESS))

import bench  # noqa: E402
import gwbench  # noqa: E402
import jwt  # noqa: E402
from peers import BIN, GW, HERE, LAB, NODE, WORK, P  # noqa: E402

ROUNDS = int(os.environ.get("ROUNDS", "2"))
CONNECTIONS, SECONDS = 32, int(os.environ.get("SECONDS_EACH", "5"))
RATE, RATE_SECONDS = 1000, int(os.environ.get("SECONDS_EACH", "5"))
EC, EC_PUB = f"{gwbench.KD}/ec.key", f"{gwbench.KD}/ec.pub"
PLAIN, CHECKED = "plain", "checks an ES256 token"


def keys() -> None:
    gwbench.keys()
    make = f"openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out {EC}"
    if not Path(EC).exists():
        subprocess.run(
            f"{make} && openssl ec -in {EC} -pubout -out {EC_PUB}", shell=True, check=True, stderr=subprocess.DEVNULL
        )


def es256() -> str:
    now = int(time.time())
    claims = {"sub": "bench", "iss": "lab", "aud": "lab", "iat": now, "exp": now + 86_400}
    return jwt.encode(claims, Path(EC).read_text(), "ES256", headers={"kid": "lab"})


def haproxy() -> list[str]:
    command = gwbench.haproxy("ES256")
    path = Path(WORK, "ha.cfg")
    path.write_text(path.read_text().replace(f"{gwbench.KD}/rsa.pub", EC_PUB))
    return command


def fastapi() -> list[str]:
    return [
        f"{BIN}/uvicorn",
        "gateway:app",
        "--host",
        "127.0.0.1",
        "--port",
        str(GW),
        "--no-access-log",
        "--log-level",
        "warning",
    ]


def fastify() -> list[str]:
    return [NODE, f"{LAB}/npm-gateways/app/fastify.js"]


def ours(variant: str) -> tuple[list[str], str]:
    folder = f"{WORK}/atoll-{variant}"
    subprocess.run(["rm", "-rf", folder], check=True)
    arguments = [folder, variant, str(GW), str(GW + 1000), str(P["upstream"])]
    made = subprocess.run(
        [PYTHON, "-m", "benchmarks.gateway.ours", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = json.loads(made.stdout)
    return told["command"], told["token"]


# name -> what it does, its command, the folder it runs in
GATEWAYS = {
    "nginx": (PLAIN, lambda: (gwbench.nginx(False), ""), WORK),
    "HAProxy": (PLAIN, lambda: (gwbench.haproxy("HS256", False), ""), WORK),
    "Caddy": (PLAIN, lambda: (gwbench.caddy(), ""), WORK),
    "Envoy by hand": (PLAIN, lambda: (gwbench.envoy("HS256", False), ""), WORK),
    "atoll, public operation": (PLAIN, lambda: ours("plain"), WORK),
    "HAProxy jwt_verify": (CHECKED, lambda: (haproxy(), es256()), WORK),
    "fastify http-proxy + jwt": (CHECKED, lambda: (fastify(), es256()), f"{LAB}/npm-gateways"),
    "FastAPI + httpx + PyJWT": (CHECKED, lambda: (fastapi(), es256()), f"{HERE}/hand"),
    "atoll, token": (CHECKED, lambda: ours("token"), WORK),
    "atoll, everything on": (CHECKED, lambda: ours("everything"), WORK),
}


def measure(name: str) -> dict[str, object]:
    kind, make, folder = GATEWAYS[name]
    command, token = make()
    environment = {
        **os.environ,
        "JWT_SECRET": bench.SECRET,
        "JWT_ALG": "ES256",
        "JWT_PUB": EC_PUB,
        "UPSTREAM": f"http://127.0.0.1:{P['upstream']}",
        "SERVICES": json.dumps({"orders": [f"http://127.0.0.1:{P['upstream']}"]}),
        "PORT": str(GW),
        "NODE_ENV": "production",
    }
    with open(f"{WORK}/log/gateway.log", "ab") as log:
        started = [
            subprocess.Popen(gwbench.upstream(), stdout=log, stderr=log),
            subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log),
        ]
        try:
            bench.wait_port(P["upstream"])
            bench.wait_port(GW)
            return {"kind": kind, **numbers(started[1].pid, token, kind)}
        finally:
            stop(started)


def stop(started: list[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def numbers(pid: int, token: str, kind: str) -> dict[str, object]:
    def pids() -> list[int]:
        return bench.tree([pid])

    until_answered(token)
    forged = asyncio.run(bench.Client(GW).req(bench.raw("GET", "/orders/1", token[:-6] + "AAAAAA")))[0] if token else 0
    bench.wrk(GW, "GET", ["/orders/1"], CONNECTIONS, 1, pids, token)
    best = bench.wrk(GW, "GET", ["/orders/1"], CONNECTIONS, SECONDS, pids, token)
    direct = asyncio.run(paced(P["upstream"], token))
    through = asyncio.run(paced(GW, token))
    return {
        **best,
        "forged": forged,
        "direct_p50_ms": direct[0],
        "paced_p50_ms": through[0],
        "paced_p99_ms": through[1],
        "added_p50_ms": round(through[0] - direct[0], 3),
        "pss_mb": round(bench.pss(pids()), 1),
    }


def until_answered(token: str) -> None:
    end = time.time() + 20
    while time.time() < end:
        if asyncio.run(bench.Client(GW).req(bench.raw("GET", "/orders/1", token)))[0] == 200:
            return
        time.sleep(0.05)
    raise SystemExit("the gateway does not answer 200: see gateway.log")


async def paced(port: int, token: str) -> tuple[float, float]:
    """(p50, p99) in ms at RATE requests/s that are sent when their time comes, whatever the earlier ones do."""
    client, request, took = bench.Client(port), bench.raw("GET", "/orders/1", token), []

    async def one() -> None:
        begin = time.perf_counter()
        status, _ = await client.req(request)
        if status == 200:
            took.append((time.perf_counter() - begin) * 1000)

    begin, tasks = time.perf_counter(), []
    for number in range(RATE * RATE_SECONDS):
        wait = begin + number / RATE - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    took.sort()
    return round(took[len(took) // 2], 3), round(took[len(took) * 99 // 100], 3)


def main() -> None:
    os.makedirs(f"{WORK}/log", exist_ok=True)
    keys()
    subprocess.run(
        f"mkdir -p {LAB}/npm-gateways/app && cp {HERE}/gateways/*.js {LAB}/npm-gateways/app/", shell=True, check=True
    )
    found: dict[str, list[dict[str, object]]] = {}
    for _ in range(ROUNDS):
        for name in GATEWAYS:
            if ONLY and not any(one in name for one in ONLY):
                continue
            try:
                with bench.lock():
                    result = measure(name)
            except (OSError, RuntimeError, SystemExit) as error:
                print(f"{name} can't be measured here: {error}", flush=True)
                continue
            print(name, result, flush=True)
            found.setdefault(name, []).append(result)
    OUT.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
