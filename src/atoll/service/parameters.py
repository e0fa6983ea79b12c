"""Markers for `Annotated[...]`, for when a type alone does not say where an argument comes from.

q: Annotated[Filter, Query()]                      all query parameters as one struct
agent: Annotated[str, Header("user-agent")]        one header; without a name it is the argument's, with hyphens
session: Annotated[str | None, Cookie()]
login: Annotated[Login, Form()]                    a form as one struct
raw: Annotated[bytes, Body()]                      the body as it came, of any content type
text: Annotated[str, Body()]                       a JSON body that would be a query parameter otherwise
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Body", "Cookie", "Form", "Header", "Marker", "Query"]


@dataclass(frozen=True, slots=True)
class Marker:
    """Where an argument comes from, and under which name if not its own."""

    name: str = ""


class Query(Marker):
    """From the query string."""

    __slots__ = ()


class Header(Marker):
    """From a header."""

    __slots__ = ()


class Cookie(Marker):
    """From a cookie."""

    __slots__ = ()


class Form(Marker):
    """From a form, urlencoded or multipart."""

    __slots__ = ()


class Body(Marker):
    """From the body: JSON, or the raw bytes for `bytes`."""

    __slots__ = ()
