"""Another issuer: keys of every kind, tokens as it would sign them, its server with discovery document and key set."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from atoll.tokens.providers import Provider, foreign_keys

__all__ = ["ALGORITHMS", "ForeignMint", "IssuerServer", "issuer_server"]

ALGORITHMS = ("RS256", "ES256", "EdDSA")


def _generated(alg: str) -> Any:
    match alg:
        case "RS256":
            return RSAKey.generate_key(2048, parameters={"kid": f"key-{alg}"})
        case "ES256":
            return ECKey.generate_key("P-256", parameters={"kid": f"key-{alg}"})
    return OKPKey.generate_key("Ed25519", parameters={"kid": f"key-{alg}"})


@dataclass
class ForeignMint:
    """Signs as `issuer` would. `words` of a token stand in `claim`."""

    issuer: str = "https://login.example/realms/corp"
    audience: str = "api://shop"
    claim: str = "roles"
    keys: dict[str, Any] = field(default_factory=lambda: {alg: _generated(alg) for alg in ALGORITHMS})

    def rotate(self, alg: str, kid: str) -> None:
        """Another key under another name in place of the former."""
        key = _generated(alg)
        self.keys[alg] = type(key).import_key({**key.as_dict(private=True), "kid": kid})

    @property
    def jwks(self) -> bytes:
        return json.dumps({"keys": [{**key.as_dict(private=False), "use": "sig"} for key in self.keys.values()]}).encode()

    def provider(self, **changes: Any) -> Provider:
        """As auth would publish it: `reader` and `writer` are worth something."""
        made = Provider(
            "corp", self.issuer, self.audience, self.claim,
            {"reader": ("orders:read",), "writer": ("orders:read", "orders:write")}, foreign_keys(self.jwks),
        )  # fmt: skip
        return Provider(**{name: changes.get(name, getattr(made, name)) for name in made.__struct_fields__})

    def claims(self, words: Any = ("reader",), **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        good = {"iss": self.issuer, "aud": self.audience, "sub": "ada", "iat": now, "exp": now + 300, self.claim: words}
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def token(self, alg: str = "RS256", words: Any = ("reader",), **changes: Any) -> str:
        key = self.keys[alg]
        return _signed(alg, str(key.kid), json.dumps(self.claims(words, **changes)).encode(), key)

    def confused(self, alg: str) -> dict[str, str]:
        """Every way to have a token taken for what it is not, with the public key of `alg`."""
        key = self.keys[alg]
        payload = json.dumps(self.claims()).encode()
        head, body, signature = self.token(alg).split(".")
        other = next(one for one in ALGORITHMS if one != alg)
        pem = key.as_pem(private=False)
        secrets = {"PEM": pem, "JWK": json.dumps(key.as_dict(private=False)).encode()}
        found = {
            f"HS256 with the public key as {name}": _hmac_signed(key.kid, payload, secret) for name, secret in secrets.items()
        }
        found["none"] = f"{_encoded({'alg': 'none', 'kid': key.kid})}.{body}."
        found["none with the signature"] = f"{_encoded({'alg': 'none', 'kid': key.kid})}.{body}.{signature}"
        found["another algorithm in the header"] = f"{_encoded({'alg': other, 'kid': key.kid})}.{body}.{signature}"
        found["another key under the good name"] = _signed(other, key.kid, payload, self.keys[other])
        found["another key of the kind"] = _signed(alg, key.kid, payload, _generated(alg))
        found["a key that brings itself along"] = _signed(alg, "mine", payload, _generated(alg))
        found["no signature"] = f"{head}.{body}."
        if alg == "RS256":
            found["RS512 of the good key"] = _signed("RS512", key.kid, payload, key)
            found["PS256 of the good key"] = _signed("PS256", key.kid, payload, key)
        return found


def _signed(alg: str, kid: str, payload: bytes, key: Any) -> str:
    with warnings.catch_warnings():  # joserfc advises against EdDSA by that name, which is the one that providers use
        warnings.simplefilter("ignore", SecurityWarning)
        return jws.serialize_compact({"alg": alg, "kid": kid}, payload, key, algorithms=[alg])


def _hmac_signed(kid: str, payload: bytes, secret: bytes) -> str:
    signed = f"{_encoded({'alg': 'HS256', 'kid': kid})}.{_base64url(payload)}"
    return f"{signed}.{_base64url(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def _encoded(header: dict[str, str]) -> str:
    return _base64url(json.dumps(header).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass
class IssuerServer:
    """What an issuer serves. `status` other than 200 is an issuer that is out; `asked` counts requests."""

    mint: ForeignMint
    url: str
    status: int = 200
    says: str = ""
    body: bytes = b""
    asked: int = 0

    def answer(self, path: str) -> tuple[int, bytes]:
        self.asked += 1
        if self.status != 200:
            return self.status, b"{}"
        if path.endswith("/.well-known/openid-configuration"):
            return 200, json.dumps({"issuer": self.says or self.url, "jwks_uri": f"{self.url}/jwks"}).encode()
        return 200, self.body or self.mint.jwks


@contextmanager
def issuer_server(port: int) -> Iterator[IssuerServer]:
    """On loopback, until the block ends."""
    url = f"http://127.0.0.1:{port}/realms/corp"
    server = IssuerServer(ForeignMint(issuer=url), url)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = server.answer(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing is said."""

    http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
