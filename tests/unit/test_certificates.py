"""Certificates and keys: what is read, what is refused and how that is said, and what an authority of one's own makes."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from atoll.certificates.authority import Authority
from atoll.certificates.pair import Pair
from atoll.certificates.watch import Watch
from atoll.errors import SystemMistake
from atoll.host.tls import LocalTls
from tests.support.tls import Files

NOW = datetime.now(UTC)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.fill("shop.example", "10.0.0.1")
    return made


def read(files: Files, now: datetime | None = None) -> Pair:
    return Pair.read(files.certificate, files.key, now or datetime.now(UTC), "atoll.toml:5")


def test_a_pair_says_for_whom_and_until_when_it_is_and_hides_its_key(files: Files) -> None:
    pair = read(files)

    assert pair.names == ("shop.example", "10.0.0.1")
    assert pair.begins < datetime.now(UTC) < pair.ends
    assert "PRIVATE" not in repr(pair)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _encrypted(files: Files) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))


def _authority_as_server(files: Files) -> None:
    files.authority.pair.save(files.certificate, files.key)


def _authority_first(files: Files) -> None:
    files.certificate.write_bytes(files.authority.pair.chain + files.certificate.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "said", "hint"),
    [
        (lambda files: files.certificate.unlink(), "certificate.pem can't be read: No such file", "PEM"),
        (lambda files: files.key.unlink(), "key.pem can't be read: No such file", "PEM"),
        (lambda files: files.certificate.write_bytes(b"hello"), "certificate.pem holds no certificate", "PEM"),
        (lambda files: files.key.write_bytes(b"hello"), "key.pem holds no private key", "PEM"),
        (lambda files: files.key.write_bytes(files.key.read_bytes()[:90]), "key.pem holds no private key", "PEM"),
        (lambda files: files.key.write_bytes(files.issue().key), "don't fit together", "two halves of different pairs"),
        (_authority_first, "don't fit together", "the server's own certificate stands first"),
        (_authority_as_server, "is an authority's", "the server's own certificate stands first"),
        (_encrypted, "key.pem asks for a password", "openssl pkey"),
        (lambda files: files.key.write_bytes(_pem(rsa.generate_private_key(65537, 1024))), "RSA with 1024 bits", "2048"),
        (lambda files: files.key.write_bytes(_pem(ed25519.Ed25519PrivateKey.generate())), "Envoy does not take", "P-256"),
        (lambda files: files.key.write_bytes(_pem(ec.generate_private_key(ec.SECP256K1()))), "the curve secp256k1", "P-256"),
    ],
)
def test_what_can_not_be_used_is_said_with_file_and_reason(
    files: Files, spoil: Callable[[Files], None], said: str, hint: str
) -> None:
    spoil(files)

    with pytest.raises(SystemMistake) as caught:
        read(files)

    assert said in caught.value.detail
    assert str(files.folder) in caught.value.detail
    assert hint in caught.value.hint
    assert caught.value.where == "atoll.toml:5"


@pytest.mark.parametrize(("days", "said"), [(1, "ended at"), (-1, "is not valid before")])
def test_a_certificate_counts_within_its_time_only(files: Files, days: int, said: str) -> None:
    with pytest.raises(SystemMistake, match=said):
        read(files, NOW + timedelta(days=days))


def test_pem_on_one_line_is_pem(files: Files) -> None:
    """OpenSSL's readers stop at lines that are too long; what is handed on has the usual ones."""
    head, *middle, foot = files.certificate.read_text().strip().splitlines()
    files.certificate.write_text(f"bag attributes\n{head}\n{''.join(middle)}\n{foot}\n")

    assert max(map(len, read(files).chain.splitlines())) == 64


def test_an_authority_can_vouch_for_nothing_but_the_names_it_was_made_for(tmp_path: Path) -> None:
    limited = Authority.make("local", NOW, timedelta(days=1), ("localhost", "127.0.0.0/8"))
    good, bad = Files(tmp_path / "good", limited), Files(tmp_path / "bad", limited)
    good.fill("localhost", "127.0.0.1")
    bad.fill("bank.example")

    assert _handshake(good, "localhost") == ""
    assert "permitted subtree violation" in _handshake(bad, "bank.example")


@pytest.mark.parametrize("strict", [False, True])
def test_what_it_issues_is_taken_by_strict_clients(files: Files, strict: bool) -> None:
    assert _handshake(files, "shop.example", strict=strict) == ""
    assert "IP address mismatch" in _handshake(files, "10.0.0.2", strict=strict)


def _handshake(files: Files, name: str, *, strict: bool = False) -> str:
    """What a client that asks for `name` says of the certificate, "" when nothing; no network is in between."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = files.trusting()
    if strict:
        client.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname=name), server.wrap_bio(there, back, server_side=True)]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return ""


def test_files_that_change_are_seen_once(files: Files) -> None:
    watch = Watch([files.certificate, files.key])

    assert (watch.changed(), watch.changed()) == (True, False)
    files.fill()
    assert (watch.changed(), watch.changed()) == (True, False)
    files.key.unlink()
    assert (watch.changed(), watch.changed()) == (True, False)


def test_a_link_that_leads_elsewhere_is_seen(tmp_path: Path, files: Files) -> None:
    """As Kubernetes replaces a mounted secret."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "certificate.pem").write_text(name)
    link = tmp_path / "data"
    link.symlink_to("one")
    watch = Watch([link / "certificate.pem"])
    assert watch.changed()

    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(link)

    assert watch.changed()


# `atoll up --tls`


@pytest.fixture
def local(tmp_path: Path) -> LocalTls:
    folder = tmp_path / "shop" / ".atoll" / "tls"
    folder.parent.mkdir(parents=True)
    return LocalTls(folder)


def _content(local: LocalTls) -> tuple[bytes, bytes]:
    return local.ca.read_bytes(), local.certificate.read_bytes()


def test_a_local_certificate_is_made_once_and_renewed_before_it_ends(local: LocalTls) -> None:
    local.renew(NOW, {})
    ca, certificate = _content(local)
    local.renew(NOW + timedelta(days=8), {})
    assert _content(local) == (ca, certificate)

    local.renew(NOW + timedelta(days=10), {})

    renewed = Pair.read(local.certificate, local.key, NOW + timedelta(days=20))
    assert renewed.names == ("localhost", "127.0.0.1", "::1")
    assert local.ca.read_bytes() == ca, "who trusts the authority need not again"
    assert renewed.chain != certificate


def test_a_broken_local_certificate_is_made_anew_and_an_ended_authority_too(local: LocalTls) -> None:
    local.renew(NOW, {})
    ca, certificate = _content(local)
    local.key.write_bytes(b"")
    local.renew(NOW, {})
    assert local.ca.read_bytes() == ca
    assert local.certificate.read_bytes() != certificate

    later = NOW + timedelta(days=3640)
    local.renew(later, {})
    assert local.ca.read_bytes() != ca
    issuer = x509.load_pem_x509_certificate(local.ca.read_bytes())
    x509.load_pem_x509_certificate(local.certificate.read_bytes()).verify_directly_issued_by(issuer)


def test_local_keys_can_be_read_by_their_owner_only(local: LocalTls) -> None:
    local.renew(NOW, {})

    assert {file.stat().st_mode & 0o077 for file in (local.folder, local.ca_key, local.key)} == {0}


def test_what_clients_trust_is_what_this_machine_trusts_and_the_local_authority(local: LocalTls, files: Files) -> None:
    local.renew(NOW, {"SSL_CERT_FILE": str(files.ca)})

    assert local.trusted.read_bytes() == local.ca.read_bytes() + b"\n" + files.ca.read_bytes()
