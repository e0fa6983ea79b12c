"""What processes are told of TLS: files go together, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.errors import SystemMistake
from atoll.gateway.environment import Environment as ControllerEnvironment
from atoll.gateway.ir import Tls, Upstream
from atoll.service.environment import Environment, TlsFiles

SERVICE = {"ATOLL_SERVICE": "orders", "ATOLL_LISTEN": "127.0.0.1:2100"}
SERVICE_TLS = {"ATOLL_TLS_CERTIFICATE": "/c.pem", "ATOLL_TLS_KEY": "/k.pem", "ATOLL_TLS_CA": "/ca.pem"}
GATEWAY = {
    "ATOLL_BUS_URL": "nats://127.0.0.1:4222",
    "ATOLL_GATEWAY_DIR": "/gateway",
    "ATOLL_GATEWAY_PORT": "8443",
    "ATOLL_ENVOY_ADMIN": "127.0.0.1:9901",
}
SERVER = {"ATOLL_GATEWAY_CERTIFICATE": "/c.pem", "ATOLL_GATEWAY_KEY": "/k.pem"}
UPSTREAM = {
    "ATOLL_GATEWAY_UPSTREAM_CERTIFICATE": "/uc.pem",
    "ATOLL_GATEWAY_UPSTREAM_KEY": "/uk.pem",
    "ATOLL_GATEWAY_UPSTREAM_CA": "/uca.pem",
}


def test_a_service_speaks_tls_when_it_is_told_all_three_files() -> None:
    assert Environment.read(SERVICE).tls is None
    assert Environment.read({**SERVICE, **SERVICE_TLS}).tls == TlsFiles(Path("/c.pem"), Path("/k.pem"), Path("/ca.pem"))


@pytest.mark.parametrize("missing", sorted(SERVICE_TLS))
def test_a_service_that_misses_one_of_them_does_not_start_without_tls(missing: str) -> None:
    with pytest.raises(SystemMistake, match=missing):
        Environment.read({**SERVICE, **SERVICE_TLS, missing: ""})


def test_the_gateway_knows_its_files_from_variables() -> None:
    plain = ControllerEnvironment.read(GATEWAY)
    assert (plain.listener.tls, plain.listener.upstream, plain.origins) == (None, Upstream(), ())

    more = {"ATOLL_GATEWAY_HSTS_S": "60", "ATOLL_GATEWAY_REDIRECT_PORT": "8080", "ATOLL_GATEWAY_QUIC": "1"}
    full = ControllerEnvironment.read({**GATEWAY, **SERVER, **UPSTREAM, **more})

    assert full.listener.tls == Tls(hsts_s=60, redirect_port=8080, http3=True)
    assert full.listener.upstream == Upstream(certified=True)
    assert {origin.kind: [str(file) for file in origin.files] for origin in full.origins} == {
        "server_certificate": ["/c.pem", "/k.pem"],
        "upstream_certificate": ["/uc.pem", "/uk.pem"],
        "upstream_authorities": ["/uca.pem"],
    }
    assert ControllerEnvironment.read({**GATEWAY, "ATOLL_GATEWAY_UPSTREAM": "plain"}).listener.upstream == Upstream(plain=True)


def test_a_word_that_means_nothing_is_no_way_around_tls() -> None:
    with pytest.raises(SystemMistake, match="ATOLL_GATEWAY_UPSTREAM is 'off'"):
        ControllerEnvironment.read({**GATEWAY, "ATOLL_GATEWAY_UPSTREAM": "off"})


@pytest.mark.parametrize("missing", sorted(SERVER | UPSTREAM))
def test_a_part_of_the_gateways_files_is_a_mistake(missing: str) -> None:
    with pytest.raises(SystemMistake, match=f"{missing} is not set"):
        ControllerEnvironment.read({**GATEWAY, **SERVER, **UPSTREAM, missing: ""})
