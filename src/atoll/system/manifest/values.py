"""Checks of single values: what is wrong with one, in the words of the message; "" when nothing is."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

from atoll.system.rates import MEANING, Rate

__all__ = [
    "Check",
    "each",
    "flag",
    "located",
    "matching",
    "network",
    "networks",
    "number",
    "one_of",
    "rate",
    "rate_per_second",
    "scopes",
    "secret",
    "servers",
    "setting",
    "shown",
    "text",
    "texts",
    "whole",
]

_NETWORK_PREFIX = 20

Check = Callable[[Any], str]


def text(value: Any) -> str:
    return "" if isinstance(value, str) and value else f"must be a text, not {shown(value)}"


def matching(pattern: str, meaning: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        return "" if isinstance(value, str) and compiled.fullmatch(value) else f"must be {meaning}, not {shown(value)}"

    return check


def located(pattern: str, meaning: str) -> Check:
    """A URL that can be split: its port is one, and what stands in brackets is an address."""
    fits = matching(pattern, meaning)

    def check(value: Any) -> str:
        wrong = fits(value)
        with suppress(ValueError):
            return wrong or ("" if urlsplit(value).port != 0 else f"must have a port from 1 to 65535, not {shown(value)}")
        return f"must have a host, and a port from 1 to 65535 or none, not {shown(value)}"

    return check


def whole(low: int, high: int) -> Check:
    def check(value: Any) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if fits else f"must be a whole number from {low} to {high}, not {shown(value)}"

    return check


def number(low: float, high: float) -> Check:
    def check(value: Any) -> str:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        return "" if fits else f"must be a number from {low:g} to {high:g}, not {shown(value)}"

    return check


def network(value: Any) -> str:
    with suppress(ValueError):
        if isinstance(value, str) and ip_network(value).version == 4 and ip_network(value).prefixlen <= _NETWORK_PREFIX:
            return ""
    return f"must be an IPv4 network of at least /{_NETWORK_PREFIX}, like 172.29.0.0/16, not {shown(value)}"


def flag(value: Any) -> str:
    return "" if isinstance(value, bool) else f"must be true or false, not {shown(value)}"


def servers(value: Any) -> str:
    fits = value in (1, 3) and not isinstance(value, bool)
    return "" if fits else f"must be 1 or 3, not {shown(value)}"


def one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        return "" if value in choices else f"must be one of {', '.join(map(repr, choices))}, not {shown(value)}"

    return check


def texts(value: Any) -> str:
    fits = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    return "" if fits else f'must be a list of texts, like ["node", "server.js"], not {shown(value)}'


def scopes(value: Any) -> str:
    fits = isinstance(value, list) and all(isinstance(item, str) and item and " " not in item for item in value)
    return "" if fits else f'must be a list of scopes, like ["orders:read"], not {shown(value)}'


def each(pattern: str, meaning: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        fits = isinstance(value, list) and all(isinstance(item, str) and compiled.fullmatch(item) for item in value)
        return "" if fits else f"must be a list of {meaning}, not {shown(value)}"

    return check


def rate(value: Any) -> str:
    try:
        Rate.parse(value)
    except ValueError:
        return f"must be {MEANING}, not {shown(value)}"
    return ""


def rate_per_second(value: Any) -> str:
    """It protects the gateway itself: longer windows would let through at once what it is there to keep out."""
    return rate(value) or ("" if value.endswith("/s") else f'must be a rate per second, like "500/s", not {shown(value)}')


def networks(value: Any) -> str:
    """Not everybody's: whoever connects could say then who it is."""
    try:
        fits = isinstance(value, list) and all(isinstance(item, str) and ip_network(item).prefixlen > 0 for item in value)
    except ValueError:
        fits = False
    return "" if fits else f'must be a list of networks, like ["10.0.0.0/8", "fd00::/8"], not {shown(value)}'


def secret(value: Any) -> str:
    fits = isinstance(value, dict) and set(value) == {"secret"} and isinstance(value["secret"], str)
    return "" if fits else f'must be {{ secret = "name" }}, so that no file holds it, not {shown(value)}'


def setting(value: Any) -> str:
    plain = isinstance(value, (str, int, float, bool)) or (
        isinstance(value, list) and all(isinstance(item, (str, int, float, bool)) for item in value)
    )
    return "" if plain or not secret(value) else f'must be a plain value or {{ secret = "name" }}, not {shown(value)}'


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    names: dict[type, str] = {str: "the text ", dict: "the table ", list: "the list "}
    return f"{names.get(type(value), '')}{value!r}"
