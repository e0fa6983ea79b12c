"""A WSGI application of before."""

from collections.abc import Callable, Iterable
from typing import Any

from atoll import Service


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response(
        "201 Created", [("Content-Type", "text/plain"), ("X-Own", "1"), ("X-Caller", environ["HTTP_X_ATOLL_SUBJECT"])]
    )
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']} ".encode(), body]


service = Service("wooden", database=None, app=app)
