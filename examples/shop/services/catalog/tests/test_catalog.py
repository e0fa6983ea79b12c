"""What catalog does: with a real database, and events in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from catalog.events import PriceChanged, ProductAdded, ProductRetired
from catalog.samples import SAMPLES, take_in_samples
from catalog.service import service
from catalog.settings import CatalogSettings

from atoll.testing import UnderTest, under_test

MUG = {"sku": "mug", "name": "Enamel mug", "price": "12.50", "description": "Blue rim."}


@pytest.fixture
async def catalog() -> AsyncIterator[UnderTest]:
    async with under_test(service) as catalog:
        yield catalog


def staff(catalog: UnderTest) -> Any:
    return catalog.as_user("grace", scopes=["catalog:write"])


async def added(catalog: UnderTest, **fields: Any) -> dict[str, Any]:
    answer = await staff(catalog).post("/catalog/products", json={**MUG, **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def skus(catalog: UnderTest, **query: Any) -> list[str]:
    answer = await catalog.client.get("/catalog/products", params=query)
    assert answer.status_code == 200, answer.text
    return [item["sku"] for item in answer.json()["items"]]


async def test_a_product_that_is_taken_in_is_for_sale_and_everybody_is_told(catalog: UnderTest) -> None:
    product = await added(catalog)

    assert (product["sku"], product["price"], product["currency"]) == ("mug", "12.50", "EUR")
    assert (await catalog.client.get("/catalog/products/mug")).json() == product
    assert (await catalog.client.get("/catalog/products")).json() == {"items": [product], "next": None}
    assert catalog.published == [ProductAdded(sku="mug", name="Enamel mug", price=Decimal("12.50"), currency="EUR")]


async def test_a_sku_is_taken_in_once(catalog: UnderTest) -> None:
    await added(catalog)

    answer = await staff(catalog).post("/catalog/products", json={**MUG, "price": "1.00"})

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert (await catalog.client.get("/catalog/products/mug")).json()["price"] == "12.50"
    assert len(catalog.published) == 1


async def test_of_two_who_take_in_the_same_sku_at_once_one_is_told_of_the_conflict(catalog: UnderTest) -> None:
    calls = (staff(catalog).post("/catalog/products", json={**MUG, "price": f"{n}.00"}) for n in range(1, 6))
    answers = await asyncio.gather(*calls)

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert len(catalog.published) == 1


async def test_a_new_price_is_told_to_everybody(catalog: UnderTest) -> None:
    await added(catalog)

    answer = await staff(catalog).put("/catalog/products/mug", json={"name": "Enamel mug", "price": "13.00"})

    assert answer.status_code == 200
    assert answer.json()["price"] == "13.00"
    assert catalog.published[1:] == [PriceChanged(sku="mug", price=Decimal("13.00"), currency="EUR")]


async def test_a_new_name_alone_changes_no_price(catalog: UnderTest) -> None:
    await added(catalog)

    await staff(catalog).put("/catalog/products/mug", json={"name": "Tin mug", "price": "12.5"})

    assert await skus(catalog, q="tin") == ["mug"]
    assert len(catalog.published) == 1


async def test_prices_changed_at_once_are_told_in_the_order_in_which_they_held(catalog: UnderTest) -> None:
    await added(catalog)

    calls = (staff(catalog).put("/catalog/products/mug", json={"name": "Mug", "price": f"{n}.00"}) for n in range(20, 30))
    answers = await asyncio.gather(*calls)
    await catalog.settle()

    assert {answer.status_code for answer in answers} == {200}
    prices = [event.price for event in catalog.published if isinstance(event, PriceChanged)]
    assert len(prices) == 10
    assert str(prices[-1]) == (await catalog.client.get("/catalog/products/mug")).json()["price"]


async def test_a_retired_product_is_gone_for_good(catalog: UnderTest) -> None:
    await added(catalog)

    assert (await staff(catalog).delete("/catalog/products/mug")).status_code == 204

    assert catalog.published[1:] == [ProductRetired(sku="mug")]
    assert (await catalog.client.get("/catalog/products/mug")).status_code == 404
    assert await skus(catalog) == []
    change = {"name": "Mug", "price": "1.00"}
    assert (await staff(catalog).put("/catalog/products/mug", json=change)).status_code == 409
    assert (await staff(catalog).delete("/catalog/products/mug")).status_code == 409
    assert (await staff(catalog).post("/catalog/products", json=MUG)).status_code == 409
    assert len(catalog.published) == 2


async def test_a_list_may_be_some_seconds_old_and_a_product_never_is(catalog: UnderTest) -> None:
    await added(catalog)
    seen = await catalog.client.get("/catalog/products/mug")
    assert await skus(catalog) == ["mug"]
    known = {"if-none-match": seen.headers["etag"]}
    assert (await catalog.client.get("/catalog/products/mug", headers=known)).status_code == 304

    await added(catalog, sku="bowl", name="Bowl")
    await staff(catalog).put("/catalog/products/mug", json={"name": "Mug", "price": "13.00"})

    assert await skus(catalog) == ["mug"]
    assert (await catalog.client.get("/catalog/products/mug", headers=known)).json()["price"] == "13.00"
    catalog.forget_answers()
    assert await skus(catalog) == ["bowl", "mug"]


async def test_what_was_never_sold_is_not_found(catalog: UnderTest) -> None:
    assert (await catalog.client.get("/catalog/products/unicorn")).status_code == 404
    change = {"name": "Unicorn", "price": "1.00"}
    assert (await staff(catalog).put("/catalog/products/unicorn", json=change)).status_code == 404
    assert (await staff(catalog).delete("/catalog/products/unicorn")).status_code == 404
    assert catalog.published == []


async def test_search_finds_parts_of_words_without_case_and_accents(catalog: UnderTest) -> None:
    await added(catalog, sku="mug", name="Enamel mug", description="Blue rim.")
    await added(catalog, sku="towel", name="Café towel", description="From Normandy.")

    assert await skus(catalog, q="ENAM") == ["mug"]
    assert await skus(catalog, q="cafe norm") == ["towel"]
    assert await skus(catalog, q="blue towel") == []
    assert await skus(catalog, q=".*") == []


async def test_pages_are_in_the_order_of_names_and_hold_every_product_once(catalog: UnderTest) -> None:
    for n in range(5):
        await added(catalog, sku=f"b-{n}", name="Bowl")
    await added(catalog, sku="a", name="apple")
    pages, after = [], ""
    while True:
        answer = (await catalog.client.get("/catalog/products", params={"limit": 2, "after": after})).json()
        pages.append([item["sku"] for item in answer["items"]])
        after = answer["next"]
        if after is None:
            break

    assert pages == [["a", "b-0"], ["b-1", "b-2"], ["b-3", "b-4"]]
    assert (await catalog.client.get("/catalog/products", params={"after": "nonsense"})).status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**MUG, "price": "0"}, "price"),
        ({**MUG, "price": "-1.00"}, "price"),
        ({**MUG, "price": "1.005"}, "price"),
        ({**MUG, "price": "NaN"}, "price"),
        ({**MUG, "price": "cheap"}, "price"),
        ({**MUG, "sku": "Mug 1"}, "sku"),
        ({**MUG, "name": ""}, "name"),
        ({**MUG, "currency": "euro"}, "currency"),
        ({**MUG, "colour": "blue"}, "colour"),
    ],
)
async def test_a_faulty_product_names_the_faulty_field_and_writes_nothing(
    catalog: UnderTest, body: dict[str, Any], field: str
) -> None:
    answer = await staff(catalog).post("/catalog/products", json=body)

    assert answer.status_code == 422, answer.text
    assert field in [fault["field"] for fault in answer.json()["errors"]]
    assert await skus(catalog) == []
    assert catalog.published == []


async def test_changing_the_range_needs_the_scope(catalog: UnderTest) -> None:
    customer = catalog.as_user("ada", scopes=["orders:write"])
    change = {"name": "Mug", "price": "1.00"}

    assert (await customer.post("/catalog/products", json=MUG)).status_code == 403
    assert (await customer.put("/catalog/products/mug", json=change)).status_code == 403
    assert (await customer.delete("/catalog/products/mug")).status_code == 403
    assert (await catalog.client.post("/catalog/products", json=MUG)).status_code == 401


async def test_sample_products_are_taken_in_once_with_their_events(catalog: UnderTest) -> None:
    settings = CatalogSettings(sample_products=True)

    await asyncio.gather(*(take_in_samples(catalog.database, settings) for _ in range(3)))
    await catalog.settle()
    await staff(catalog).delete("/catalog/products/enamel-mug")
    await take_in_samples(catalog.database, settings)

    assert len(await skus(catalog, limit=100)) == len(SAMPLES) - 1
    told = [event.sku for event in catalog.published if isinstance(event, ProductAdded)]
    assert sorted(told) == sorted(sku for sku, *_ in SAMPLES)


async def test_without_the_setting_there_are_no_samples(catalog: UnderTest) -> None:
    await take_in_samples(catalog.database, CatalogSettings(sample_products=False))

    assert await skus(catalog) == []
