"""What the manifest or the environment may change."""

from __future__ import annotations

from atoll import Settings

__all__ = ["InventorySettings"]


class InventorySettings(Settings):
    """`initial_stock` is what a product has on hand when the catalog adds it."""

    initial_stock: int = 100
