"""The example shop, run by the real command on real engines, and customers at its gateway."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.system import ROOT, RunningSystem, running
from tests.support.waiting import until_sync

__all__ = ["Customer", "Shop", "customer", "shop"]

SHOP = ROOT / "examples" / "shop"


@dataclass(frozen=True)
class Shop:
    """A running shop."""

    system: RunningSystem

    @property
    def url(self) -> str:
        return self.system.url

    def client(self, token: str = "") -> httpx.Client:
        """An ordinary HTTP client at the gateway. Close it."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=15)

    def token(self, username: str, password: str) -> str:
        form = {"grant_type": "password", "username": username, "password": password}
        answer = httpx.post(f"{self.url}/auth/token", data=form, timeout=15)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def register(self) -> tuple[str, str]:
        """Name and password of somebody new."""
        username, password = f"customer-{secrets.token_hex(4)}", secrets.token_urlsafe(12)
        answer = httpx.post(f"{self.url}/auth/users", json={"username": username, "password": password}, timeout=15)
        assert answer.status_code == 201, answer.text
        assert answer.json()["username"] == username
        return username, password

    def stock(self, sku: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/inventory/{sku}", timeout=15)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def set_stock(self, sku: str, on_hand: int) -> None:
        with self.client(self.token("grace", "demo-only-grace")) as staff:
            answer = staff.put(f"/inventory/{sku}", json={"on_hand": on_hand})
            assert answer.status_code == 200, answer.text

    def ledger(self, order_id: str) -> list[dict[str, Any]]:
        """What the card provider did for an order, in order."""
        port = self.system.processes()["cardprovider-1"]["port"]
        entries = httpx.get(f"http://127.0.0.1:{port}/ledger", timeout=15).json()["entries"]
        return [entry for entry in entries if entry["reference"] == order_id]


@dataclass(frozen=True)
class Customer:
    """Somebody who is signed in. Every method fails the test when the shop does not do its part."""

    shop: Shop
    http: httpx.Client

    def place(self, lines: Mapping[str, int], payment_method: str = "card-ok") -> dict[str, Any]:
        """The order as it was answered: 201, pending."""
        wanted = [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()]
        answer = self.http.post("/orders", json={"lines": wanted, "payment_method": payment_method})
        assert answer.status_code == 201, answer.text
        order = dict(answer.json())
        assert order["status"] == "pending"
        return order

    def order(self, order_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/orders/{order_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def settled(self, order_id: str, timeout_s: float = 15.0) -> dict[str, Any]:
        """The order once it is confirmed or cancelled."""

        def ended() -> dict[str, Any] | None:
            order = self.order(order_id)
            return order if order["status"] != "pending" else None

        return until_sync(ended, timeout_s, f"order {order_id} has ended") or {}


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Shared by the whole run: leave it as you found it."""
    with running(SHOP, tmp_path_factory.mktemp("shop") / "shop") as system:
        yield Shop(system)


@pytest.fixture
def customer(shop: Shop) -> Iterator[Customer]:
    """Somebody new."""
    with shop.client(shop.token(*shop.register())) as http:
        yield Customer(shop, http)
