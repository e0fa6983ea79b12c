"""An entry of the registry: the bucket `registry`, key `<service>.<replica>`."""

from __future__ import annotations

import msgspec

from atoll.bus.ports import Received

__all__ = ["NOBODY_HEARD_S", "STREAM", "Replica", "canaries", "on_trial", "parse", "removal", "subject"]

STREAM = "KV_registry"
NOBODY_HEARD_S = 15.0
"""So long without a beat of anybody, three beats, is the bus's silence and nobody's own: then all are given time anew. Clients
stay connected with servers that have lost each other, so the first who is heard again would make all others look gone.
"""
_PREFIX = "$KV.registry."
_REMOVALS = (b"KV-Operation: DEL", b"KV-Operation: PURGE")


class Replica(msgspec.Struct, frozen=True):
    """One running process of a service. `replica` is its slot, for successors too; `incarnation` is this process's own.

    `beat` is when it last said that it runs (epoch s, its own clock). `tls`: it takes nothing but TLS, from its gateway alone.
    """

    service: str
    replica: str
    address: str
    digest: str = ""
    version: str = ""
    incarnation: str = ""
    beat: float = 0.0
    tls: bool = False

    @property
    def key(self) -> str:
        """`orders.orders-1`."""
        return f"{self.service}.{self.replica}"

    @property
    def canary(self) -> bool:
        """Whether it tries another version than the service's: its slot's name says so."""
        return self.replica.startswith(f"{canaries(self.service)}-")

    def same_process(self, other: Replica) -> bool:
        """Whether both say the same but for the moment."""
        return msgspec.structs.replace(self, beat=0.0) == msgspec.structs.replace(other, beat=0.0)


def canaries(service: str) -> str:
    """What a service's canaries are called, as a group."""
    return f"{service}-canary"


def on_trial(service: str) -> str:
    """What the gateway calls the same group: as no service can be called."""
    return f"{service}@canary"


def subject(key: str) -> str:
    """Where the entry of `key` is written."""
    return _PREFIX + key


def removal(received: Received) -> bool:
    """True when this message says that the entry is gone."""
    return any(mark in received.headers for mark in _REMOVALS)


def parse(received: Received) -> Replica | None:
    """The entry, None when it can't be read or names another service or slot than its key: only the key is guarded."""
    try:
        found = msgspec.json.decode(received.body, type=Replica)
    except msgspec.MsgspecError:
        return None
    return found if subject(found.key) == received.subject and found.address else None
