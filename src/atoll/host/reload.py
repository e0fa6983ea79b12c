"""`up --reload`: a service whose files change is derived and replaced; nothing else restarts.

A change that does not import or breaks a rule is told, and what runs goes on running.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.errors import AtollError
from atoll.host.contracts import check
from atoll.system.contract import Contract
from atoll.system.files import service_files
from atoll.system.manifest import ServiceSpec

if TYPE_CHECKING:
    from atoll.host.host import Host

__all__ = ["Reloader"]

_DEBOUNCE_MS = 50


class Reloader:
    """Watches the folders of all services that have one, until it is cancelled."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._specs = [spec for spec in host.system.services if spec.kind != "simulator" and spec.folder.is_dir()]

    async def watch(self) -> None:
        from watchfiles import awatch

        folders = [folder for spec in self._specs for folder in _folders(spec)]
        if not folders:
            return
        async for changes in awatch(*folders, debounce=_DEBOUNCE_MS, step=10, recursive=True):
            for spec in self._touched(Path(path) for _change, path in changes):
                await self._change(spec)

    def _touched(self, paths: Iterable[Path]) -> list[ServiceSpec]:
        changed = list(paths)
        present = [self._host.spec(spec.name) for spec in self._specs]
        return [spec for spec in present if any(_counts(spec.folder, path) for path in changed)]

    async def _change(self, spec: ServiceSpec) -> None:
        host = self._host
        try:
            contract = await host.deriver.contract(spec)
            check(host.system, {**host.contracts, spec.name: contract})
            await self._replace(spec, contract)
        except AtollError as error:
            host.say(f"{spec.name} is not reloaded; what ran before goes on:\n{error}")

    async def _replace(self, spec: ServiceSpec, contract: Contract) -> None:
        """Permissions first for old and new, then the replicas, then permissions for the new alone."""
        host, name = self._host, spec.name
        differs = host.contracts[name].digest != contract.digest
        if contract.database != host.contracts[name].database:
            host.say(f"{name} has another kind of database now: restart the system with `atoll down` and `atoll up`")
            return
        host.contracts[name] = contract
        if differs:
            await host.bus.widen(host.contracts)
            await host.bus.announce(host.contracts)
        if name not in host.commands.lent and name not in host.down:
            await host.replicas.roll(name, host.say)
        if differs:
            await host.bus.narrow(host.contracts)
            await host.bus.announce(host.contracts)
        host.say(f"{name} is reloaded{'; its contract changed' if differs else ''}")


def _folders(spec: ServiceSpec) -> list[Path]:
    """The canary's too, which becomes the service's when it is promoted."""
    return [spec.folder, *([spec.canary.folder] if spec.canary else [])]


def _counts(folder: Path, path: Path) -> bool:
    """A file that the service is made of, or one of them that is gone."""
    with suppress(ValueError):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") or part in ("__pycache__", "node_modules", "tests") for part in inside.parts)
        return not hidden and (not path.exists() or path in set(service_files(folder)))
    return False
