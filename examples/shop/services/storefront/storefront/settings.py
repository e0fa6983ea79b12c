"""What the manifest or the environment may change."""

from __future__ import annotations

from atoll import Settings
from atoll.errors import SystemMistake

__all__ = ["DEMO_SECRET", "StorefrontSettings"]

DEMO_SECRET = "only-for-trying-the-shop-on-one-machine"  # refused anywhere else


class StorefrontSettings(Settings):
    """`session_secret` signs the visitors' cookies. `atoll_…` are what every process is told by whoever starts it."""

    session_secret: str
    gateway_timeout_s: float = 8.0
    atoll_gateway_url: str = "http://localhost:8080"
    atoll_mode: str = "deployed"

    def checked(self) -> StorefrontSettings:
        """Raises SystemMistake when the demo's secret would sign real sessions."""
        if self.session_secret == DEMO_SECRET and self.atoll_mode != "local":
            raise SystemMistake(
                "session_secret is the one from the example, which everybody knows",
                hint="set SESSION_SECRET to something random: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
        return self
