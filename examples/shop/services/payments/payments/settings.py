"""What the manifest or the environment may change."""

from __future__ import annotations

from atoll import Settings

__all__ = ["PaymentSettings"]


class PaymentSettings(Settings):
    """`card_provider_timeout_s` is short: two calls have to fit into an event's time budget."""

    card_provider_url: str
    card_provider_timeout_s: float = 3.0
