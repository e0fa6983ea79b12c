"""A certificate and the key to it, as PEM files hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from atoll.certificates.files import write_private
from atoll.errors import SystemMistake

__all__ = ["Pair", "authorities_end", "read_authorities"]

_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True, slots=True)
class Pair:
    """`chain` and `key` are PEM in its usual form, whatever form they came in; the own certificate stands first.

    `names` are those it is for, `digest` is its SHA-256; an `authority` signs others and can't be shown itself.
    """

    chain: bytes
    key: bytes = field(repr=False)
    names: tuple[str, ...]
    begins: datetime
    ends: datetime
    digest: str
    authority: bool = False

    @classmethod
    def read(cls, certificate: Path, key: Path, now: datetime, where: str = "") -> Pair:
        """Raises SystemMistake that names the file and what is wrong with it, so also when the two don't fit together."""
        files = (str(certificate), str(key))
        pair = cls.parse(_content(certificate, where), _content(key, where), files, where)
        if pair.authority:
            detail = f"the certificate {certificate} is an authority's: it may sign others and can't be shown itself"
            raise SystemMistake(detail, where=where, hint="the server's own certificate stands first in its file")
        if now >= pair.ends:
            raise SystemMistake(
                f"the certificate {certificate} ended at {pair.ends:%Y-%m-%d %H:%M} UTC", where=where, hint="renew it"
            )
        if now < pair.begins:
            raise SystemMistake(
                f"the certificate {certificate} is not valid before {pair.begins:%Y-%m-%d %H:%M} UTC",
                where=where,
                hint="is this machine's clock right?",
            )
        return pair

    @classmethod
    def parse(cls, chain: bytes, key: bytes, files: tuple[str, str] = ("", ""), where: str = "") -> Pair:
        """Of any time. `files` are what messages call the two. Raises SystemMistake."""
        certificates = _certificates(chain, files[0], where)
        private = _fitting_key(certificates, key, files, where)
        leaf = certificates[0]
        return cls(
            chain=b"".join(one.public_bytes(Encoding.PEM) for one in certificates),
            key=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            names=_names(leaf),
            begins=leaf.not_valid_before_utc,
            ends=leaf.not_valid_after_utc,
            digest=leaf.fingerprint(hashes.SHA256()).hex(),
            authority=not _signs(leaf),
        )

    def save(self, certificate: Path, key: Path) -> None:
        """Each in one step, the key first: who looks between the two sees that they don't fit and looks again."""
        write_private(key, self.key)
        write_private(certificate, self.chain)


def read_authorities(path: Path, where: str = "") -> bytes:
    """The PEM of the authorities in `path`, at least one. Raises SystemMistake that names the file."""
    content = _content(path, where)
    _certificates(content, str(path), where)
    return content


def authorities_end(path: Path) -> datetime:
    """When the first of the authorities in `path` ends. Raises SystemMistake that names the file."""
    return min(one.not_valid_after_utc for one in _certificates(_content(path, ""), str(path), ""))


def _content(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SystemMistake(
            f"{path} can't be read: {error.strerror}", where=where, hint="certificate and key are PEM files"
        ) from None


def _certificates(content: bytes, file: str, where: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise SystemMistake(f"{file} holds no certificate: {error}", where=where, hint="it must be PEM") from None


def _fitting_key(
    certificates: list[x509.Certificate], key: bytes, files: tuple[str, str], where: str
) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        hint = "openssl pkey -in KEY -out KEY.plain, readable by its owner only"
        raise SystemMistake(f"the key {files[1]} asks for a password", where=where, hint=hint) from None
    except Exception as error:  # cryptography has an exception of its own for keys that it does not know
        raise SystemMistake(f"{files[1]} holds no private key: {error}", where=where, hint="it must be PEM") from None
    if (fault := _weakness(private)) or not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise SystemMistake(f"the key {files[1]} can't be used: {fault}", where=where, hint="ECDSA P-256 or RSA 2048")
    public = private.public_key()
    fitting = [_spki(one.public_key()) == _spki(public) for one in certificates]
    if fitting[0]:
        return private
    detail = f"the certificate {files[0]} and the key {files[1]} don't fit together"
    hint = "the server's own certificate stands first in its file" if any(fitting) else "they are two halves of different pairs"
    raise SystemMistake(detail, where=where, hint=hint)


def _weakness(key: object) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "" if key.key_size >= _RSA_BITS else f"RSA with {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return "" if key.curve.name in _CURVES else f"the curve {key.curve.name}"
    return f"{type(key).__name__.lstrip('_')} is of a kind that Envoy does not take"


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _signs(leaf: x509.Certificate) -> bool:
    """Whether it may be used in a handshake: without the extension it may be used for everything."""
    try:
        return leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in extension.value)
