"""What the manifest or the environment may change."""

from __future__ import annotations

from atoll import Settings

__all__ = ["CatalogSettings"]


class CatalogSettings(Settings):
    """`sample_products`: an empty catalog begins with twenty products to try the shop with."""

    sample_products: bool = False
