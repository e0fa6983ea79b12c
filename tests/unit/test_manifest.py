"""`atoll.toml`: what it means, and that every mistake is named with its line and what would be right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atoll.errors import SystemMistake
from atoll.system import files
from atoll.system.auth import auth_service
from atoll.system.failures import HealthCheck, Retries
from atoll.system.manifest import Secret, System, parse

SHOP = """\
format = 1
name = "shop"

[gateway]
port = 8081
fallback = "legacy"

[auth]
access_token_lifetime_s = 60
database = "postgresql"
default_scopes = ["orders:read"]
[auth.users.ann]
password = "ann"
scopes = ["orders:read", "orders:write"]

[services.catalog]
[services.storefront]
kind = "client"
prefix = "/"
[services.orders]
owner = "team-checkout"
replicas = 2
python = "services/orders/.venv/bin/python"
[services.orders.settings]
vat_rate = "0.10"
key = { secret = "card_key" }
[services.legacy]
command = [
    "gunicorn", "shop.wsgi",   # [not a table]
    "--bind", "{host}:{port}",
]
contract = "contracts/legacy.json"

[environments.production.bus]
sync_always = true
[environments.production.services.orders]
replicas = 4
database_url = { secret = "orders_database_url" }
"""


def shop(text: str = SHOP, environment: str = "") -> System:
    return parse(text, Path("/shop/atoll.toml"), environment)


CORP = 'format = 1\nname = "s"\n[auth.providers.corp]\n'
GOOD = 'issuer = "https://corp.example/"\naudience = "a"\n'


def test_a_provider_is_what_it_says_and_its_file_is_found_from_anywhere() -> None:
    text = f'{CORP}{GOOD}jwks_file = "keys/corp.json"\n[auth.providers.corp.grants]\n"Shop Staff" = ["orders:read"]\n'
    (provider,) = parse(text, Path("/shop/atoll.toml")).auth.options["providers"].values()
    assert provider["jwks_file"] == "/shop/keys/corp.json"
    assert provider["grants"] == {"Shop Staff": ["orders:read"]}


def mistake(text: str, environment: str = "") -> SystemMistake:
    with pytest.raises(SystemMistake) as caught:
        shop(text, environment)
    return caught.value


def test_a_manifest_becomes_a_system() -> None:
    system = shop()
    orders = system.service("orders")
    assert (system.name, system.gateway.port, system.gateway.url) == ("shop", 8081, "http://localhost:8081")
    assert system.issuer == "http://localhost:8081/auth"
    assert [spec.name for spec in system.services] == ["catalog", "storefront", "orders", "legacy"]
    assert (orders.replicas, orders.prefix, orders.owner) == (2, "/orders", "team-checkout")
    assert orders.python == Path("/shop/services/orders/.venv/bin/python")
    assert orders.settings == {"vat_rate": "0.10", "key": Secret("card_key")}
    assert orders.where == "/shop/atoll.toml:20"
    assert system.service("storefront").prefix == "/"
    assert system.service("legacy").command[-1] == "{host}:{port}"
    assert system.auth.options["users"]["ann"]["scopes"] == ["orders:read", "orders:write"]


def test_an_empty_table_is_enough_for_a_service() -> None:
    system = shop('format = 1\nname = "s"\n[services.a]\n')
    assert system.service("a").replicas == 1
    assert system.auth.database == "sqlite"


def test_an_environment_changes_only_what_it_names() -> None:
    local, production = shop(), shop(environment="production")
    assert local.environments == ("production",)
    assert production.service("orders").replicas == 4
    assert (local.bus.sync_always, production.bus.sync_always) == (False, True)
    assert production.service("orders").database_url == Secret("orders_database_url")
    assert production.service("orders").owner == "team-checkout"
    assert production.service("catalog") == local.service("catalog")


@pytest.mark.parametrize(
    ("text", "line", "said", "hint"),
    [
        ('name = "s"\n', 1, "`format` is missing", "format = 1"),
        ("format = 1\n", 1, "`name` is missing", "name ="),
        ('format = 2\nname = "s"\n', 1, "format 2 is unknown", "format = 1"),
        ('format = 1\nname = "Shop"\n', 2, "lower-case", ""),
        (
            'format = 1\nname = "s"\ncolour = 1\n',
            3,
            "unknown key `colour`",
            "auth, bus, containers, environments, format, gateway",
        ),
        (
            'format = 1\nname = "s"\n[gateway]\nprt = 1\n',
            4,
            "unknown key `prt` in [gateway]",
            "port, proxy_protocol, public_url",
        ),
        ('format = 1\nname = "s"\n[gateway]\nport = "x"\n', 4, "whole number from 1 to 65535, not the text 'x'", ""),
        ('format = 1\nname = "s"\n[gateway]\nport = true\n', 4, "not true", ""),
        (f'format = 1\nname = "s"\n[services.{"n" * 41}]\n', 3, "a name must be at most 40 lower-case letters", "rename it"),
        ('format = 1\nname = "s"\n[gateway]\nfallback = "x"\n', 4, "no service 'x'", "services here: none"),
        ('format = 1\nname = "s"\n[gateway.cors]\nmax_age_s = 1\n', 3, "allows no origin anything", "origins ="),
        ('format = 1\nname = "s"\n[gateway.cors]\norigins = ["shop"]\n', 4, "`origins` must be a list of origins", ""),
        ('format = 1\nname = "s"\n[gateway.cors]\norigins = ["https://x/"]\n', 4, "a list of origins", ""),
        ('format = 1\nname = "s"\n[gateway.cors]\norigins = ["*"]\ncredentials = true\n', 4, "every page of the internet", ""),
        ('format = 1\nname = "s"\n[gateway]\nrate_limit = 10\n', 4, 'a rate like "10/s"', ""),
        ('format = 1\nname = "s"\n[gateway]\naddress_rate_limit = "9/h"\n', 4, 'a rate per second, like "500/s"', ""),
        ('format = 1\nname = "s"\n[gateway.tls]\nca = "x"\n', 4, "unknown key `ca` in [gateway.tls]", "certificate, hsts_s"),
        ('format = 1\nname = "s"\n[gateway.tls]\nhsts_s = -1\n', 4, "whole number from 0 to 63072000, not -1", ""),
        ('format = 1\nname = "s"\n[gateway.tls]\nkey = "k.pem"\n', 4, "`key` stands without `certificate`", "certificate ="),
        ('format = 1\nname = "s"\n[gateway.tls]\ncertificate = "c"\n', 4, "`certificate` stands without `key`", "key ="),
        (
            'format = 1\nname = "s"\n[gateway.tls]\nredirect_port = 8080\n',
            4,
            "is the gateway's own port",
            "a port of their own",
        ),
        ('format = 1\nname = "s"\n[gateway]\npublic_url = "http://a"\n[gateway.tls]\n', 4, "begins with http://", "https://"),
        ('format = 1\nname = "s"\n[services.a]\nkind = "simulator"\nconcurrency = 1\n', 5, "is a simulator", ""),
        *(
            (f'format = 1\nname = "s"\n[gateway]\ntrusted_proxies = {value}\n', 4, "a list of networks, like", "")
            for value in ('"10.0.0.0/8"', '["0.0.0.0/0"]', '["::/0"]', '["10.0.0.1/8"]', '["lb.example"]', "[10]")
        ),
        (
            'format = 1\nname = "s"\n[gateway]\nproxy_protocol = true\n',
            4,
            "`proxy_protocol` stands without `trusted_proxies`",
            "the addresses that connections come from",
        ),
        (
            'format = 1\nname = "s"\n[gateway]\nproxy_protocol = true\ntrusted_proxies = ["10.0.0.0/8"]\ntls.http3 = true\n',
            4,
            "HTTP/3 has no PROXY protocol",
            "tls.http3",
        ),
        *(
            (f'format = 1\nname = "s"\n[services.a]\n{key} = {value}\n', 4, said, "")
            for key, value, said in [
                ("slow_start_s", "-1", "`slow_start_s` must be a number from 0 to 600, not -1"),
                ("panic_threshold_percent", "101", "whole number from 0 to 100, not 101"),
                ("max_connections", "0", "whole number from 1 to 65535, not 0"),
                ("health_check.interval_s", "0", "`interval_s` must be a number from 0.1 to 300, not 0"),
                ("health_check.timeout_s", '"2s"', "a number from 0.1 to 60, not the text '2s'"),
                ("health_check.unhealthy_threshold", "0", "whole number from 1 to 100, not 0"),
                ("outlier_ejection.consecutive_failures", "-1", "whole number from 0 to 1000, not -1"),
                ("retries.count", "101", "whole number from 0 to 100, not 101"),
                ("retries.try_timeout_s", "0", "a number from 0.01 to 3600, not 0"),
            ]
        ),
        (
            'format = 1\nname = "s"\n[services.a.health_check]\ninterval = 1\n',
            4,
            "unknown key `interval` in [services.a.health_check]",
            "healthy_threshold, interval_s, timeout_s, unhealthy_threshold",
        ),
        (
            'format = 1\nname = "s"\n[services.a]\nkind = "simulator"\nretries.count = 1\n',
            5,
            "a is a simulator: nothing reaches it through the gateway",
            "",
        ),
        *(
            (f'format = 1\nname = "s"\n[gateway]\npublic_url = "{url}"\n', 4, said, "")
            for url, said in [
                ("https://x:99999", "a port from 1 to 65535"),
                ("https://x:0", "a port from 1 to 65535"),
                ("https://[::g]", "must be a URL like https://shop.example"),
                ("https://[1:2]", "must have a host"),
                ("https://ada:pw@shop.example", "must be a URL like"),
                ("https://shop.example?x=1", "must be a URL like"),
                ("https://shop.example/a?x=1", "must be a URL like"),
                ("https://shop.example/#top", "must be a URL like"),
                ("https://shop.example/..", "must be a URL like"),
            ]
        ),
        *(
            (f'format = 1\nname = "s"\n[services.a]\nprefix = "{prefix}"\n', 4, "a path like /orders", "")
            for prefix in ("/..", "/.", "/a/../b", "/a/./b", "/a/..", "a", "/a/")
        ),
        (
            'format = 1\nname = "s"\n[gateway]\nfallback = "a"\n[services.a]\nkind = "simulator"\ncommand = ["x"]\n',
            4,
            "a is a simulator: nothing reaches it through the gateway",
            "name a service",
        ),
        (
            'format = 1\nname = "s"\n[services.a.canary]\nfolder = "b"\n[services.a-canary]\ncommand = ["x"]\ncontract = "c"\n',
            5,
            "a-canary is what the canaries of a are called",
            "another name",
        ),
        *(
            (f'format = 1\nname = "s"\n[services.a]\n[services.b]\n[services.c]\n[gateway]\nfallback = "c"\n{table}', *rest)
            for table, *rest in [
                ("[gateway.mirrors.m]\n", 8, "does not say whose answers clients get", 'from = "NAME"'),
                ('[gateway.mirrors.m]\nfrom = "a"\n', 8, "does not say which service is asked", 'to = "NAME"'),
                ('[gateway.mirrors.m]\nfrom = "a"\nto = "x"\n', 10, "no service 'x' to mirror", "services here: a, b, c"),
                ('[gateway.mirrors.m]\nfrom = "a"\nto = "a"\n', 10, "clients get answers of a", "a service of its own"),
                ('[gateway.mirrors.m]\nfrom = "a"\nto = "c"\n', 10, "clients get answers of c", "a service of its own"),
                ('[gateway.mirrors.m]\nfrom = "a"\nto = "b"\nshare = 5\n', 11, "a number from 0 to 1, not 5", ""),
                ('[gateway.mirrors.m]\nfrom = "a"\nto = "b"\npaths = ["x"]\n', 11, 'a list of paths, like ["/reviews"]', ""),
                ('[gateway.mirrors.m]\nfrom = "a"\nto = "b"\npaths = ["/c/x"]\n', 11, "by a but by c", "name paths of a"),
                ('[gateway.mirrors.m]\nfrom = "c"\nto = "b"\npaths = ["/a"]\n', 11, "by c but by a", "name paths of c"),
                ('[gateway.mirrors.m]\nfrom = "a"\nto = "b"\nunsafe = ["GET /a"]\n', 11, "a list of operations", ""),
                ('[gateway.mirrors.m]\nfrom = "a"\nto = "b"\nunsafe = ["PUT /x"]\n', 11, "/x is not answered by a", ""),
                ('[gateway.mirrors.m]\nfrom = "a"\nto = "b"\nignore = ["date"]\n', 11, "a list of rules", ""),
                (
                    '[gateway.mirrors.m]\nfrom = "a"\nto = "b"\n[gateway.mirrors.n]\nfrom = "a"\nto = "b"\npaths = ["/a/x"]\n',
                    11,
                    "m and n are both of a and share paths",
                    "`paths` of its own",
                ),
            ]
        ),
        ('format = 1\nname = "s"\n[bus]\nsync_always = 1\n', 4, "`sync_always` must be true or false, not 1", ""),
        ('format = 1\nname = "s"\n[services]\na = 1\n', 4, "must be a table", "[services.a]"),
        ('format = 1\nname = "s"\n[services.a]\n\nreplica = 2\n', 5, "unknown key `replica` in [services.a]", "replicas"),
        ('format = 1\nname = "s"\n[services.a]\nkind = "web"\n', 4, "one of 'service', 'client', 'simulator'", ""),
        (CORP + 'audience = "a"\n', 3, "the provider corp has no `issuer`", "`iss`"),
        (CORP + 'issuer = "https://x/"\n', 3, "the provider corp has no `audience`", "`aud`"),
        (CORP + 'audience = "a"\nissuer = "http://corp.example"\n', 3, "fetched without TLS", "https://"),
        (CORP + GOOD + 'jwks_url = "http://corp.example/keys"\n', 3, "fetched without TLS", "https://"),
        (CORP + GOOD + 'jwks_url = "https://x/k"\njwks_file = "k"\n', 7, "either `jwks_url` or `jwks_file`", "remove one"),
        *(
            (CORP + f'audience = "a"\nissuer = "{issuer}"\n', 5, said, "")
            for issuer, said in [
                ("http://localhost:1@evil.example", "must be a URL"),
                ("https://ada@corp.example/", "must be a URL"),
                ("https://corp.example/?x=1", "must be a URL"),
                ("https://corp.example:70000/", "a port from 1 to 65535"),
                ("http://localhost:8080/auth", "the issuer of this system's own tokens"),
            ]
        ),
        (CORP + GOOD + 'jwks_url = "http://localhost:1@evil.example/keys"\n', 6, "must be a URL", ""),
        (CORP + GOOD + "[auth.providers.twin]\n" + GOOD, 7, "twin and corp are the same issuer", "remove one of them"),
        (CORP + GOOD + 'scope_claim = "a b"\n', 6, "the name of a claim", ""),
        (CORP + GOOD + '[auth.providers.corp.grants]\nx = "orders:read"\n', 7, "a list of scopes", ""),
        (CORP + "key = 1\n", 4, "unknown key `key`", "audience, fetch_every_s, grants, issuer"),
        ('format = 1\nname = "s"\n[services.auth]\n', 3, "atoll uses itself", "another name"),
        ('format = 1\nname = "s"\n[services.a-b]\n', 3, "Python package", "use _"),
        ('format = 1\nname = "s"\n[services.class]\n', 3, "Python package", "use _"),
        ('format = 1\nname = "s"\n[services.a]\ncommand = ["x"]\n', 4, "derive its contract", "contracts/a.json"),
        ('format = 1\nname = "s"\n[services.a]\ncontract = "x"\n', 4, "derived from its code", "`command`"),
        ('format = 1\nname = "s"\n[services.a]\nprefix = "/b"\n[services.b]\n', 5, "belongs to a already", "another prefix"),
        (
            'format = 1\nname = "s"\n[services.a]\nprefix = "/b"\n[services.b]\n',
            5,
            "b can't have the prefix /b",
            "another prefix",
        ),
        ('format = 1\nname = "s"\n[services.a]\nprefix = "/auth"\n', 4, "belongs to auth", "another prefix"),
        ('format = 1\nname = "s"\n[services.a]\nprefix = "/docs/a"\n', 4, "/docs is the gateway's own", "another prefix"),
        ('format = 1\nname = "s"\n[services.health]\n', 3, "/health is the gateway's own", "another prefix"),
        ('format = 1\nname = "s"\n[services.a.settings]\nx = { y = 1 }\n', 4, "plain value", ""),
        ('format = 1\nname = "s"\n[environments.p.services.a]\n', 3, "no service 'a' to change", "[services.a]"),
        (
            'format = 1\nname = "s"\n[environments.p]\nreplicas = 1\n',
            4,
            "unknown key `replicas`",
            "auth, bus, containers, gateway",
        ),
        ('format = 1\nname = "s\n', 2, "not TOML", "toml.io"),
    ],
)
def test_a_mistake_names_its_line_and_what_would_be_right(text: str, line: int, said: str, hint: str) -> None:
    error = mistake(text)
    assert error.where == f"/shop/atoll.toml:{line}"
    assert said in error.detail
    assert hint in error.hint


TLS = """\
format = 1
name = "s"
[gateway]
public_url = "https://shop.example"
[gateway.tls]
certificate = "tls/certificate.pem"
key = "/etc/tls/key.pem"
[environments.staging.gateway]
public_url = "https://localhost:8443"
port = 8443
[environments.staging.gateway.tls]
redirect_port = 8080
"""


def test_tls_has_its_files_from_the_manifests_folder_and_the_issuer_follows() -> None:
    system = shop(TLS)
    tls = system.gateway.tls
    assert tls is not None
    assert (tls.certificate, tls.key) == (Path("/shop/tls/certificate.pem"), Path("/etc/tls/key.pem"))
    assert (tls.where, tls.local, tls.redirect_port, tls.http3) == ("/shop/atoll.toml:5", False, None, False)
    assert system.issuer == "https://shop.example/auth"
    staging = shop(TLS, "staging").gateway
    assert staging.tls is not None
    assert (staging.tls.redirect_port, staging.tls.certificate) == (8080, tls.certificate)


def test_tls_changes_the_public_url_that_nobody_wrote() -> None:
    plain = shop('format = 1\nname = "s"\n')
    assert plain.gateway.url == "http://localhost:8080"
    assert shop('format = 1\nname = "s"\n[gateway.tls]\n').gateway.url == "https://localhost:8080"
    asked = plain.with_tls()
    assert (asked.gateway.url, asked.issuer) == ("https://localhost:8080", "https://localhost:8080/auth")
    assert asked.gateway.tls is not None
    assert asked.gateway.tls.local
    assert shop(TLS).with_tls() == shop(TLS)
    moved = shop(TLS, "staging").at_ports(9443, 9080)
    assert (moved.gateway.url, moved.gateway.port) == ("https://localhost:9443", 9443)
    assert moved.gateway.tls is not None
    assert moved.gateway.tls.redirect_port == 9080
    assert plain.at_ports(9443, 9080).gateway.url == "http://localhost:9443"


@pytest.mark.parametrize(
    ("gateway", "hsts_s"),
    [
        ("[gateway]\nport = 8080", 0),
        ("[gateway.tls]", 0),
        ('[gateway]\npublic_url = "https://shop.example"\n[gateway.tls]\ncertificate = "c"\nkey = "k"', 31_536_000),
        ('[gateway.tls]\ncertificate = "c"\nkey = "k"', 0),
        ('[gateway]\npublic_url = "https://127.0.0.1:8443"\n[gateway.tls]\ncertificate = "c"\nkey = "k"', 0),
        ('[gateway.tls]\ncertificate = "c"\nkey = "k"\nhsts_s = 60', 60),
        ('[gateway]\npublic_url = "https://shop.example"\n[gateway.tls]\ncertificate = "c"\nkey = "k"\nhsts_s = 0', 0),
    ],
)
def test_browsers_are_bound_to_https_for_a_year_but_never_on_this_machines_own_names(gateway: str, hsts_s: int) -> None:
    assert shop(f'format = 1\nname = "s"\n{gateway}\n').gateway.hsts_s == hsts_s


def test_an_unknown_environment_names_those_there_are() -> None:
    error = mistake(SHOP, "staging")
    assert "staging" in error.detail
    assert "production" in error.hint


def test_a_service_whose_folder_is_missing_is_named_with_the_line_of_its_table(tmp_path: Path) -> None:
    (tmp_path / "atoll.toml").write_text('format = 1\nname = "s"\n[services.orders]\n')
    with pytest.raises(SystemMistake) as caught:
        files.read(tmp_path)
    assert caught.value.where == f"{tmp_path}/atoll.toml:3"
    assert "services/orders/orders/service.py does not exist" in caught.value.detail
    assert caught.value.hint == f"a service orders is found as orders.service:service in {tmp_path}/services/orders"


def test_a_pipe_in_its_folder_is_no_file_of_a_service(tmp_path: Path) -> None:
    (tmp_path / "service.py").touch()
    os.mkfifo(tmp_path / "pipe")
    assert list(files.service_files(tmp_path)) == [tmp_path / "service.py"]


def test_the_manifest_is_found_from_a_folder_below_it(tmp_path: Path) -> None:
    (tmp_path / "atoll.toml").write_text('format = 1\nname = "s"\n')
    below = tmp_path / "services" / "orders"
    below.mkdir(parents=True)
    assert files.find(below) == tmp_path
    with pytest.raises(SystemMistake, match=r"no atoll\.toml"):
        files.find(Path("/"))


@pytest.mark.parametrize(
    "url",
    ["https://shop.example", "https://shop.example:8443/app/v1", "http://localhost:8080", "http://[::1]:80", "https://a_b/.x"],
)
def test_what_clients_may_type(url: str) -> None:
    assert shop(f'format = 1\nname = "s"\n[gateway]\npublic_url = "{url}"\n').gateway.url == url


@pytest.mark.parametrize(
    "issuer", ["https://corp.example/", "http://localhost:9000/realms/a", "http://[::1]:9000", "http://127.0.0.1:1/"]
)
def test_an_issuer_is_trusted_over_tls_or_on_this_machine(issuer: str) -> None:
    keys = 'jwks_url = "https://keys.example/k?p=b2c"\n'
    assert shop(CORP + f'issuer = "{issuer}"\naudience = "a"\n{keys}').auth.options["providers"]["corp"]["issuer"] == issuer


def test_a_service_says_of_failures_what_the_gateway_does_not_say_for_all() -> None:
    """Key by key: who changes a check's interval keeps the threshold that holds for everybody."""
    system = parse(
        """
format = 1
name = "s"
[gateway]
slow_start_s = 3
health_check = { interval_s = 5, unhealthy_threshold = 2 }
retries.count = 4
[services.a]
[services.b]
slow_start_s = 0
health_check.interval_s = 0.5
retries = { try_timeout_s = 2, budget_percent = 50 }
""",
        Path("atoll.toml"),
    )
    a, b = (spec.failures for spec in system.services)

    assert a == system.gateway.failures
    assert (a.slow_start_s, a.health_check, a.retries) == (
        3,
        HealthCheck(interval_s=5, unhealthy_threshold=2),
        Retries(count=4),
    )
    assert (b.slow_start_s, b.health_check, b.retries) == (
        0,
        HealthCheck(interval_s=0.5, unhealthy_threshold=2),
        Retries(count=4, try_timeout_s=2, budget_percent=50),
    )
    assert auth_service(system).failures == a
