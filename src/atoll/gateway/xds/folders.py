"""Where the gateway's files are. One directory per subscription: a rename in a watched directory makes Envoy read
again everything that it takes from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.gateway.xds.typed import Json

__all__ = ["BINARY", "PROOF", "SECRETS", "TYPES", "Folders"]

# In the order in which Envoy must find them: a file that is referred to must exist first.
TYPES = ("ecds", "revocations", "cds", "rds", "lds")
# What new routes are tried with: a subscription too, but nothing that anybody uses.
PROOF = "proof"
# Those that are large with many services; Envoy tells the form of a file by the end of its name.
BINARY = frozenset({"rds", PROOF})
# What is secret, or as old as what is: each of these files has a directory too, and is there before any of the above.
SECRETS = ("server_certificate", "upstream_certificate", "upstream_authorities")


@dataclass(frozen=True, slots=True)
class Folders:
    """`root` is absolute: Envoy's working directory is anybody's."""

    root: str

    @property
    def bootstrap(self) -> str:
        return f"{self.root}/bootstrap.json"

    @property
    def access_log(self) -> str:
        return f"{self.root}/access.log"

    @property
    def applied(self) -> str:
        return f"{self.root}/applied.json"

    @property
    def inputs(self) -> str:
        return f"{self.root}/inputs.json"

    @property
    def listener(self) -> str:
        return f"{self.root}/listener.json"

    def directory(self, kind: str) -> str:
        return f"{self.root}/{kind}"

    def file(self, kind: str) -> str:
        return f"{self.root}/{kind}/{kind}.{'pb' if kind in BINARY else 'json'}"

    def source(self, kind: str) -> Json:
        """An xDS config source: the file, watched through its directory so that a rename is seen."""
        return {
            "path_config_source": {"path": self.file(kind), "watched_directory": {"path": self.directory(kind)}},
            "resource_api_version": "V3",
        }
