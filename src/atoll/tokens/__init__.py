"""JSON Web Tokens: what they claim, how auth signs them, how everybody else verifies them, and the key sets in between.

The rule: pure. The clock is an argument, nothing is fetched, and ES256 is the only algorithm there is, so that no header of a
token can choose another (RFC 8725 §3.1). The one I/O is `load` and `save` of key sets and revocations. `cryptography` is
imported when a token is first verified or signed, never with this package (docs/decisions/0004-own-jws.md).

Read `claims` first, then `verify`; `keys` and `revocations` travel from auth to gateway and services; `sign` is auth's alone.
"""

from __future__ import annotations

from atoll.tokens.claims import Claims
from atoll.tokens.keys import KeySet, PublicKey, SigningKey
from atoll.tokens.providers import Providers
from atoll.tokens.refusals import TokenRefused
from atoll.tokens.revocations import Revocations
from atoll.tokens.sign import sign
from atoll.tokens.verify import Verifier

__all__ = ["Claims", "KeySet", "Providers", "PublicKey", "Revocations", "SigningKey", "TokenRefused", "Verifier", "sign"]
