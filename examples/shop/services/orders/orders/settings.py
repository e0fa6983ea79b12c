"""What the manifest or the environment may change."""

from __future__ import annotations

from decimal import Decimal

from atoll import Settings

__all__ = ["OrderSettings"]


class OrderSettings(Settings):
    """`vat_rate` is the share of tax on top of a net price: 0.10 is ten per cent."""

    vat_rate: Decimal = Decimal("0.10")
