"""What is kept of a secret that auth made itself.

SHA-256, not argon2id: these secrets are 256 random bits, so nobody can guess through them whatever a guess costs, and slowness
would only be paid at every use. Passwords, which people choose, are another matter (`passwords`).
"""

from __future__ import annotations

import hashlib

__all__ = ["digest"]


def digest(secret: str) -> str:
    """In hex. Whoever reads it can't use it."""
    return hashlib.sha256(secret.encode()).hexdigest()
