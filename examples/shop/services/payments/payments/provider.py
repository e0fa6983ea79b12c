"""The card provider: somebody else's system. Whatever is asked twice under one key happens there once."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, json

from atoll import Outage

if TYPE_CHECKING:
    import httpx

__all__ = ["CardProvider", "Charge", "ProviderRefusal", "Receipt"]


class Charge(Struct, frozen=True):
    """What to charge. `reference` is what both sides know it by."""

    reference: str
    amount: Decimal
    currency: str
    method: str


class Receipt(Struct, frozen=True):
    """The provider's answer. A declined charge moved no money."""

    id: str
    status: Literal["approved", "declined"]


class ProviderRefusal(Exception):
    """The provider understood and won't: asking again the same way does not help."""


class CardProvider:
    """Raises Outage while the provider can't be reached or is in trouble: the event is tried again, for ever."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def charge(self, key: str, charge: Charge) -> Receipt:
        return await self._ask("/charges", key, json.encode(charge))

    async def refund(self, key: str, charge_id: str) -> Receipt:
        """All of a charge. The key is the charge's own, so however often it is asked, it is given back once."""
        return await self._ask("/refunds", f"{key}/refund", json.encode({"charge": charge_id}))

    async def _ask(self, path: str, key: str, body: bytes) -> Receipt:
        import httpx

        headers: Mapping[str, str] = {"idempotency-key": key, "content-type": "application/json"}
        try:
            answer = await self._http.post(path, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise Outage(f"the card provider can't be reached: {type(error).__name__}") from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Outage(f"the card provider is in trouble: it answered {answer.status_code}")
        if answer.status_code >= 400:
            raise ProviderRefusal(f"the card provider answered {answer.status_code} to {path}: {answer.text[:500]}")
        return json.decode(answer.content, type=Receipt)
