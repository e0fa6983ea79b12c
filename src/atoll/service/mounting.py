"""A whole application as a service's HTTP side: ASGI as it is, WSGI through a2wsgi.

Starlette's own WSGI middleware is deprecated and names a2wsgi as what to use; it streams both ways and has no dependencies.
"""

from __future__ import annotations

import inspect
from typing import Any

from atoll.errors import SystemMistake

__all__ = ["as_asgi"]


def as_asgi(app: Any) -> Any:
    """`app` if it is ASGI, else an adapter around it. Raises SystemMistake when it is neither."""
    if not callable(app):
        raise SystemMistake(f"app={app!r} is no application", hint="an ASGI or WSGI callable")
    if inspect.iscoroutinefunction(app if inspect.isroutine(app) else type(app).__call__):
        return app
    match _required(app):
        case 3:
            return app
        case 2:
            return _wsgi(app)
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
