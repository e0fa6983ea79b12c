"""Key sets: never empty, never with a private value, replaced whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from atoll.errors import Malformed
from atoll.tokens import KeySet, SigningKey
from atoll.tokens.keys import THROWAWAY

KEY = SigningKey.generate()


def jwks(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_a_set_travels_as_a_standard_jwks() -> None:
    text = KeySet.of([KEY.public], version=7).serialize()
    first, throwaway = json.loads(text)["keys"]
    assert first == {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY.kid, "x": KEY.x, "y": KEY.y}
    assert ECKey.import_key(first).thumbprint() == KEY.kid
    assert ECKey.import_key(throwaway).kid == "throwaway"
    assert KeySet.parse(text) == KeySet.of([KEY.public], version=7)


def test_a_set_is_never_empty_but_tells_whether_any_token_could_verify() -> None:
    assert KeySet.parse(jwks()).keys == (THROWAWAY,)
    assert not KeySet().usable
    assert KeySet.of([KEY.public]).usable
    assert KeySet.of([THROWAWAY]).keys == (THROWAWAY,)


def test_nobody_can_know_the_throwaway_keys_private_half() -> None:
    digests = (hashlib.sha256(f"atoll throwaway key {number}".encode()).digest() for number in range(10))
    assert THROWAWAY.x in {base64.urlsafe_b64encode(digest).rstrip(b"=").decode() for digest in digests}


def test_no_private_value_gets_into_a_set() -> None:
    leaked = KeySet.parse(jwks({**json.loads(KEY.private_jwk), "alg": "ES256"}))
    assert leaked.keys[0] == KEY.public
    assert KEY.d not in leaked.serialize().decode()


def test_keys_that_es256_cannot_use_are_left_out() -> None:
    others = [
        RSAKey.generate_key(2048, {"kid": "r"}, private=False).as_dict(private=False),
        OKPKey.generate_key("Ed25519", {"kid": "o"}, private=False).as_dict(private=False),
        ECKey.generate_key("P-384", {"kid": "p"}, private=False).as_dict(private=False),
        {"kty": "oct", "kid": "s", "k": "c2VjcmV0"},
        {"kty": "EC", "crv": "P-256", "kid": "e", "use": "enc", "x": KEY.x, "y": KEY.y},
        {"kty": "EC", "crv": "P-256", "x": KEY.x, "y": KEY.y},
    ]
    assert KeySet.parse(jwks(*others)) == KeySet()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": [1]}', b"\xff"])
def test_what_is_no_jwks_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        KeySet.parse(body)


def test_two_keys_of_one_name_are_refused() -> None:
    other = {**json.loads(KeySet.of([SigningKey.generate().public]).serialize())["keys"][0], "kid": KEY.kid}
    mine = json.loads(KeySet.of([KEY.public]).serialize())["keys"][0]
    with pytest.raises(Malformed, match="one kid"):
        KeySet.parse(jwks(mine, other))


def test_a_late_snapshot_does_not_undo_a_newer_set() -> None:
    old, new = KeySet.of([], version=1), KeySet.of([KEY.public], version=2)
    assert new.update(old) is new
    assert old.update(new) is new


def test_a_saved_set_is_loaded_again_and_no_other_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "state" / "orders" / "keys.json"
    assert KeySet.load(path) is None
    KeySet.of([KEY.public], version=3).save(path)
    KeySet.of([KEY.public], version=4).save(path)
    assert KeySet.load(path) == KeySet.of([KEY.public], version=4)
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(KeySet.of([KEY.public]).serialize()[:40])
    assert KeySet.load(path) is None


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    KeySet.of([KEY.public], version=1).save(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        KeySet.of([], version=2).save(path)
    assert KeySet.load(path) == KeySet.of([KEY.public], version=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_signing_key_survives_its_database_and_hides_in_logs() -> None:
    assert SigningKey.parse(KEY.private_jwk) == KEY
    assert ECKey.import_key(json.loads(KEY.private_jwk)).is_private
    assert KEY.d not in repr(KEY)
    assert KEY.d not in f"{KEY}"
    with pytest.raises(Malformed):
        SigningKey.parse("{}")


def test_importing_the_room_imports_no_cryptography() -> None:
    code = "import sys, atoll.tokens; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
