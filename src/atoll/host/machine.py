"""What every part of the host shares: where things lie, ports, secrets, the supervisor, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from atoll.host.layout import Layout
from atoll.host.ports import Ports
from atoll.host.supervise import Supervisor
from atoll.host.versions import Versions
from atoll.provision.secrets import Secrets
from atoll.system.manifest import System

__all__ = ["Machine", "Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """How `up` was asked. `excluded` services get everything but replicas; `tls` needs no [gateway.tls] in the manifest."""

    isolated: bool = False
    reload: bool = False
    frozen: bool = False
    tls: bool = False
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Machine:
    """`variables` is the host's own environment, read once. `say` takes one line for a person."""

    system: System
    layout: Layout
    ports: Ports
    secrets: Secrets
    versions: Versions
    supervisor: Supervisor
    variables: Mapping[str, str]
    say: Callable[[str], None]
