"""A certificate authority of one's own: for one machine (`atoll up --tls`) and for what runs between machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from atoll.certificates.pair import Pair

__all__ = ["Authority"]

Usage = Literal["server", "client", "peer"]

_USAGES = {
    "server": [ExtendedKeyUsageOID.SERVER_AUTH],
    "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
    "peer": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
}
_SKEW = timedelta(minutes=5)  # of other machines' clocks


@dataclass(frozen=True, slots=True)
class Authority:
    """`pair` is its own certificate and key."""

    pair: Pair

    @classmethod
    def make(cls, name: str, now: datetime, lifetime: timedelta, only: Sequence[str] = ()) -> Authority:
        """With `only` (DNS names and networks like 127.0.0.0/8) it can vouch for nothing else, whoever has its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _begun(name, name, key.public_key(), (now - _SKEW, now + lifetime))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(authority=True), critical=True)
        if only:
            builder = builder.add_extension(_constraints(only), critical=True)
        return cls(_pair(builder.sign(key, hashes.SHA256()), key))

    def issue(self, names: Sequence[str], usage: Usage, now: datetime, lifetime: timedelta) -> Pair:
        """A certificate for these DNS names and addresses, good for one end of a connection only; a peer's for both."""
        own = x509.load_pem_x509_certificate(self.pair.chain)
        signer = _private(self.pair.key)
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(now + lifetime, self.pair.ends)
        builder = _begun(names[0], _common_name(own), key.public_key(), (now - _SKEW, ends))
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(_USAGES[usage]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(one) for one in names]), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        return _pair(builder.sign(signer, hashes.SHA256()), key)


def _begun(
    subject: str, issuer: str, key: ec.EllipticCurvePublicKey, time: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_called(subject))
        .issuer_name(_called(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(time[0])
        .not_valid_after(time[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _constraints(only: Sequence[str]) -> x509.NameConstraints:
    permitted = [x509.IPAddress(ip_network(one)) if "/" in one else x509.DNSName(one) for one in only]
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "made by `make`"
    return key


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair.parse(certificate.public_bytes(Encoding.PEM), private)
