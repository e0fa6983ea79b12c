"""One visitor's request: who they are, what is in their cart, and the page that they get."""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, cast
from urllib.parse import quote

from msgspec import Struct, structs
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from storefront.look import Look
from storefront.seal import Seal
from storefront.shop import Refusal, Shop, SignedOut, Tokens, Unavailable

__all__ = ["Cart", "Session", "Visit", "friendly"]

P = ParamSpec("P")
Cart = dict[str, int]
_SESSION, _CART = "shop_session", "shop_cart"
_KEPT_S = 14 * 86_400
_MOST_LINES, _MOST_OF_ONE = 50, 100
_log = logging.getLogger("storefront")


class Session(Struct, frozen=True):
    """What the session cookie holds. `visitor` is random; forms are bound to it."""

    visitor: str
    user: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_at: float = 0.0


class Visit:
    """Pages take one and give back what `page` or `redirect` make; cookies that changed go along."""

    def __init__(self, request: Request, shop: Shop, look: Look, seal: Seal) -> None:
        self.request = request
        self.shop = shop
        self._look = look
        self._seal = seal
        stored = seal.open(_SESSION, request.cookies.get(_SESSION, ""), Session)
        self.session = stored or Session(visitor=secrets.token_urlsafe(16))
        self.cart: Cart = seal.open(_CART, request.cookies.get(_CART, ""), Cart) or {}
        self._as_received = (stored, dict(self.cart))

    # who it is

    async def token(self) -> str:
        """An access token that is good for now. Raises SignedOut when the visitor has to sign in (again)."""
        session = self.session
        if session.access_token and time.time() < session.expires_at - 5:
            return session.access_token
        if not session.refresh_token:
            raise SignedOut
        try:
            self._take(session.user, await self.shop.refresh(session.refresh_token))
        except Refusal:
            raise SignedOut from None
        return self.session.access_token

    def sign_in(self, user: str, tokens: Tokens) -> None:
        """A new session, so that nobody can have prepared it."""
        self.session = Session(visitor=secrets.token_urlsafe(16))
        self._take(user, tokens)

    def sign_out(self) -> None:
        self.session = Session(visitor=secrets.token_urlsafe(16))

    def _take(self, user: str, tokens: Tokens) -> None:
        self.session = structs.replace(
            self.session,
            user=user,
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token or self.session.refresh_token,
            expires_at=time.time() + tokens.expires_in,
        )

    # forms

    @property
    def form_key(self) -> str:
        """Stands in every form; another site can't know it."""
        return self._seal.mark("form", self.session.visitor)

    def came_from_us(self, form_key: str) -> bool:
        return secrets.compare_digest(form_key.encode(), self.form_key.encode())

    # the cart

    def put(self, sku: str, quantity: int) -> None:
        """Sets how many of it are in the cart; 0 takes it out."""
        kept = {key: value for key, value in self.cart.items() if key != sku}
        if quantity > 0 and len(kept) < _MOST_LINES:
            kept = {**self.cart, sku: min(quantity, _MOST_OF_ONE)}
        self.cart = kept

    # answers

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        html = self._look.render(
            template,
            user=self.session.user,
            form_key=self.form_key,
            cart_count=sum(self.cart.values()),
            path=self.request.url.path,
            **values,
        )
        return self._sent(HTMLResponse(html, status, headers=dict(_HEADERS)))

    def redirect(self, path: str) -> Response:
        """303: the browser fetches `path`, so that reloading it sends nothing twice."""
        return self._sent(RedirectResponse(path, 303, headers={"cache-control": "no-store"}))

    def _sent(self, response: Response) -> Response:
        session, cart = self._as_received
        if session != self.session:
            self._set_cookie(response, _SESSION, self.session)
        if cart != self.cart:
            self._set_cookie(response, _CART, self.cart)
        return response

    def _set_cookie(self, response: Response, name: str, value: object) -> None:
        response.set_cookie(
            name,
            self._seal.close(name, value),
            max_age=_KEPT_S,
            httponly=True,
            samesite="lax",
            secure=self.request.headers.get("x-forwarded-proto") == "https",
        )


_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


def friendly(handler: Callable[P, Awaitable[Response]]) -> Callable[P, Awaitable[Response]]:
    """What goes wrong becomes a page: sign in first, there is no such thing, or please come back in a moment."""

    @functools.wraps(handler)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> Response:
        try:
            return await handler(*args, **kwargs)
        except (SignedOut, Unavailable, Refusal) as trouble:
            return _explained(cast("Visit", kwargs["visit"]), trouble)

    return guarded


def _explained(visit: Visit, trouble: Exception) -> Response:
    match trouble:
        case SignedOut():
            visit.sign_out()
            path = visit.request.url.path if visit.request.method == "GET" else "/cart"
            return visit.redirect(f"/sign-in?back={quote(path, safe='/')}")
        case Refusal(status=404):
            return visit.page("missing.html", 404)
        case Refusal(status=status, detail=detail):
            return visit.page("refused.html", status, detail=detail)
        case _:
            _log.warning("a page was not available: %s", trouble)
            return visit.page("unavailable.html", 503)
