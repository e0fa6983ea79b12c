"""The storefront in a real browser: desktop and phone, light and dark, with JavaScript and without.

Screenshots are left in `screenshots/`, for people to look at.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.shop import Shop
from tests.support.system import ROOT

SCREENSHOTS = ROOT / "screenshots"


@dataclass(frozen=True)
class View:
    """How somebody looks at the shop."""

    name: str
    width: int
    height: int
    scheme: str = "light"
    javascript: bool = True

    def __str__(self) -> str:
        return self.name


DESKTOP = View("desktop", 1280, 800)
PHONE = View("phone", 390, 844)
DARK = View("dark-desktop", 1280, 800, "dark")
PLAIN = View("phone-without-javascript", 390, 844, javascript=False)


@dataclass
class Visitor:
    """Somebody with a browser. What the browser complained about is in `complaints`."""

    shop: Shop
    page: Page
    view: View
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        self.page.goto(f"{self.shop.url}{path}")

    def see(self, name: str) -> None:
        """Leaves a screenshot, and makes sure that nothing sticks out sideways."""
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}-{self.view}.png", full_page=self.view.width < 600)
        sideways = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert sideways == 0, f"{name} is {sideways} px wider than the {self.view}"

    def sign_in(self, username: str, password: str) -> None:
        self.page.get_by_label("Name").fill(username)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def put_into_cart(self, product: str, quantity: int) -> None:
        self.page.get_by_role("searchbox").fill(product)
        self.page.get_by_role("button", name="Search").click()
        self.page.get_by_role("link", name=product).click()
        self.page.get_by_label("Quantity").fill(str(quantity))
        self.page.get_by_role("button", name="Add to cart").click()


@pytest.fixture
def visit(browser: Browser, shop: Shop) -> Iterator[Callable[[View], Visitor]]:
    """Opens a browser window of one's own."""
    contexts = []

    def opened(view: View) -> Visitor:
        context = browser.new_context(
            viewport={"width": view.width, "height": view.height},
            color_scheme="dark" if view.scheme == "dark" else "light",
            java_script_enabled=view.javascript,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        visitor = Visitor(shop, page, view)
        page.on("console", lambda message: visitor.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
        return visitor

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("view", [DESKTOP, PHONE, DARK, PLAIN], ids=str)
def test_a_visitor_registers_orders_and_sees_it_confirmed(visit: Callable[[View], Visitor], shop: Shop, view: View) -> None:
    visitor = visit(view)
    page = visitor.page
    visitor.go("/")
    expect(page.locator(".card")).to_have_count(12)
    visitor.see("home")
    visitor.put_into_cart("Storm lantern", 2)
    expect(page.get_by_role("heading", name="Your cart")).to_be_visible()
    visitor.see("cart")
    page.get_by_role("link", name="Go to checkout").click()
    visitor.see("sign-in")
    page.get_by_role("link", name="Make an account").click()
    page.get_by_label("Name").fill(f"browser-{view}")
    page.get_by_label("Password").fill("a good long password")
    visitor.see("register")
    page.get_by_role("button", name="Make the account").click()
    expect(page.get_by_role("heading", name="Checkout")).to_be_visible()
    visitor.see("checkout")
    page.get_by_role("button", name="Place the order").click()
    page.wait_for_url(re.compile("/my/orders/"))
    expect(page.get_by_role("heading", name="Thank you, it’s on its way")).to_be_visible()
    expect(page.get_by_text("2 × Storm lantern")).to_be_visible()
    visitor.see("order-confirmed")
    order_id = page.url.rsplit("/", 1)[1]
    assert [entry["status"] for entry in shop.ledger(order_id)] == ["approved"]
    page.get_by_role("link", name="All your orders").click()
    expect(page.get_by_text("Confirmed", exact=True)).to_be_visible()
    visitor.see("orders")
    page.get_by_role("button", name="Sign out").click()
    visitor.go("/my/orders")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert visitor.complaints == []


def test_a_declined_card_is_said_and_the_order_is_cancelled(visit: Callable[[View], Visitor]) -> None:
    visitor = visit(PHONE)
    visitor.go("/sign-in")
    visitor.sign_in("ada", "not her password")
    expect(visitor.page.get_by_role("alert")).to_contain_text("don’t belong together")
    visitor.see("sign-in-wrong")
    visitor.sign_in("ada", "demo-only-ada")
    visitor.put_into_cart("Tide clock", 1)
    visitor.page.get_by_role("link", name="Go to checkout").click()
    visitor.page.get_by_label("A card that is declined").check()
    visitor.page.get_by_role("button", name="Place the order").click()
    expect(visitor.page.get_by_role("heading", name="This order was cancelled")).to_be_visible()
    expect(visitor.page.get_by_role("alert")).to_contain_text("The card was declined")
    visitor.see("order-declined")


def test_an_order_is_watched_until_it_settles_and_can_be_cancelled_meanwhile(
    visit: Callable[[View], Visitor], shop: Shop
) -> None:
    visitor = visit(DESKTOP)
    visitor.go("/sign-in")
    visitor.sign_in("ada", "demo-only-ada")
    shop.system.kill("cardprovider-1", signal.SIGSTOP)
    try:
        visitor.put_into_cart("Gull kite", 1)
        visitor.page.get_by_role("link", name="Go to checkout").click()
        visitor.page.get_by_role("button", name="Place the order").click()
        expect(visitor.page.get_by_role("heading", name="We’re on it")).to_be_visible()
        expect(visitor.page.get_by_text("asking your card")).to_be_visible()
        visitor.see("order-pending")
        visitor.page.get_by_role("button", name="Cancel this order").click()
        expect(visitor.page.get_by_role("heading", name="This order was cancelled")).to_be_visible()
        visitor.see("order-cancelled")
    finally:
        shop.system.kill("cardprovider-1", signal.SIGCONT)


def test_the_cart_can_be_changed_and_is_kept_when_the_browser_comes_back(visit: Callable[[View], Visitor]) -> None:
    visitor = visit(PHONE)
    visitor.go("/")
    visitor.put_into_cart("Enamel mug", 3)
    visitor.go("/")
    visitor.put_into_cart("Seaweed soap", 1)
    visitor.page.get_by_label("How many").first.fill("5")
    visitor.page.get_by_role("button", name="Update").first.click()
    expect(visitor.page.locator(".sum strong")).to_have_text("€70.30")
    visitor.page.get_by_role("button", name="Remove Seaweed soap").click()
    expect(visitor.page.locator(".sum strong")).to_have_text("€62.50")
    visitor.go("/products/enamel-mug")
    expect(visitor.page.get_by_role("link", name=re.compile("Cart"))).to_contain_text("5")


def test_while_the_catalog_is_down_the_rest_of_the_shop_is_open_and_says_so(
    visit: Callable[[View], Visitor], shop: Shop
) -> None:
    visitor = visit(PHONE)
    visitor.go("/sign-in")
    visitor.sign_in("ada", "demo-only-ada")
    shop.system.must("scale", "catalog=0")
    try:
        visitor.go("/")
        expect(visitor.page.get_by_role("status")).to_contain_text("can’t be reached right now")
        visitor.see("catalog-down")
        visitor.page.get_by_role("link", name="Orders").click()
        expect(visitor.page.get_by_role("heading", name="Your orders")).to_be_visible()
    finally:
        shop.system.must("scale", "catalog=1")
    visitor.go("/")
    expect(visitor.page.locator(".card")).to_have_count(12)


def test_while_orders_is_down_nothing_is_lost_from_the_cart(visit: Callable[[View], Visitor], shop: Shop) -> None:
    visitor = visit(DESKTOP)
    visitor.go("/sign-in")
    visitor.sign_in("ada", "demo-only-ada")
    visitor.put_into_cart("Rope doormat", 1)
    visitor.page.get_by_role("link", name="Go to checkout").click()
    shop.system.must("scale", "orders=0")
    try:
        visitor.page.get_by_role("button", name="Place the order").click()
        expect(visitor.page.get_by_role("alert")).to_contain_text("your cart is kept")
        visitor.see("orders-down")
    finally:
        shop.system.must("scale", "orders=1")
    visitor.page.get_by_role("button", name="Place the order").click()
    expect(visitor.page.get_by_role("heading", name="Thank you, it’s on its way")).to_be_visible()


def test_searching_finds_words_anywhere_and_says_when_there_is_nothing(visit: Callable[[View], Visitor]) -> None:
    visitor = visit(DESKTOP)
    visitor.go("/?q=brass")
    names = visitor.page.locator(".card .name").all_inner_texts()
    assert names == ["Pocket compass", "Storm lantern"]
    visitor.see("search")
    visitor.go("/?q=submarine")
    expect(visitor.page.get_by_text("Nothing here is called that")).to_be_visible()
    visitor.go("/products/submarine")
    expect(visitor.page.get_by_role("heading", name="That is not here")).to_be_visible()


def test_pages_need_nothing_from_elsewhere_and_can_be_read_by_everybody(visit: Callable[[View], Visitor]) -> None:
    visitor = visit(DESKTOP)
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url))
    for path in ("/", "/products/enamel-mug", "/cart", "/sign-in", "/register"):
        visitor.go(path)
        assert visitor.page.locator("html[lang]").count() == 1
        assert visitor.page.locator("h1").count() == 1
        assert visitor.page.locator("main").count() == 1
        unnamed = visitor.page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), button')].filter(e => !(e.labels?.length || "
            "e.getAttribute('aria-label') || e.innerText.trim())).map(e => e.outerHTML)"
        )
        assert unnamed == []
    assert {url for url in asked if not url.startswith((visitor.shop.url, "data:"))} == set()
