"""The provider's HTTP interface: POST /charges, POST /refunds, GET /ledger."""

from __future__ import annotations

import re
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cardprovider.ledger import Ledger, Refusal

__all__ = ["provider"]

_AMOUNT = re.compile(r"\d{1,9}\.\d{2}")
_METHODS = ("card-ok", "card-declined")


def provider(ledger: Ledger) -> Starlette:
    """The application over one ledger. A repeated Idempotency-Key is answered 200 with the first answer's entry."""

    async def charge(request: Request) -> JSONResponse:
        key, asked = await _asked(request, "reference", "amount", "currency", "method")
        if not _AMOUNT.fullmatch(asked["amount"]) or not asked["amount"].strip("0."):
            raise Refusal(422, "amount must be a positive decimal with two places, like 12.50")
        if asked["method"] not in _METHODS:
            raise Refusal(422, f"method must be one of {', '.join(_METHODS)}")
        return _answer(*ledger.charge(key, asked))

    async def refund(request: Request) -> JSONResponse:
        key, asked = await _asked(request, "charge")
        return _answer(*ledger.refund(key, asked["charge"]))

    async def entries(request: Request) -> JSONResponse:
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            raise Refusal(422, "after must be the number of an entry")
        return JSONResponse({"entries": ledger.entries(int(after))})

    async def health(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/charges", charge, methods=["POST"]),
            Route("/refunds", refund, methods=["POST"]),
            Route("/ledger", entries, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
        ],
        exception_handlers={Refusal: _refused},
    )


async def _asked(request: Request, *names: str) -> tuple[str, dict[str, str]]:
    key = request.headers.get("idempotency-key", "")
    if not key:
        raise Refusal(400, "the header Idempotency-Key is missing")
    try:
        body = await request.json()
    except ValueError:
        raise Refusal(400, "the body is not JSON") from None
    if not isinstance(body, dict) or any(not isinstance(body.get(name), str) for name in names):
        raise Refusal(422, f"the body must be an object with the texts {', '.join(names)}")
    return key, {name: body[name] for name in names}


def _answer(entry: dict[str, Any], made: bool) -> JSONResponse:
    return JSONResponse(entry, status_code=201 if made else 200)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, Refusal) else 500
    return JSONResponse({"status": status, "detail": str(error)}, status_code=status)
