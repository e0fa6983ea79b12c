"""How things look: templates, money, moments, and a picture for every product."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from markupsafe import Markup

__all__ = ["Look"]

_HERE = Path(__file__).parent
_SIGNS = {"EUR": "€", "USD": "$", "GBP": "£"}
_REASONS = {
    "out_of_stock": "There is not enough of it in stock. Nothing was charged.",
    "payment_declined": "The card was declined. Nothing was charged.",
    "cancelled_by_customer": "You cancelled it. If your card had been charged, the money is on its way back.",
}


class Look:
    """Renders templates; everything that comes from outside is escaped. `asset` gives the URL of style, script and sign."""

    def __init__(self, asset: Callable[[str], str]) -> None:
        import jinja2

        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(money=money, moment=moment, reason=reason)
        self._environment.globals.update(picture=picture, asset=asset)

    def render(self, template: str, **values: Any) -> str:
        return self._environment.get_template(template).render(**values)


def money(amount: Decimal, currency: str) -> str:
    """€1,234.50; a currency without a sign of its own stands behind."""
    sign = _SIGNS.get(currency)
    return f"{sign}{amount:,.2f}" if sign else f"{amount:,.2f} {currency}"


def moment(time: datetime) -> str:
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M} UTC"


def reason(code: str | None) -> str:
    return _REASONS.get(code or "", "It could not be fulfilled.")


def picture(sku: str) -> Markup:
    """An abstract lagoon, the same for the same SKU: the catalog has no photographs."""
    seed = hashlib.sha256(sku.encode()).digest()
    hue = 160 + seed[0] % 50 if seed[1] % 3 else 22 + seed[0] % 16
    sun_x, sun_y, radius = 40 + seed[2] % 120, 34 + seed[3] % 40, 16 + seed[4] % 14
    waves = "".join(_wave(seed, row, hue) for row in range(4))
    return Markup(  # numbers only
        f'<svg class="picture" viewBox="0 0 200 150" preserveAspectRatio="xMidYMid slice" aria-hidden="true">'
        f'<rect width="200" height="150" fill="hsl({hue} 34% 88%)"/>'
        f'<circle cx="{sun_x}" cy="{sun_y}" r="{radius}" fill="hsl({14 + seed[18] % 34} 68% 76%)"/>{waves}</svg>'
    )


def _wave(seed: bytes, row: int, hue: int) -> str:
    top = 70 + row * 20
    crest, trough = 6 + seed[5 + row] % 14, 4 + seed[9 + row] % 12
    middle = 80 + seed[13 + row] % 50
    return (
        f'<path d="M0 {top} C {middle * 0.3:.0f} {top - crest}, {middle * 0.6:.0f} {top - crest}, {middle} {top} '
        f'S {middle + (200 - middle) * 0.6:.0f} {top + trough}, 200 {top - trough // 2} V150 H0 Z" '
        f'fill="hsl({hue + row * 5} {30 + row * 5}% {76 - row * 11}%)"/>'
    )
