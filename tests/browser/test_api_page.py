"""The page of the API in a real browser."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from atoll.gateway.ir import Listener
from atoll.gateway.translate import translate
from tests.support.gateway import contract, known

ANSWERED = {
    "200": {"description": "", "content": {"application/json": {"schema": {"type": "object", "properties": {"id": {}}}}}}
}
ORDERS = contract("orders", {"/orders": {"get": {"operationId": "all", "responses": ANSWERED}}})
STOCK = contract("stock", {"/stock": {"get": {"operationId": "all", "responses": ANSWERED}}})


def test_a_search_leaves_only_services_with_an_operation_that_matches(browser: Browser) -> None:
    gateway = translate(known(ORDERS, STOCK), Listener("127.0.0.1", 8080))
    page = browser.new_page()
    page.set_content(next(one.body for one in gateway.documents if one.path == "/docs"))
    sections = page.locator("main [data-service]")
    expect(sections.filter(visible=True)).to_have_count(2)
    page.get_by_role("searchbox").fill("stock")
    expect(sections.filter(visible=True)).to_have_count(1)
    page.get_by_role("searchbox").fill("nothing of the kind")
    expect(sections.filter(visible=True)).to_have_count(0)
    expect(page.get_by_text("No operation matches.")).to_be_visible()
    page.close()
