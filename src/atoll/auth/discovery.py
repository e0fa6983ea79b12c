"""Fetching another issuer's keys: its discovery document (OpenID Connect Discovery 1.0 §4), then its key set, or a file.

Blocking, for a thread. Whoever can change the answer can open the system: so TLS, no redirect to anywhere without it, and a
discovery document must be of the issuer that was asked for (§4.3).
"""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import msgspec

from atoll.auth.configuration import TrustedProvider
from atoll.errors import Malformed, Outage
from atoll.tokens.providers import ForeignKey, foreign_keys

__all__ = ["fetch"]

_TIMEOUT_S = 5.0
_LONGEST_BYTES = 262_144
_LOOPBACK = ("http://localhost:", "http://127.0.0.1:", "http://[::1]:")


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


def fetch(provider: TrustedProvider) -> tuple[ForeignKey, ...]:
    """The keys as they are now. Raises Outage when they can't be had, Malformed when what is there is something else."""
    if provider.jwks_file:
        try:
            return foreign_keys(Path(provider.jwks_file).read_bytes())
        except OSError as error:
            raise Outage(f"{provider.jwks_file} can't be read: {error.strerror}") from error
    return foreign_keys(_read(provider.jwks_url or _jwks_uri(provider)))


def _jwks_uri(provider: TrustedProvider) -> str:
    url = f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration"
    try:
        found = msgspec.json.decode(_read(url), type=_Discovery)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise Malformed(f"{url} is no discovery document: {error}") from error
    if found.issuer != provider.issuer:
        raise Malformed(f"{url} is of another issuer, {found.issuer}")
    return found.jwks_uri


def _read(url: str) -> bytes:
    _check(url)
    try:
        with _OPENER.open(url, timeout=_TIMEOUT_S) as answer:
            body: bytes = answer.read(_LONGEST_BYTES + 1)
    except (OSError, URLError, ValueError) as error:
        raise Outage(f"{url} can't be read: {error}") from error
    if len(body) > _LONGEST_BYTES:
        raise Malformed(f"{url} has more than {_LONGEST_BYTES:,} bytes")
    return body


def _check(url: str) -> None:
    if not url.startswith(("https://", *_LOOPBACK)):
        raise Malformed(f"{url} would be fetched without TLS")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any) -> urllib.request.Request | None:
        _check(given[-1])
        return super().redirect_request(*given)


_OPENER = urllib.request.build_opener(_Redirects)
