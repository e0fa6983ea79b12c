"""Settings: from manifest, .env and environment, all faults at once, secrets never shown."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from atoll import Secret, Settings
from atoll.errors import SystemMistake
from atoll.service.settings import Sources, load, parse_dotenv


class Limits(msgspec.Struct):
    low: int
    high: int


class PaymentSettings(Settings):
    timeout_s: float = 2.0
    provider_url: str
    provider_key: Secret
    vat_rate: Decimal = Decimal("0.10")
    retries: Annotated[int, msgspec.Meta(ge=0)] = 3
    hosts: tuple[str, ...] = ()
    limits: Limits | None = None


GOOD = {"provider_url": "http://manifest", "provider_key": "k"}


def loaded(sources: Sources) -> PaymentSettings:
    found = load([PaymentSettings], sources)[PaymentSettings]
    assert isinstance(found, PaymentSettings)
    return found


def test_the_environment_wins_over_dotenv_and_that_over_the_manifest() -> None:
    manifest = GOOD | {"vat_rate": "0.1", "retries": 1, "timeout_s": 9}
    sources = Sources(manifest, {"VAT_RATE": "0.2", "RETRIES": "2"}, {"VAT_RATE": "0.3"})

    settings = loaded(sources)

    assert (settings.vat_rate, settings.retries, settings.timeout_s) == (Decimal("0.3"), 2, 9.0)
    assert settings.provider_url == "http://manifest"


def test_dotenv_lies_in_the_services_folder(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PROVIDER_URL=http://dotenv # the test one\nPROVIDER_KEY='a b#c'\n")

    settings = loaded(Sources.of({}, tmp_path, {}))

    assert (settings.provider_url, settings.provider_key.reveal()) == ("http://dotenv", "a b#c")
    assert Sources.of({}, None, {}).dotenv == {}


def test_every_fault_is_named_at_once_with_its_place() -> None:
    with pytest.raises(SystemMistake) as caught:
        loaded(Sources({"retries": -1, "vat_rate": "much"}, {}, {"TIMEOUT_S": "soon", "HOSTS": "[1]"}))

    text = str(caught.value)
    assert "provider_url: is missing (PaymentSettings; set PROVIDER_URL)" in text
    assert "provider_key: is missing" in text
    assert "retries: Expected `int` >= 0, not -1 (atoll.toml, settings.retries)" in text
    assert "vat_rate: Invalid decimal string" in text
    assert "'soon' (environment variable TIMEOUT_S)" in text
    assert "hosts: Expected `str`" in text


def test_lists_and_structs_are_json_in_the_environment_and_tables_in_the_manifest() -> None:
    text = loaded(Sources(GOOD, {}, {"HOSTS": '["a", "b"]', "LIMITS": '{"low": 1, "high": 2}'}))
    table = loaded(Sources(GOOD | {"hosts": ["a"], "limits": {"low": 1, "high": 2}}))

    assert (text.hosts, table.hosts) == (("a", "b"), ("a",))
    assert text.limits == table.limits == Limits(1, 2)


def test_a_secret_shows_itself_only_when_asked() -> None:
    settings = loaded(Sources(GOOD))

    assert "k'" not in repr(settings)
    assert f"{settings.provider_key} {settings.provider_key!r} %s" % settings.provider_key == "*** *** ***"
    assert settings.provider_key.reveal() == "k"
    assert settings.provider_key == Secret("k") != Secret("l")
    assert hash(Secret("k")) == hash(Secret("k"))
    assert not Secret("")


def test_a_wrong_secret_is_not_shown_either() -> None:
    with pytest.raises(SystemMistake) as caught:
        loaded(Sources(GOOD | {"provider_key": 12345}))

    assert "12345" not in str(caught.value)
    assert "provider_key" in str(caught.value)


def test_a_dotenv_line_that_is_none_is_named() -> None:
    text = '\n# comment\nexport A=1\nB="x\\ny" # z\nC=\n'

    assert parse_dotenv(text) == {"A": "1", "B": "x\ny", "C": ""}
    with pytest.raises(SystemMistake, match=r"\.env:2: this is not NAME=value"):
        parse_dotenv("A=1\nnonsense")
