"""`atoll up --tls`, and `[gateway.tls]` in a manifest: the whole system behind HTTPS."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

import atoll.__main__
from atoll.certificates.authority import Authority
from atoll.certificates.pair import Pair
from atoll.gateway.files import body, replace_file
from atoll.gateway.xds import tls
from tests.support.load import Ask, load
from tests.support.ports import free_port
from tests.support.system import RunningSystem, running, system
from tests.support.tls import Files
from tests.support.waiting import until_sync


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("window", tmp_path_factory.mktemp("tls") / "window", "--tls") as copy:
        yield copy


def ca(copy: RunningSystem) -> Path:
    return copy.folder / ".atoll" / "tls" / "ca.pem"


def client(copy: RunningSystem, *, authority: Path | None = None, user: str = "") -> httpx.Client:
    headers = {"authorization": f"Bearer {copy.must('token', user).strip()}"} if user else {}
    verify = ssl.create_default_context(cafile=str(authority or ca(copy)))
    return httpx.Client(base_url=copy.url, headers=headers, timeout=15, verify=verify)


def served(copy: RunningSystem, authority: Path | None = None) -> str:
    """The digest of the certificate that the gateway shows."""
    context = ssl.create_default_context(cafile=str(authority or ca(copy)))
    with (
        socket.create_connection(("127.0.0.1", httpx.URL(copy.url).port or 0), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).fingerprint(hashes.SHA256()).hex()


def applied(copy: RunningSystem) -> dict[str, Any]:
    return dict(json.loads((copy.folder / ".atoll" / "gateway" / "applied.json").read_bytes()))


def test_tokens_of_its_issuer_open_operations_over_https(window: RunningSystem) -> None:
    assert window.url.startswith("https://localhost:")
    with client(window, user="ann") as http:
        assert http.get("/stock/candles").json() == {"candles": 7}
    with client(window) as stranger:
        assert stranger.get("/stock/candles").status_code == 401
        assert "strict-transport-security" not in stranger.get("/openapi.json").headers, "localhost is every program's"


def test_nobody_is_answered_without_tls_and_nobody_trusts_it_unasked(window: RunningSystem) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(window.url.replace("https:", "http:"))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(window.url, verify=ssl.create_default_context())


def test_a_client_of_this_machine_calls_the_gateway_over_https(window: RunningSystem) -> None:
    with client(window, user="ann") as http:
        seen = http.get("/window").json()

    assert seen == {"asked": f"{window.url}/stock/candles", "answer": '{"candles":7}', "came_by": "https"}
    variables = json.loads(window.must("env", "window", "--json"))
    assert variables["ATOLL_GATEWAY_CA"] == str(ca(window))
    assert "ATOLL_GATEWAY_CA" not in json.loads(window.must("env", "stock", "--json"))


def test_the_printed_command_works_as_it_stands(tmp_path: Path) -> None:
    """And a second `up --tls` has the same authority, so that it is trusted once."""
    with system("window", tmp_path / "window") as copy:
        first = copy.must("up", "--detach", "--isolated", "--tls")
        before = ca(copy).read_bytes()
        assert f"clients must trust {ca(copy)}" in first
        (line,) = [line for line in first.splitlines() if line.startswith("  curl")]
        typed = line.replace(atoll.__main__.__file__, f"{sys.executable} -m atoll")  # how this test calls it
        done = subprocess.run(["sh", "-c", f"{typed} --silent"], capture_output=True, text=True, check=False)
        assert json.loads(done.stdout) == {"candles": 7}, done
        copy.down()
        copy.up("--tls")
        assert ca(copy).read_bytes() == before
        copy.down()


@pytest.mark.parametrize("harm", ["another", "broken", "removed"])
def test_a_certificate_that_somebody_else_put_before_envoy_is_told_and_put_right(
    window: RunningSystem, harm: str, tmp_path: Path
) -> None:
    """In the gateway's own file, past the one where certificates are replaced."""
    secret = window.folder / ".atoll" / "gateway" / "server_certificate" / "server_certificate.json"
    before, shown = secret.read_bytes(), served(window)
    told_before = (applied(window)["drift"] or {}).get("seen")

    def told() -> dict[str, Any]:
        drift = applied(window)["drift"] or {}
        return drift if drift.get("seen") != told_before and drift["healed"] else {}

    with load(window.url, lambda: Ask("GET", "/openapi.json"), {}, trusting=trusting(window)) as answers:
        until_sync(answers.more(20), 20, "connections that stand")
        if harm == "another":
            pair = Files(tmp_path).fill()
            resource = tls.certificate("server_certificate", pair.chain.decode(), pair.key.decode())
            replace_file(secret, body("server_certificate", [resource]))
        elif harm == "broken":
            replace_file(secret, b"{")
        else:
            secret.unlink()
        drift = until_sync(told, 20, "drift is put right")
        until_sync(answers.more(20), 20)

    assert any("server_certificate" in what for what in drift["what"])
    assert (secret.read_bytes(), served(window)) == (before, shown)
    assert answers.unexpected == []


def trusting(copy: RunningSystem) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca(copy)))


def test_a_certificate_that_is_renewed_is_shown_without_a_restart(window: RunningSystem) -> None:
    folder = window.folder / ".atoll" / "tls"
    authority = Authority(Pair.parse(ca(window).read_bytes(), (folder / "ca-key.pem").read_bytes()))
    pids = {name: one["pid"] for name, one in window.processes().items()}
    with client(window) as http:
        assert http.get("/openapi.json").status_code == 200
        renewed = authority.issue(["localhost"], "server", datetime.now(UTC), timedelta(hours=1))
        renewed.save(folder / "certificate.pem", folder / "key.pem")
        until_sync(lambda: served(window) == renewed.digest, 20, "the renewed certificate is shown")
        assert http.get("/openapi.json").status_code == 200
    until_sync(lambda: applied(window)["certificates"]["server_certificate"]["sha256"] == renewed.digest)

    (folder / "key.pem").write_text("half of a k")

    until_sync(lambda: applied(window)["faults"], 20, "the broken pair is told")
    assert str(folder / "key.pem") in applied(window)["faults"][0]
    assert str(folder / "key.pem") in window.must("logs", "gateway")
    assert served(window) == renewed.digest
    assert {name: one["pid"] for name, one in window.processes().items()} == pids


def with_own(copy: RunningSystem, **keys: object) -> Files:
    """The manifest names a certificate of its own."""
    files = Files(copy.folder / "certificates")
    files.fill()
    own = {"certificate": '"certificates/certificate.pem"', "key": '"certificates/key.pem"', **keys}
    manifest = copy.folder / "atoll.toml"
    lines = "".join(f"{name} = {value}\n" for name, value in own.items())
    manifest.write_text(manifest.read_text() + f"\n[gateway.tls]\n{lines}")
    return files


def test_a_certificate_of_ones_own_stands_in_the_manifest(tmp_path: Path) -> None:
    with system("window", tmp_path / "window") as copy:
        files = with_own(copy, redirect_port=free_port(), hsts_s=60)
        assert findings(copy)["certificate"]["state"] == "ok"
        assert "localhost, 127.0.0.1" in findings(copy)["certificate"]["found"]
        summary = copy.up()
        assert summary["ca"] == ""
        assert not (copy.folder / ".atoll" / "tls").exists()
        redirect_port = json.loads((copy.folder / ".atoll" / "ports.json").read_text())["gateway.redirect"]
        with client(copy, authority=files.ca) as http:
            asked = http.get(f"http://localhost:{redirect_port}/openapi.json?x=1")
            assert (asked.status_code, asked.headers["location"]) == (308, f"{copy.url}/openapi.json?x=1")
            answer = http.get(asked.headers["location"])
            assert (answer.status_code, answer.headers["strict-transport-security"]) == (200, "max-age=60")
        copy.down()


def findings(copy: RunningSystem) -> dict[str, dict[str, str]]:
    return {one["what"]: one for one in json.loads(copy.run("doctor", "--json").stdout)}


def test_a_certificate_that_can_not_be_used_is_told_before_anything_starts(tmp_path: Path) -> None:
    with system("window", tmp_path / "window") as copy:
        files = with_own(copy)
        files.key.write_bytes(files.issue().key)

        refused = copy.run("up", "--detach", "--isolated")

        line = (copy.folder / "atoll.toml").read_text().splitlines().index("[gateway.tls]") + 1
        assert refused.returncode == 1
        assert f"atoll.toml:{line}: the certificate {files.certificate} and the key {files.key} don't fit" in refused.stderr
        assert not (copy.folder / ".atoll" / "state.json").exists()
        found = findings(copy)["certificate"]
        assert found["state"] == "missing"
        assert f"atoll.toml:{line}" in found["found"]
        old = files.issue(now=datetime.now(UTC) - timedelta(minutes=58))
        old.save(files.certificate, files.key)
        assert findings(copy)["certificate"]["state"] == "warning", "it ends in two minutes"
