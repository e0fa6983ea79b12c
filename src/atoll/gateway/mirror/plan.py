"""What a mirror does with one sample: whom it asks, at which path, under which operation it counts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from atoll.errors import Malformed
from atoll.gateway.ir import Endpoint
from atoll.gateway.known import Known
from atoll.gateway.mirror.differences import Rules
from atoll.gateway.mirror.samples import Request
from atoll.gateway.offers import deployed
from atoll.gateway.paths import Path

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """`prefixes` are those of the first and the second service; `templates` are their operations, the most specific first;
    `paths` is what the manifest says is compared.
    """

    name: str
    first: str
    second: str
    prefixes: tuple[str, str]
    replicas: tuple[Endpoint, ...]
    templates: tuple[Path, ...]
    paths: tuple[str, ...]
    rules: Rules

    @classmethod
    def of(cls, known: Known, name: str) -> Plan:
        """Raises Malformed when the system has no such mirror, as a moment after a change."""
        services = deployed(known.system)
        entry = known.system.mirrors.get(name)
        if entry is None or entry.primary not in services or entry.second not in services:
            raise Malformed(f"there is no mirror {name!r}")
        return cls(
            name=name,
            first=entry.primary,
            second=entry.second,
            prefixes=(services[entry.primary].prefix, services[entry.second].prefix),
            replicas=tuple(Endpoint.parse(one.address) for one in known.present if one.service == entry.second and not one.tls),
            templates=(*_templates(known, entry.second), *_templates(known, entry.primary)),
            paths=entry.paths,
            rules=Rules.parse(entry.ignore),
        )

    def path(self, path: str) -> str:
        """As the second service has it: with its prefix in place of the first's, unless it is below its prefix already."""
        first, second = self.prefixes
        if first == "/" or _below(path, second) or not _below(path, first):
            return path
        return second.rstrip("/") + path.removeprefix(first)

    def operation(self, request: Request) -> str:
        """`GET /reviews/{sku}` of either contract, or else the prefix that it is below, `GET /reviews/*`: names that clients
        can't make up, so that they are few.
        """
        asked, path = request.path.partition("?")[0], self.path(request.path).partition("?")[0]
        fits = next((one for one in self.templates if one.matches(path) or one.matches(asked)), None)
        return f"{request.method} {fits or self._around(asked)}"

    def _around(self, asked: str) -> str:
        prefixes = [one for one in (*self.paths, *self.prefixes) if _below(asked, one)]
        return f"{max(prefixes, key=len, default='').rstrip('/')}/*"


def _templates(known: Known, service: str) -> Iterable[Path]:
    paths = {
        Path(operation.path)
        for contract in known.contracts.values()
        if contract.service == service
        for operation in contract.operations
    }
    return sorted(paths, key=lambda path: path.precedence)


def _below(path: str, prefix: str) -> bool:
    bare = path.partition("?")[0]
    return prefix == "/" or bare == prefix or bare.startswith(f"{prefix}/")
