"""What the controller has left on disk, for who wants to know without asking it: it may be dead, and the bus too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from atoll.errors import AtollError, SystemMistake
from atoll.gateway.ir import Endpoint, Gateway, Listener
from atoll.gateway.known import Known
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders

__all__ = ["Saved", "applied"]


@dataclass(frozen=True)
class Saved:
    """`known` is what the controller knew last, `admin` where Envoy answers questions."""

    folders: Folders
    known: Known
    listener: Listener
    admin: Endpoint

    @classmethod
    def read(cls, root: Path) -> Saved | None:
        """None where no gateway has ever been. Raises SystemMistake for files that can't be read."""
        folders = Folders(str(root.absolute()))
        if not Path(folders.inputs).exists():
            return None
        try:
            return cls(
                folders,
                Known.parse(Path(folders.inputs).read_bytes()),
                msgspec.json.decode(Path(folders.listener).read_bytes(), type=Listener),
                _admin(Path(folders.bootstrap)),
            )
        except (OSError, AtollError, msgspec.MsgspecError, KeyError, TypeError) as error:
            hint = "`atoll up` writes it anew"
            raise SystemMistake(f"the gateway's record can't be read: {error}", where=str(root), hint=hint) from error

    @property
    def gateway(self) -> Gateway:
        """What Envoy is meant to do."""
        return translate(self.known, self.listener)


def applied(root: Path) -> dict[str, Any]:
    """The controller's last report (`applied.json`), empty without one."""
    try:
        return dict(msgspec.json.decode((root / "applied.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _admin(bootstrap: Path) -> Endpoint:
    address = msgspec.json.decode(bootstrap.read_bytes())["admin"]["address"]["socket_address"]
    return Endpoint(address["address"], address["port_value"])
