"""What the shop relies on at its card provider."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from cardprovider.app import provider
from cardprovider.ledger import Ledger

ASKED = {"reference": "order-1", "amount": "12.50", "currency": "EUR", "method": "card-ok"}


def client(path: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(provider(Ledger(path))), base_url="http://cards")


async def post(cards: httpx.AsyncClient, path: str, key: str, body: dict[str, str]) -> httpx.Response:
    return await cards.post(path, json=body, headers={"Idempotency-Key": key})


async def test_a_repeated_charge_is_made_once_and_survives_a_restart(tmp_path: Path) -> None:
    async with client(tmp_path / "ledger") as cards:
        first = await post(cards, "/charges", "k1", ASKED)
    async with client(tmp_path / "ledger") as cards:
        second = await post(cards, "/charges", "k1", ASKED)
        entries = (await cards.get("/ledger")).json()["entries"]
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json() == entries[0]
    assert len(entries) == 1
    assert entries[0]["status"] == "approved"


async def test_a_charge_is_given_back_once(tmp_path: Path) -> None:
    async with client(tmp_path / "ledger") as cards:
        charge = (await post(cards, "/charges", "k1", ASKED)).json()
        answers = [await post(cards, "/refunds", "k2", {"charge": charge["id"]}) for _ in range(2)]
        other = await post(cards, "/refunds", "k3", {"charge": charge["id"]})
        entries = (await cards.get("/ledger")).json()["entries"]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert other.status_code == 409
    assert [(entry["kind"], entry["amount"]) for entry in entries] == [("charge", "12.50"), ("refund", "12.50")]


async def test_a_declined_card_is_not_charged_and_has_nothing_to_give_back(tmp_path: Path) -> None:
    async with client(tmp_path / "ledger") as cards:
        charge = (await post(cards, "/charges", "k1", {**ASKED, "method": "card-declined"})).json()
        refund = await post(cards, "/refunds", "k2", {"charge": charge["id"]})
    assert charge["status"] == "declined"
    assert refund.status_code == 409


@pytest.mark.parametrize("body", [{}, {**ASKED, "amount": "0.00"}, {**ASKED, "amount": "-1.00"}, {**ASKED, "method": "cheque"}])
async def test_a_faulty_charge_is_refused(tmp_path: Path, body: dict[str, str]) -> None:
    async with client(tmp_path / "ledger") as cards:
        assert (await post(cards, "/charges", "k1", body)).status_code == 422
        assert (await cards.post("/charges", json=ASKED)).status_code == 400
        assert (await cards.get("/ledger")).json() == {"entries": []}


async def test_a_key_stands_for_one_request(tmp_path: Path) -> None:
    async with client(tmp_path / "ledger") as cards:
        await post(cards, "/charges", "k1", ASKED)
        assert (await post(cards, "/charges", "k1", {**ASKED, "amount": "13.00"})).status_code == 422
