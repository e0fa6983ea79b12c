"""A whole application as a service's HTTP side: ASGI as it is, WSGI through a2wsgi.

Starlette's own WSGI middleware is deprecated and names a2wsgi as what to use; it streams both ways and has no dependencies.
"""

from __future__ import annotations

import inspect
from typing import Any

from atoll.errors import SystemMistake, Unauthorized
from atoll.service.answers import ASGI, Receive, Scope, Send, refuse
from atoll.service.callers import TokenMissing, TwoCredentials, Verify, claimed, token_of, without_token
from atoll.service.open_calls import OpenCalls, StreamingCall
from atoll.service.principal import Principal
from atoll.service.problems import problem_of

__all__ = ["as_asgi", "guarded", "is_asgi"]


def as_asgi(app: Any) -> Any:
    """`app` if it is ASGI, else an adapter around it. Raises SystemMistake when it is neither."""
    return app if is_asgi(app) else _wsgi(app)


def guarded(app: ASGI, verify: Verify, calls: OpenCalls | None) -> ASGI:
    """`app` for whoever has a token, as a request or as a WebSocket; it reads who that is in the claim headers. What it leaves
    open is one of `calls`, None where it can't be ended: a thread of WSGI.
    """

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                token = token_of(scope)
                if token is None:
                    raise TokenMissing
                principal = verify(token)
            except (Unauthorized, TwoCredentials) as error:
                await refuse(scope, send, problem_of(error))
                return
            await _run(app, principal, calls, (scope, receive, send))
            return
        await app(scope, receive, send)

    return checked


async def _run(app: ASGI, principal: Principal, calls: OpenCalls | None, asgi: tuple[Scope, Receive, Send]) -> None:
    scope, receive, send = asgi
    known = without_token(scope) if scope["type"] == "websocket" else scope
    known = {**known, "headers": claimed(known["headers"], principal)}
    call = StreamingCall(lambda _scope, receive, send: app(known, receive, send), scope, receive, send)
    if calls is None:
        await app(known, receive, send)
    elif scope["type"] == "websocket":
        await calls.talk(principal, call)
    else:
        await calls.stream(principal, call)


def is_asgi(app: Any) -> bool:
    """Else it is WSGI. Raises SystemMistake when it is neither."""
    if not callable(app):
        raise SystemMistake(f"app={app!r} is no application", hint="an ASGI or WSGI callable")
    if inspect.iscoroutinefunction(app if inspect.isroutine(app) else type(app).__call__):
        return True
    match _required(app):
        case 3:
            return True
        case 2:
            return False
    raise SystemMistake(
        f"app={app!r} is no application", hint="ASGI takes (scope, receive, send), WSGI (environ, start_response)"
    )


def _required(app: Any) -> int:
    parameters = inspect.signature(app).parameters.values()
    return len(
        [one for one in parameters if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    )


def _wsgi(app: Any) -> Any:
    try:
        from a2wsgi import WSGIMiddleware
    except ModuleNotFoundError as error:
        raise SystemMistake(
            "a WSGI application needs a2wsgi, which is not installed", hint="pip install 'atoll[wsgi]'"
        ) from error
    return WSGIMiddleware(app)
