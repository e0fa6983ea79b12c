"""What each service offers and needs, derived from its code in a child process that has no credentials.

A derived contract is kept in `.atoll/contracts/` beside a digest of everything it depends on: the service's files, its
interpreter and atoll's own. While that digest stands nothing is derived again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as File

from atoll.errors import SystemMistake
from atoll.gateway.paths import Path
from atoll.host.guard import wish
from atoll.host.processes import passed
from atoll.system.auth import AUTH_MODULE, auth_kind, auth_service
from atoll.system.contract import Contract, Operation
from atoll.system.files import load_contract, service_files
from atoll.system.manifest import GATEWAY_PATHS, ServiceSpec, System
from atoll.system.plan import AUTH

__all__ = ["Deriver", "check"]

_LATE_S = 5.0
_TIMEOUT_S = 60.0
_ATOLL = File(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Deriver:
    """`folder` is where derived contracts are kept, `variables` the host's environment; `say` is told what takes long."""

    system: System
    folder: File
    variables: Mapping[str, str]
    say: Callable[[str], None]

    async def contract(self, spec: ServiceSpec) -> Contract:
        """The service's contract as its code stands now. Raises SystemMistake: what failed, with file and line."""
        if spec.contract is not None:
            return self._of(spec, load_contract(spec.contract))
        inputs = await asyncio.to_thread(inputs_digest, spec, self._argv(spec))
        cached = self._cached(spec, inputs)
        if cached is not None:
            return cached
        document = await self._describe(spec)
        contract = self._of(spec, Contract.parse(document, where=str(spec.folder)))
        self._keep(spec, inputs, contract)
        return contract

    async def auth(self) -> Contract:
        return await self.contract(auth_service(self.system))

    def _argv(self, spec: ServiceSpec) -> tuple[str, ...]:
        module = ("--module", AUTH_MODULE) if spec.name == AUTH else ()
        return (str(spec.python or sys.executable), "-P", "-m", "atoll.service", "describe", *module)

    def _environment(self, spec: ServiceSpec) -> dict[str, str]:
        own = auth_kind(self.system) if spec.name == AUTH else {}
        return {
            **passed(self.variables),
            **own,
            "PYTHONSAFEPATH": "1",
            "ATOLL_SERVICE": spec.name,
            "ATOLL_FOLDER": str(spec.folder),
        }

    def _of(self, spec: ServiceSpec, contract: Contract) -> Contract:
        if contract.service == spec.name:
            return contract
        hint = f'the folder, the package and Service("{spec.name}") bear one name'
        raise SystemMistake(f"{spec.name} calls itself {contract.service!r}", where=spec.where, hint=hint)

    def _cached(self, spec: ServiceSpec, inputs: str) -> Contract | None:
        try:
            if (self.folder / f"{spec.name}.inputs").read_text() != inputs:
                return None
            return load_contract(self.folder / f"{spec.name}.json")
        except (OSError, SystemMistake):
            return None

    def _keep(self, spec: ServiceSpec, inputs: str, contract: Contract) -> None:
        text = json.dumps(contract.document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for path, content in ((f"{spec.name}.json", text), (f"{spec.name}.inputs", inputs)):
            draft = self.folder / f".{path}.draft"
            draft.write_text(content, "utf-8")
            os.replace(draft, self.folder / path)

    async def _begin(self, spec: ServiceSpec) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *wish().prefix,
            *self._argv(spec),
            cwd=spec.folder,
            env=self._environment(spec),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=wish().between,
        )

    async def _describe(self, spec: ServiceSpec) -> dict[str, object]:
        beginning = asyncio.create_task(self._begin(spec))
        try:
            child = await asyncio.shield(beginning)
        except asyncio.CancelledError:  # a child that has half begun would outlive the loop that waits for its end
            await _end(await beginning)
            raise
        late = asyncio.get_running_loop().call_later(_LATE_S, self.say, f"{spec.name} is still being imported ({spec.folder})")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, err = await child.communicate()
        except TimeoutError:
            hint = "importing a service must not connect, read or wait"
            raise SystemMistake(f"{spec.name} took over {_TIMEOUT_S:g} s to import", where=spec.where, hint=hint) from None
        finally:
            late.cancel()
            await _end(child)
        if child.returncode or not out:
            raise _failure(spec, err.decode("utf-8", "replace"), child.returncode or 0)
        return dict(json.loads(out))


async def _end(child: asyncio.subprocess.Process) -> None:
    """Also when what waits for it is cancelled: asyncio complains of one that is left when its loop closes."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()


def _failure(spec: ServiceSpec, errors: str, code: int) -> SystemMistake:
    """What the child said; it names file and line itself, unless atoll is missing in its interpreter."""
    if "No module named atoll" in errors or "No module named 'atoll" in errors:
        hint = f"install it there: {spec.python} -m pip install atoll"
        return SystemMistake(f"the interpreter of {spec.name} has no atoll", where=spec.where, hint=hint)
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if line.startswith(f"{spec.name}: ")), -1)
    if start >= 0:
        return SystemMistake("\n".join(lines[start:]))
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    told = "".join(f"\n  {line}" for line in lines[-12:])
    detail = f"the process that imports {spec.name} to learn its contract was {ended}{told}"
    return SystemMistake(detail, where=spec.where, hint="importing a service must not end its process")


def inputs_digest(spec: ServiceSpec, argv: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((argv, _stamps(File(argv[0])), _atoll_stamp())).encode())
    for path in service_files(spec.folder):
        with suppress(OSError):
            digest.update(str(path.relative_to(spec.folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _atoll_stamp() -> list[tuple[int, int]]:
    """Changes whenever the part of atoll that derives contracts does."""
    rooms = [_ATOLL, _ATOLL / "service", _ATOLL / "system"]
    return [stamp for room in rooms for path in sorted(room.glob("*.py")) for stamp in _stamps(path)]


def _stamps(path: File) -> list[tuple[int, int]]:
    with suppress(OSError):
        found = path.stat()
        return [(found.st_mtime_ns, found.st_size)]
    return []


def check(system: System, contracts: Mapping[str, Contract]) -> None:
    """What no service can see alone: who owns its paths. Raises SystemMistake that names both sides."""
    for name, contract in contracts.items():
        spec = auth_service(system) if name == AUTH else system.service(name)
        owners = _owners(system) if name not in system.seconds else [spec]
        _check_shapes(spec, contract)
        for operation in contract.operations:
            _check_owner(spec, operation, owners)


def _owners(system: System) -> list[ServiceSpec]:
    """Who gets requests of clients: not those that only a mirror asks, so their paths may be another's."""
    routed = [spec for spec in system.services if spec.kind != "simulator" and spec.name not in system.seconds]
    return [*routed, auth_service(system)]


def _check_shapes(spec: ServiceSpec, contract: Contract) -> None:
    """Templates that differ in the names of parameters only match the same paths, and one of them would never be reached."""
    seen: dict[tuple[str, str], Operation] = {}
    for one in contract.operations:
        other = seen.setdefault((one.method, Path(one.path).shape), one)
        if other is not one:
            both = f"{other.path} ({other.id}) and {one.path} ({one.id})"
            raise SystemMistake(
                f"{spec.name} offers {one.method} {both}: that is one path", where=spec.where, hint="remove one of them"
            )


def _check_owner(spec: ServiceSpec, operation: Operation, owners: Sequence[ServiceSpec]) -> None:
    path, what = Path(operation.path), f"{spec.name} offers {operation.method} {operation.path}"
    if any(path.under(own) for own in GATEWAY_PATHS):
        raise SystemMistake(f"{what}, which is the gateway's own", where=spec.where, hint="move it to another path")
    owner = max((one for one in owners if path.under(one.prefix)), key=lambda one: len(one.prefix), default=None)
    whose = f", which belongs to {owner.name} by its prefix {owner.prefix} ({owner.where})" if owner else ""
    if not path.under(spec.prefix):
        hint = f'move it below {spec.prefix}, or grant another prefix: [services.{spec.name}] prefix = "/…"'
        raise SystemMistake(f"{what}, outside its prefix {spec.prefix}{whose}", where=spec.where, hint=hint)
    if owner and owner.name != spec.name:
        hint = "paths under another service's prefix are that service's"
        raise SystemMistake(f"{what}{whose}", where=spec.where, hint=hint)
