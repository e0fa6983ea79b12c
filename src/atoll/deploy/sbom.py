"""What an image is made of, as CycloneDX 1.5 JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from atoll.deploy.images import Image

__all__ = ["Contents", "document"]


@dataclass(frozen=True, slots=True)
class Contents:
    """`wheels`: SHA-256 by file name; `debian`: packages of the base image, `name version`; `epoch`: its moment (s)."""

    wheels: Mapping[str, str]
    debian: Iterable[str]
    epoch: int
    atoll: str


def document(image: Image, contents: Contents) -> bytes:
    """The same bytes for the same input."""
    moment = datetime.fromtimestamp(contents.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": moment,
            "component": {"type": "container", "bom-ref": image.name, "name": image.name, "version": image.version},
        },
        "components": [
            _component("atoll", contents.atoll, "pypi"),
            *(_wheel(name, digest) for name, digest in sorted(contents.wheels.items())),
            *(_component(name, version, "deb/debian") for name, version in map(str.split, sorted(contents.debian))),
        ],
    }
    return json.dumps(made, indent=1).encode() + b"\n"


def _wheel(file: str, digest: str) -> dict[str, Any]:
    name, version = file.split("-")[:2]
    return {
        **_component(name.replace("_", "-").lower(), version, "pypi"),
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _component(name: str, version: str, kind: str) -> dict[str, Any]:
    """A package URL is its identity (purl)."""
    purl = f"pkg:{kind}/{quote(name, safe='.-_+')}@{quote(version, safe='.-_+')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
