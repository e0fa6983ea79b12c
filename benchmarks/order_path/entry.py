"""atoll as one more peer of the harness: runs under the harness's own Python, which has no atoll in it.

`prepare` brings the system up once with `atoll up`, so that contracts, databases, keys and a user exist, reads from /proc how
each process was started, and takes it down. From then on the harness starts, kills and measures those same processes like any
other peer's. The token is atoll's own, ES256.

    python entry.py HARNESS atoll-sqlite --tests cold+event,load,faults,finale
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ATOLL = HERE.parent.parent / ".venv" / "bin" / "atoll"
HARNESS = Path(sys.argv[1]).resolve()
sys.path.insert(0, str(HARNESS))

import bench  # noqa: E402
import peers  # noqa: E402

SYSTEM = Path(peers.WORK) / "data" / "system"
_KEPT = re.compile(r"^(ATOLL_|ENVOY_|PYTHON|PATH$|HOME$|LANG$|LC_ALL$|TZ$)")


class Token:
    """The token in force, wherever the harness took a default from its own."""

    @staticmethod
    def use(token: str) -> None:
        bench.TOK = token
        bench.raw.__defaults__ = (token, b"")
        bench.wrk.__defaults__ = (token,)


def entry(database: str):  # type: ignore[no-untyped-def]  # the harness is untyped
    def make(replicas: int) -> dict[str, object]:
        procs: dict[str, dict[str, object]] = {}
        spec: dict[str, object] = {"procs": procs, "roles": {}, "versions": "atoll 0.1.0"}
        spec["prepare"] = [lambda: prepare(database, replicas, spec)]
        spec["order_db"], spec["inv_db"] = dsn(database, "orders"), dsn(database, "inventory")
        return spec

    return make


def prepare(database: str, replicas: int, spec: dict) -> None:  # type: ignore[type-arg]
    copy_system(database, replicas)
    subprocess.run([ATOLL, "up", "--detach"], cwd=SYSTEM, check=True, stdout=subprocess.DEVNULL)
    try:
        Token.use(token())
        state = json.loads((SYSTEM / ".atoll" / "state.json").read_text())
        spec["procs"].update(in_order({one["name"]: started_as(one) for one in state["processes"]}))
        orders = [one["name"] for one in state["processes"] if one["service"] == "orders" and one["kind"] == "service"]
        inventory = [one["name"] for one in state["processes"] if one["service"] == "inventory" and one["kind"] == "service"]
        bus = [one["name"] for one in state["processes"] if one["kind"] == "bus"]
        spec["roles"].update(order=orders, inventory=inventory, broker=bus)
        spec["order_db"], spec["inv_db"] = dsn(database, "orders"), dsn(database, "inventory")
    finally:
        subprocess.run([ATOLL, "down"], cwd=SYSTEM, check=True, stdout=subprocess.DEVNULL)


def copy_system(database: str, replicas: int) -> None:
    shutil.rmtree(SYSTEM, ignore_errors=True)
    shutil.copytree(HERE / "system", SYSTEM, ignore=shutil.ignore_patterns(".atoll", "__pycache__"))
    for kind in SYSTEM.glob("services/*/*/kind.py"):
        kind.write_text(kind.read_text().replace('"sqlite"\n', f'"{database}"\n'))
    manifest = SYSTEM / "atoll.toml"
    text = manifest.read_text().replace("[services.orders]", f"[services.orders]\nreplicas = {replicas}")
    manifest.write_text(text + f'\n[gateway]\nport = {peers.GW}\npublic_url = "http://127.0.0.1:{peers.GW}"\n')


def token() -> str:
    def ask(path: str, body: bytes, media: str) -> dict:  # type: ignore[type-arg]
        request = urllib.request.Request(f"http://127.0.0.1:{peers.GW}{path}", body, {"content-type": media})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    who = {"username": "bench", "password": "correct horse battery"}
    ask("/auth/users", json.dumps(who).encode(), "application/json")
    form = urllib.parse.urlencode({"grant_type": "password", **who}).encode()
    return ask("/auth/token", form, "application/x-www-form-urlencoded")["access_token"]  # type: ignore[no-any-return]


def started_as(process: dict) -> dict[str, object]:  # type: ignore[type-arg]
    """How the host started this process, as the harness wants it told."""
    proc = Path(f"/proc/{process['pid']}")
    argv = proc.joinpath("cmdline").read_bytes().decode().rstrip("\0").split("\0")
    variables = dict(
        entry.split("=", 1) for entry in proc.joinpath("environ").read_bytes().decode().split("\0") if "=" in entry
    )
    uid = proc.stat().st_uid
    if uid != os.geteuid():
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *argv]
    kept = {name: value for name, value in variables.items() if _KEPT.match(name)}
    if kept.get("ATOLL_LISTEN", "").startswith("fd:"):
        kept["ATOLL_LISTEN"] = kept["ATOLL_ADDRESS"]
    infra = process["kind"] in ("bus", "database")
    return {"cmd": argv, "env": kept, "cwd": os.readlink(proc / "cwd"), "infra": infra, "port": process["port"]}


def in_order(procs: dict[str, dict]) -> dict[str, dict]:  # type: ignore[type-arg]
    return dict(sorted(procs.items(), key=lambda item: not item[1]["infra"]))


def dsn(database: str, service: str) -> str:
    if database == "sqlite":
        return f"sqlite:{SYSTEM}/.atoll/data/{service}/{service}.sqlite"
    if not SYSTEM.is_dir():
        return ""  # `prepare` makes it, and asks again
    answer = subprocess.run([ATOLL, "env", service, "--json"], cwd=SYSTEM, capture_output=True, text=True)
    return json.loads(answer.stdout)["ATOLL_DATABASE_URL"] if answer.returncode == 0 else ""


for kind in ("sqlite", "postgresql"):
    peers.PEERS[f"atoll-{kind}"] = entry(kind)

if __name__ == "__main__":
    del sys.argv[1]
    bench.main()
