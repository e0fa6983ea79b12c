"""TLS, HTTP/2, HTTP/3 and the redirect, with the real Envoy: what a client may speak, and certificates that change."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from prometheus_client.parser import text_string_to_metric_families

from atoll.certificates.pair import Pair
from atoll.gateway.admin import Admin
from atoll.gateway.ir import Endpoint, Listener, Tls
from atoll.gateway.secrets import Follower, Origin, Secret, write_secrets
from atoll.gateway.xds import tls
from tests.support.gateway import Rig, contract, gateway, known, load, replica, upstreams
from tests.support.http3 import get as http3_get
from tests.support.ports import free_port
from tests.support.raw import answers
from tests.support.tls import Files
from tests.support.tokens import Mint
from tests.support.waiting import until

MINT = Mint()
ORDERS = contract(
    "orders",
    {
        "/orders": {"get": {"operationId": "mine", "security": [{"token": []}]}},
        "/orders/search": {"get": {"operationId": "search", "security": []}, "post": {"operationId": "find", "security": []}},
        "/orders/rare": {"get": {"operationId": "rare", "security": [], "x-atoll-rate-limit": "2/h"}},
    },
)
HSTS_S = 31_536_000
MANY_STREAMS = 3_000


@dataclass
class Shop:
    """A gateway with TLS, whose certificate comes from `files`. `shown` and `faults` are what was reported last."""

    rig: Rig
    files: Files
    shown: Mapping[str, Any] = field(default_factory=dict)
    faults: Sequence[str] = ()
    follower: Follower = field(init=False)

    def __post_init__(self) -> None:
        self.follower = Follower([self.origin], self.rig.folders, Admin(self.rig.admin), self._report)

    @property
    def origin(self) -> Origin:
        return Origin("server_certificate", (self.files.certificate, self.files.key))

    def _report(self, shown: Mapping[str, Any], faults: Sequence[str]) -> None:
        self.shown, self.faults = shown, faults

    @property
    def port(self) -> int:
        return self.rig.listener.port

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def plain_url(self) -> str:
        assert self.rig.listener.tls is not None
        return f"http://localhost:{self.rig.listener.tls.redirect_port}"

    @property
    def inside_url(self) -> str:
        return f"http://127.0.0.1:{self.rig.listener.inside_port}"

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.files.trusting(), timeout=20, **more)

    @contextmanager
    def connection(self, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        with (context or self.files.trusting()).wrap_socket(plain, server_hostname="localhost") as secured:
            yield secured

    def served(self) -> str:
        """The digest of the certificate that a client is shown now."""
        with self.connection() as secured:
            certificate = secured.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()

    async def until_served(self, pair: Pair) -> None:
        await until(partial(self._serves, pair.digest), what="the new certificate is shown")

    async def _serves(self, digest: str) -> bool:
        return await asyncio.to_thread(self.served) == digest


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("tls")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield runner.run(_shop(folder, stack))
        runner.run(stack.aclose())


async def _shop(folder: Path, stack: AsyncExitStack) -> Shop:
    (one,) = await stack.enter_async_context(upstreams(folder, "orders-1"))
    port = free_port()
    listener = Listener("127.0.0.1", port, tls=Tls(HSTS_S, free_port(), http3=True), inside_port=free_port())
    what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),), public_url=f"https://localhost:{port}")
    files = Files(folder / "certificates")
    files.fill()
    shop = Shop(Rig(folder / "gateway", listener, Endpoint("127.0.0.1", free_port()), what), files)
    write_secrets(shop.rig.folders, [shop.origin])
    shop.rig.start()
    stack.callback(shop.rig.process.stop)
    await shop.rig.wait_ready()
    return shop


# what is spoken


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(shop: Shop, version: ssl.TLSVersion) -> None:
    context = shop.files.trusting()
    context.minimum_version = context.maximum_version = version

    with shop.connection(context) as secured:
        assert secured.version() == version.name.replace("_", ".")


def _old(files: Files, ciphers: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that minds nothing, so that it is the server that refuses."""
    context = files.trusting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return context


def test_tls_1_1_is_refused(shop: Shop) -> None:
    with (
        pytest.raises(ssl.SSLError, match="alert protocol version"),
        shop.connection(_old(shop.files, "ALL", ssl.TLSVersion.TLSv1_1)),
    ):
        pass


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA"])
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(shop: Shop, ciphers: str) -> None:
    context = _old(shop.files, ciphers, ssl.TLSVersion.TLSv1_2)

    with pytest.raises(ssl.SSLError, match="handshake failure"), shop.connection(context):
        pass


@pytest.mark.parametrize("fault", [b"\nc: d", b"\r\n c: d"], ids=["LF", "fold"])
def test_a_fault_behind_a_good_request_is_refused_in_tls_too(shop: Shop, fault: bytes) -> None:
    good = b"GET /orders/search HTTP/1.1\r\nHost: localhost\r\na: b%s\r\n\r\n"

    with shop.connection() as secured:
        secured.sendall(good % b"" + good % fault + good % b"")
        assert [answer.status for answer in answers(secured)] == [200, 400]


@pytest.mark.parametrize(("spoken", "statuses"), [(["http/1.1"], [400]), ([], [])], ids=["chosen", "not chosen"])
def test_what_only_begins_like_http_2_is_answered_by_nobody(shop: Shop, spoken: list[str], statuses: list[int]) -> None:
    """The filter before Envoy's reader lets it pass. Where HTTP/1.1 was chosen, Envoy knows no such method."""
    context = shop.files.trusting()
    if spoken:
        context.set_alpn_protocols(spoken)

    with shop.connection(context) as secured:
        secured.sendall(b"PRI * HTTP/2.0\r\nHost: a\r\n\r\nGET /orders/search HTTP/1.1\nHost: localhost\n\n")
        received = b"".join(iter(lambda: secured.recv(65_536), b""))

    assert [int(line.split()[1]) for line in received.splitlines() if line.startswith(b"HTTP/1.1 ")] == statuses


def test_http_2_is_chosen_where_a_client_offers_it(shop: Shop) -> None:
    with shop.client(http2=True) as both, shop.client() as old:
        assert both.get("/orders/search").http_version == "HTTP/2"
        assert old.get("/orders/search").http_version == "HTTP/1.1"


async def test_http_2_is_spoken_without_tls_too(tmp_path: Path) -> None:
    """By clients that know it (gRPC does): nothing is upgraded."""
    async with upstreams(tmp_path, "orders-1") as (one,):
        what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),))
        async with (
            gateway(tmp_path / "gateway", what, MINT) as rig,
            httpx.AsyncClient(http1=False, http2=True, base_url=rig.url, timeout=20) as http,
        ):
            answer = await http.get("/orders/search")
            refused = await http.get("/orders")

    assert (answer.http_version, answer.status_code, refused.status_code) == ("HTTP/2", 200, 401)
    assert "strict-transport-security" not in answer.headers


def test_plain_http_at_the_tls_port_gets_no_answer(shop: Shop) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{shop.port}/orders/search")


# what every answer says


TOO_LARGE, TOO_MANY, UNDERSCORE = (
    {"big": "x" * 20_000},
    {f"h{number}": "1" for number in range(61)},
    {"x_atoll_subject": "root"},
)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/orders/search", {}, 200),
        ("/openapi.json", {}, 200),
        ("/orders", {}, 401),
        ("/nothing", {}, 404),
        ("/orders/a%2fb", {}, 400),
        ("/orders/search", TOO_LARGE, 431),
        ("/orders/search", TOO_MANY, 431),
        ("/orders/search", UNDERSCORE, 400),
    ],
)
def test_every_answer_asks_for_https_from_now_on(shop: Shop, path: str, headers: dict[str, str], status: int) -> None:
    with shop.client() as http:
        answer = http.get(path, headers=headers)

    assert answer.status_code == status
    assert answer.headers["strict-transport-security"] == f"max-age={HSTS_S}"
    assert answer.headers["alt-svc"] == f'h3=":{shop.port}"; ma=86400'


@pytest.mark.parametrize(("path", "status"), [("/orders/search", 200), ("/orders", 401), ("/nothing", 404)])
def test_so_does_every_answer_in_http_2(shop: Shop, path: str, status: int) -> None:
    with shop.client(http2=True) as http:
        answer = http.get(path)

    assert (answer.http_version, answer.status_code) == ("HTTP/2", status)
    assert answer.headers["strict-transport-security"] == f"max-age={HSTS_S}"


# inside


@pytest.mark.parametrize(("path", "status"), [("/orders/search", 200), ("/orders", 401), ("/nothing", 404)])
def test_inside_the_same_is_answered_over_plain_http_and_nothing_is_said_of_tls(shop: Shop, path: str, status: int) -> None:
    answer = httpx.get(f"{shop.inside_url}{path}", timeout=20)

    assert answer.status_code == status
    assert not {"strict-transport-security", "alt-svc"} & answer.headers.keys()


# HTTP/2 has the same limits


@pytest.mark.parametrize("headers", [TOO_LARGE, TOO_MANY, UNDERSCORE], ids=["large", "many", "underscore"])
def test_headers_that_http_1_refuses_do_not_pass_in_http_2(shop: Shop, headers: dict[str, str]) -> None:
    """Its answer is a reset stream (RFC 9113 §8.1.1); the connection's other requests go on."""
    with shop.client(http2=True) as http:
        with pytest.raises(httpx.RemoteProtocolError, match="StreamReset"):
            http.get("/orders/search", headers=headers)
        assert http.get("/orders/search").status_code == 200


class _Http2:
    """A connection whose frames are chosen one by one."""

    def __init__(self, secured: ssl.SSLSocket) -> None:
        self._socket = secured
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.state.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self._socket.sendall(self.state.data_to_send())

    def receive(self) -> list[h2.events.Event]:
        """[] when the other side has closed."""
        data = self._socket.recv(65_536)
        return list(self.state.receive_data(data)) if data else []

    def until(self, kind: type[Any]) -> Any:
        while events := self.receive():
            for event in events:
                if isinstance(event, kind):
                    return event
        raise AssertionError(f"closed before {kind.__name__}")


def _http2(files: Files) -> ssl.SSLContext:
    context = files.trusting()
    context.set_alpn_protocols(["h2"])
    return context


def _request(shop: Shop) -> list[tuple[str, str]]:
    authority = f"localhost:{shop.port}"
    return [(":method", "GET"), (":path", "/orders/search"), (":scheme", "https"), (":authority", authority)]


def test_a_connection_has_a_hundred_streams_at_most(shop: Shop) -> None:
    with shop.connection(_http2(shop.files)) as secured:
        changed = _Http2(secured).until(h2.events.RemoteSettingsChanged).changed_settings

    assert changed[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS].new_value == 100


def test_who_opens_and_resets_streams_without_end_is_cut_off(shop: Shop) -> None:
    """Rapid reset, CVE-2023-44487: requests none of which wants an answer."""
    with shop.connection(_http2(shop.files)) as secured:
        client = _Http2(secured)
        client.until(h2.events.RemoteSettingsChanged)
        sent = 0
        with suppress(OSError, h2.exceptions.ProtocolError):
            for sent in range(MANY_STREAMS):
                client.state.send_headers(2 * sent + 1, _request(shop), end_stream=True)
                client.state.reset_stream(2 * sent + 1, h2.errors.ErrorCodes.CANCEL)
                client.flush()
            while client.receive():
                pass
    answered = httpx.get(f"http://{shop.rig.admin}/stats?filter=^http.atoll.downstream_rq_too_many_premature_resets").text
    assert int(answered.split(": ")[1]) == 1
    with shop.client() as http:
        assert http.get("/orders/search").status_code == 200


# the redirect


def _raw(url: str, request: bytes) -> tuple[int, dict[str, str]]:
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=10) as connection:
        connection.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head and (chunk := connection.recv(65_536)):
            head += chunk
    first, *lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines)


@pytest.mark.parametrize(
    ("target", "host", "location"),
    [
        ("/orders/7?expand=lines&x=%2F", "localhost", "/orders/7?expand=lines&x=%2f"),
        ("/", "evil.example", "/"),
        ("/orders/../admin", "evil.example", "/admin"),
        ("//evil.example/x", "evil.example", "/evil.example/x"),
        ("/\\evil.example/x", "evil.example", "/evil.example/x"),
        ("http://evil.example/x", "evil.example", "/x"),
        ("http://evil.example//other.example/x", "localhost", "/other.example/x"),
    ],
)
def test_plain_http_is_sent_to_the_public_url_whatever_host_it_names(shop: Shop, target: str, host: str, location: str) -> None:
    status, headers = _raw(shop.plain_url, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    assert (status, headers["location"]) == (308, shop.url + location)
    assert "strict-transport-security" not in headers


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /a%2fb HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nx_y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_no_valid_request_is_not_redirected(shop: Shop, request_: bytes) -> None:
    status, headers = _raw(shop.plain_url, request_)

    assert (status, "location" in headers) == (400, False)


def test_a_redirect_keeps_the_method_and_its_target_answers(shop: Shop) -> None:
    with shop.client(follow_redirects=True) as http:
        answer = http.post(f"{shop.plain_url}/orders/search?q=1", content=b"hello")

    assert [one.status_code for one in (*answer.history, answer)] == [308, 200]
    assert (answer.json()["method"], answer.json()["body"]) == ("POST", "hello")


# certificates change


async def test_a_new_certificate_is_shown_and_open_connections_go_on(shop: Shop) -> None:
    with shop.client(http2=True) as http:
        before = http.get("/orders/search")
        port = before.extensions["network_stream"].get_extra_info("client_addr")
        new = shop.files.fill()
        await shop.follower.look()
        await shop.until_served(new)

        after = http.get("/orders/search")
        assert after.status_code == 200
        assert after.extensions["network_stream"].get_extra_info("client_addr") == port
    assert shop.shown["server_certificate"]["sha256"] == new.digest
    assert shop.shown["server_certificate"]["names"] == ["localhost", "127.0.0.1"]
    assert shop.faults == []


async def test_metrics_tell_when_the_certificate_that_is_shown_ends(shop: Shop) -> None:
    pair = shop.files.issue(lifetime=timedelta(minutes=50))
    pair.save(shop.files.certificate, shop.files.key)
    await shop.follower.look()
    await shop.until_served(pair)

    async def told() -> set[float]:
        text = (await Admin(shop.rig.admin).metrics() or b"").decode()
        families = {one.name: one for one in text_string_to_metric_families(text)}
        found = families["envoy_listener_ssl_certificate_expiration_unix_time_seconds"].samples
        return {one.value for one in found if one.labels["envoy_tls_certificate"] == "server_certificate"}

    async def renewed() -> bool:
        return await told() == {pair.ends.timestamp()}

    await until(renewed, what="the end of the new certificate, over TCP and UDP")


async def test_a_new_certificate_gives_nobody_a_full_bucket(shop: Shop) -> None:
    def statuses(count: int) -> list[int]:
        """Over connections of their own, so that each meets the listener as it is now."""
        found = []
        for _ in range(count):
            with shop.client() as http:
                found.append(http.get("/orders/rare").status_code)
        return found

    assert statuses(3) == [200, 200, 429]
    new = shop.files.fill()
    await shop.follower.look()
    await shop.until_served(new)

    assert statuses(1) == [429]


async def test_ten_certificates_under_load_fail_no_request(shop: Shop) -> None:
    trusting = shop.files.trusting()

    async def shake_hands(_kept: httpx.AsyncClient) -> httpx.Response:
        async with httpx.AsyncClient(verify=trusting, timeout=20) as http:
            return await http.get(f"{shop.url}/orders/search")

    async with load(shake_hands, width=4) as state:
        await state.reach(20)
        for _ in range(10):
            new = shop.files.fill()
            await shop.follower.look()
            await shop.until_served(new)
            await state.reach(10)

    assert state.failures == []
    assert state.done >= 120


def _another_key(files: Files) -> None:
    files.key.write_bytes(files.issue().key)


def _half(files: Files) -> None:
    pair = files.issue()
    files.certificate.write_bytes(pair.chain[: len(pair.chain) // 2])


def _ended(files: Files) -> None:
    files.issue(now=datetime.now(UTC) - timedelta(days=2)).save(files.certificate, files.key)


def _not_yet(files: Files) -> None:
    files.issue(now=datetime.now(UTC) + timedelta(minutes=30), lifetime=timedelta(minutes=20)).save(
        files.certificate, files.key
    )


def _gone(files: Files) -> None:
    files.key.unlink()


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_another_key, "certificate.pem and the key {folder}/key.pem don't fit together"),
        (_half, "{folder}/certificate.pem holds no certificate"),
        (_ended, "the certificate {folder}/certificate.pem ended at"),
        (_not_yet, "the certificate {folder}/certificate.pem is not valid before"),
        (_gone, "{folder}/key.pem can't be read: No such file or directory"),
    ],
)
async def test_a_pair_that_can_not_be_used_changes_nothing_and_is_told(
    shop: Shop, spoil: Callable[[Files], None], fault: str
) -> None:
    good = shop.files.fill()
    await shop.follower.look()
    await shop.until_served(good)

    spoil(shop.files)
    await shop.follower.look()

    (told,) = shop.faults
    assert fault.format(folder=shop.files.folder) in told
    assert "the last good one stays in use" in told
    assert shop.served() == good.digest
    mended = shop.files.fill()
    await shop.follower.look()
    await shop.until_served(mended)
    assert shop.faults == []


async def test_a_certificate_that_ends_while_it_is_in_use_is_told(shop: Shop) -> None:
    shop.files.issue(lifetime=timedelta(seconds=2)).save(shop.files.certificate, shop.files.key)

    async def told() -> bool:
        await shop.follower.look()
        return any("ended at" in fault for fault in shop.faults)

    await until(told, 20, "its end is told")
    shop.files.fill()
    await shop.follower.look()
    assert shop.faults == []


@dataclass(frozen=True, slots=True)
class _Unchecked(Origin):
    """Files that nobody looks into."""

    def read(self, now: datetime) -> Secret:
        chain, key = (file.read_text() for file in self.files)
        return Secret(tls.certificate(self.kind, chain, key), {})


async def test_what_only_envoy_finds_wrong_is_replaced_by_the_last_good_one_on_disk(shop: Shop) -> None:
    """So that an Envoy that starts next finds something that works."""
    good = Path(shop.rig.folders.file("server_certificate")).read_bytes()
    told: list[str] = []
    broken = Files(shop.files.folder / "broken")
    broken.fill()
    broken.certificate.write_text("hello")
    origin = _Unchecked("server_certificate", (broken.certificate, broken.key))

    await Follower([origin], shop.rig.folders, Admin(shop.rig.admin), lambda _shown, faults: told.extend(faults)).look()

    assert told == ["Envoy rejected the new server certificate: its log says why; the last good one stays in use"]
    assert Path(shop.rig.folders.file("server_certificate")).read_bytes() == good
    with shop.client() as http:
        assert http.get("/orders/search").status_code == 200


def test_the_key_can_be_read_by_its_owner_only_and_is_shown_to_nobody(shop: Shop) -> None:
    file = Path(shop.rig.folders.file("server_certificate"))
    assert file.stat().st_mode & 0o777 == 0o600

    dump = httpx.get(f"http://{shop.rig.admin}/config_dump").text
    assert "BEGIN CERTIFICATE" in dump or "server_certificate" in dump
    assert "PRIVATE KEY" not in dump
    assert "PRIVATE KEY" not in repr(shop.origin.read(datetime.now(UTC)))


# HTTP/3


async def test_http_3_has_the_same_routes_tokens_and_limits(shop: Shop) -> None:
    authority = f"localhost:{shop.port}"

    answer = await http3_get(authority, "/orders/search", shop.files.ca, {"x-atoll-subject": "root"})
    refused = await http3_get(authority, "/orders", shop.files.ca)
    for headers in (TOO_LARGE, TOO_MANY, UNDERSCORE):
        with pytest.raises(ConnectionResetError):
            await http3_get(authority, "/orders/search", shop.files.ca, headers)

    assert (answer.status, answer.json["path"]) == (200, "/orders/search")
    assert "x-atoll-subject" not in answer.json["headers"]
    assert answer.headers["strict-transport-security"] == f"max-age={HSTS_S}"
    assert (refused.status, refused.json["code"]) == (401, "unauthorized")


async def test_a_new_certificate_is_shown_in_http_3_too(shop: Shop) -> None:
    stranger = Files(shop.files.folder / "stranger")
    stranger.fill()
    with pytest.raises(ConnectionError):
        await http3_get(f"localhost:{shop.port}", "/orders/search", stranger.ca)
    mine = (shop.files.certificate.read_bytes(), shop.files.key.read_bytes())
    shop.files.certificate.write_bytes(stranger.certificate.read_bytes())
    shop.files.key.write_bytes(stranger.key.read_bytes())
    await shop.follower.look()

    async def served() -> bool:
        try:
            return (await http3_get(f"localhost:{shop.port}", "/orders/search", stranger.ca)).status == 200
        except ConnectionError:
            return False

    await until(served, what="HTTP/3 shows the new certificate")
    shop.files.certificate.write_bytes(mine[0])
    shop.files.key.write_bytes(mine[1])
    await shop.follower.look()
