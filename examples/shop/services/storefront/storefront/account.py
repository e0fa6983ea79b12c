"""Signing in and out, and registering."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct
from starlette.responses import Response

from atoll import Form, Router
from storefront.shop import Refusal
from storefront.visit import Visit, friendly

__all__ = ["router"]

router = Router()
_STALE = "This page had been open for too long. Please try again."


class Credentials(Struct, frozen=True):
    """Everything may be missing: what a visitor left out is said on the page."""

    username: str = ""
    password: str = ""
    back: str = ""
    form_key: str = ""


class FormKey(Struct, frozen=True):
    form_key: str = ""


@router.get("/sign-in", public=True)
@friendly
async def sign_in_page(visit: Visit, back: str = "") -> Response:
    return _form(visit, "sign-in.html", Credentials(back=back))


@router.post("/sign-in", public=True, status=200)
@friendly
async def sign_in(visit: Visit, form: Annotated[Credentials, Form()]) -> Response:
    if not visit.came_from_us(form.form_key):
        return _form(visit, "sign-in.html", form, _STALE, 403)
    try:
        tokens = await visit.shop.sign_in(form.username, form.password)
    except Refusal:
        return _form(visit, "sign-in.html", form, "Name and password don’t belong together.", 401)
    visit.sign_in(form.username, tokens)
    return visit.redirect(_inside(form.back))


@router.get("/register", public=True)
@friendly
async def register_page(visit: Visit, back: str = "") -> Response:
    return _form(visit, "register.html", Credentials(back=back))


@router.post("/register", public=True, status=200)
@friendly
async def register(visit: Visit, form: Annotated[Credentials, Form()]) -> Response:
    if not visit.came_from_us(form.form_key):
        return _form(visit, "register.html", form, _STALE, 403)
    try:
        await visit.shop.register(form.username, form.password)
        tokens = await visit.shop.sign_in(form.username, form.password)
    except Refusal as refusal:
        return _form(visit, "register.html", form, refusal.detail, refusal.status)
    visit.sign_in(form.username, tokens)
    return visit.redirect(_inside(form.back))


@router.post("/sign-out", public=True, status=200)
@friendly
async def sign_out(visit: Visit, form: Annotated[FormKey, Form()]) -> Response:
    if visit.came_from_us(form.form_key):
        visit.sign_out()
    return visit.redirect("/")


def _form(visit: Visit, template: str, form: Credentials, fault: str = "", status: int = 200) -> Response:
    return visit.page(template, status, username=form.username, back=_inside(form.back), fault=fault)


def _inside(path: str) -> str:
    """`path` if it is one of ours: nobody is sent elsewhere by a link to our sign-in page."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours else "/"
