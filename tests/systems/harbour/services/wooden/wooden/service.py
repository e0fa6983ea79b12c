"""A WSGI application of before."""

from collections.abc import Callable, Iterable
from typing import Any

from atoll import Service


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"wooden {environ['PATH_INFO']}".encode()]


service = Service("wooden", database=None, app=app, public=True)
