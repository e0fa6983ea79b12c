"""Where everything of a running system lies: `.atoll/` in its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import SystemMistake

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths only; `make` creates the folders."""

    system: Path

    @property
    def root(self) -> Path:
        return self.system / ".atoll"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def ports(self) -> Path:
        return self.root / "ports.json"

    @property
    def versions(self) -> Path:
        return self.root / "versions.json"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.json"

    @property
    def streams(self) -> Path:
        return self.root / "streams.json"

    @property
    def targets(self) -> Path:
        return self.root / "prometheus-targets.json"

    @property
    def control(self) -> Path:
        return self.root / "control.sock"

    @property
    def contracts(self) -> Path:
        return self.root / "contracts"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def gateway(self) -> Path:
        return self.root / "gateway"

    @property
    def tls(self) -> Path:
        return self.root / "tls"

    @property
    def mirror(self) -> Path:
        return self.root / "mirror"

    @property
    def nats_config(self) -> Path:
        return self.root / "nats.conf"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def service_state(self, service: str) -> Path:
        return self.root / "state" / service

    def service_data(self, service: str) -> Path:
        return self.data / service

    def sqlite(self, service: str) -> Path:
        return self.service_data(service) / f"{service}.sqlite"

    def make(self, services: tuple[str, ...]) -> None:
        """Others may pass through, because PostgreSQL runs as another user under root; they may list and read nothing.

        Raises SystemMistake: another user's, a read-only or full disk.
        """
        try:
            self._make(services)
        except OSError as error:
            raise SystemMistake(
                f"`.atoll` can't be written: {error.strerror}",
                where=str(error.filename or self.root),
                hint="run atoll as the user who owns it, on a disk that can be written",
            ) from None

    def _make(self, services: tuple[str, ...]) -> None:
        self.root.mkdir(exist_ok=True)
        os.chmod(self.root, 0o711)
        for folder in (self.contracts, self.logs, self.data, self.gateway, *map(self.service_state, services)):
            folder.mkdir(parents=True, exist_ok=True)
        for service in services:
            self.service_data(service).mkdir(exist_ok=True)
