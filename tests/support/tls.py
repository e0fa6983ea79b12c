"""An authority for tests, and the files that it fills."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from atoll.certificates.authority import Authority
from atoll.certificates.pair import Pair

HOUR = timedelta(hours=1)


@dataclass
class Files:
    """`certificate` and `key` in `folder`, from an authority whose own certificate is in `ca`."""

    folder: Path
    authority: Authority = field(default_factory=lambda: Authority.make("a test", datetime.now(UTC), HOUR))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ca.write_bytes(self.authority.pair.chain)

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def issue(
        self,
        *names: str,
        usage: Literal["server", "client"] = "server",
        now: datetime | None = None,
        lifetime: timedelta = HOUR,
    ) -> Pair:
        return self.authority.issue(names or ("localhost", "127.0.0.1"), usage, now or datetime.now(UTC), lifetime)

    def fill(self, *names: str, usage: Literal["server", "client"] = "server") -> Pair:
        """A new pair in the two files."""
        pair = self.issue(*names, usage=usage)
        pair.save(self.certificate, self.key)
        return pair

    def trusting(self) -> ssl.SSLContext:
        """A client that believes this authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.ca))
