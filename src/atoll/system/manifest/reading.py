"""From the text of `atoll.toml` to its view: syntax, keys and values, each table, then what they must keep together."""

from __future__ import annotations

import keyword
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from atoll.errors import SystemMistake
from atoll.system.failures import USUAL, FailureDetection
from atoll.system.manifest import rules, tables
from atoll.system.manifest.positions import Places, scan, syntax_error_line
from atoll.system.manifest.tables import FAILURES
from atoll.system.manifest.view import (
    OWN_NAMES,
    PORT,
    RESERVED,
    AuthSpec,
    BusSpec,
    CanarySpec,
    ContainersSpec,
    CorsSpec,
    GatewaySpec,
    MirrorSpec,
    Secret,
    ServiceSpec,
    System,
    TelemetrySpec,
    TlsSpec,
)

__all__ = ["parse"]


def parse(text: str, path: Path, environment: str = "") -> System:
    """The system that `text` describes, `path` being where it stands. Touches no file. Raises SystemMistake."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = syntax_error_line(error) or len(text.splitlines())
        raise SystemMistake(f"this is not TOML: {error}", where=f"{path}:{line}", hint="see https://toml.io") from None
    places = Places(path, scan(text))
    _check_format(document, places)
    tables.check(document, tables.ROOT, (), places)
    for name, overlay in document.get("environments", {}).items():
        tables.check(overlay, tables.OVERLAY, ("environments", name), places)
    return _Reader(path.parent, places).system(document, environment)


def _check_format(document: Mapping[str, Any], places: Places) -> None:
    if "format" not in document:
        raise SystemMistake("`format` is missing", where=f"{places.path}:1", hint="write `format = 1` in the first line")
    if document["format"] != 1:
        raise places.mistake(("format",), f"format {document['format']!r} is unknown", "this atoll reads `format = 1`")
    if "name" not in document:
        raise SystemMistake("`name` is missing", where=f"{places.path}:1", hint='write `name = "shop"` after `format = 1`')


@dataclass(frozen=True, slots=True)
class _Reader:
    """Builds what tables say that are known to be right, each alone."""

    folder: Path
    places: Places

    def system(self, document: Mapping[str, Any], environment: str) -> System:
        environments = document.get("environments", {})
        overlay = self.overlay(environments, document, environment)
        services = {
            name: {**table, **overlay.get("services", {}).get(name, {})} for name, table in document.get("services", {}).items()
        }
        gateway = self.gateway(document.get("gateway", {}), overlay.get("gateway", {}))
        system = System(
            name=document["name"],
            folder=self.folder,
            gateway=gateway,
            auth=self.auth({**document.get("auth", {}), **overlay.get("auth", {})}),
            services=tuple(self.service(name, table, gateway.failures) for name, table in services.items()),
            bus=BusSpec(**{**document.get("bus", {}), **overlay.get("bus", {})}),
            telemetry=TelemetrySpec(**{**document.get("telemetry", {}), **overlay.get("telemetry", {})}),
            containers=ContainersSpec(**{**document.get("containers", {}), **overlay.get("containers", {})}),
            environment=environment,
            environments=tuple(environments),
        )
        rules.check(system, self.places)
        return system

    def gateway(self, table: Mapping[str, Any], overlay: Mapping[str, Any]) -> GatewaySpec:
        both = {**table, **overlay}
        if "tls" in both:
            both["tls"] = self.tls({**table.get("tls", {}), **overlay.get("tls", {})}, both)
        if "cors" in both:
            both["cors"] = _cors(both["cors"])
        both["mirrors"] = tuple(self.mirror(name, one) for name, one in both.get("mirrors", {}).items())
        both["trusted_proxies"] = tuple(both.get("trusted_proxies", ()))
        self.check_proxies(both)
        failures = _failures(both, USUAL)
        return GatewaySpec(**{key: value for key, value in both.items() if key not in FAILURES}, failures=failures)

    def check_proxies(self, gateway: Mapping[str, Any]) -> None:
        if not gateway.get("proxy_protocol"):
            return
        at = ("gateway", "proxy_protocol")
        if not gateway["trusted_proxies"]:
            hint = 'trusted_proxies = ["10.0.0.0/8"]: the addresses that connections come from'
            detail = "`proxy_protocol` stands without `trusted_proxies`: whoever connects could be anybody"
            raise self.places.mistake(at, detail, hint)
        if gateway.get("tls") and gateway["tls"].http3:
            raise self.places.mistake(at, "HTTP/3 has no PROXY protocol", "leave out `tls.http3`, or use X-Forwarded-For")

    def tls(self, table: Mapping[str, Any], gateway: Mapping[str, Any]) -> TlsSpec:
        at = ("gateway", "tls")
        for one, other in (("certificate", "key"), ("key", "certificate")):
            if one in table and other not in table:
                raise self.places.mistake((*at, one), f"`{one}` stands without `{other}`", f'{other} = "tls/{other}.pem"')
        if gateway.get("public_url", "https:").startswith("http:"):
            hint = "write https:// in it, or leave it out; the issuer of tokens follows it"
            detail = "`public_url` begins with http://, but the gateway speaks TLS"
            raise self.places.mistake(("gateway", "public_url"), detail, hint)
        if table.get("redirect_port") == gateway.get("port", PORT):
            hint = "clients of plain HTTP come to a port of their own: 80, or 8081 on a developer's machine"
            raise self.places.mistake((*at, "redirect_port"), "`redirect_port` is the gateway's own port", hint)
        files = {name: self.folder / table[name] for name in ("certificate", "key") if name in table}
        return TlsSpec(**{**table, **files, "where": self.places.where(at)})

    def auth(self, table: Mapping[str, Any]) -> AuthSpec:
        spec = _auth(table, self.folder)
        issuers: dict[str, str] = {}
        for name, provider in spec.options.get("providers", {}).items():
            at = ("auth", "providers", name)
            for key in ("issuer", "audience"):
                if key not in provider:
                    hint = f"its tokens' `{key[:3]}`, as they have it"
                    raise self.places.mistake(at, f"the provider {name} has no `{key}`", hint)
            if "jwks_url" in provider and "jwks_file" in provider:
                detail = "a provider has either `jwks_url` or `jwks_file`"
                raise self.places.mistake((*at, "jwks_file"), detail, "remove one of them")
            if not _trustworthy(provider["issuer"]) or not _trustworthy(provider.get("jwks_url", "https:")):
                raise self.places.mistake(at, f"the keys of {name} would be fetched without TLS", "use https:// URLs")
            if (other := issuers.setdefault(provider["issuer"], name)) != name:
                detail = f"{name} and {other} are the same issuer, so nobody could say whose rules hold for its tokens"
                raise self.places.mistake((*at, "issuer"), detail, "remove one of them")
        return spec

    def overlay(self, environments: Mapping[str, Any], document: Mapping[str, Any], chosen: str) -> Mapping[str, Any]:
        for name, table in environments.items():
            for service in table.get("services", {}):
                if service not in document.get("services", {}):
                    at = ("environments", name, "services", service)
                    hint = f"declare [services.{service}] first"
                    raise self.places.mistake(at, f"there is no service {service!r} to change", hint)
        if chosen and chosen not in environments:
            known = ", ".join(environments) or "none"
            raise self.places.mistake(("environments",), f"there is no environment {chosen!r}", f"environments here: {known}")
        return dict(environments.get(chosen, {}))

    def mirror(self, name: str, table: Mapping[str, Any]) -> MirrorSpec:
        at = ("gateway", "mirrors", name)
        for key, meaning in (("from", "whose answers clients get"), ("to", "which service is asked the same")):
            if key not in table:
                raise self.places.mistake(at, f"the mirror {name} does not say {meaning}", f'write {key} = "NAME"')
        return MirrorSpec(
            name,
            primary=table["from"],
            second=table["to"],
            share=table.get("share", 0.05),
            **{key: tuple(table.get(key, ())) for key in ("paths", "unsafe", "ignore")},
        )

    def service(self, name: str, table: Mapping[str, Any], failures: FailureDetection) -> ServiceSpec:
        at = ("services", name)
        self.check_service(name, table, at)
        url = table.get("database_url")
        return ServiceSpec(
            name=name,
            folder=self.folder / "services" / name,
            kind=table.get("kind", "service"),
            prefix=table.get("prefix", f"/{name}"),
            owner=table.get("owner", ""),
            replicas=table.get("replicas", 1),
            concurrency=table.get("concurrency"),
            python=self.folder / table["python"] if "python" in table else None,
            command=tuple(table.get("command", ())),
            contract=self.folder / table["contract"] if "contract" in table else None,
            database_url=Secret(url["secret"]) if url else None,
            settings={key: _value(value) for key, value in table.get("settings", {}).items()},
            where=self.places.where(at),
            canary=_canary(self.folder, table["canary"]) if "canary" in table else None,
            failures=_failures(table, failures),
            outbound=table.get("outbound", False),
        )

    def check_service(self, name: str, table: Mapping[str, Any], at: tuple[str, ...]) -> None:
        if name in RESERVED:
            raise self.places.mistake(at, f"{name!r} is a name that atoll uses itself", "choose another name for the service")
        if "command" in table and "python" in table:
            raise self.places.mistake((*at, "python"), "a service has either `command` or `python`", "remove one of them")
        if "canary" in table:
            self.check_canary(name, table, (*at, "canary"))
        simulator = table.get("kind") == "simulator"
        if "command" in table and "contract" not in table and not simulator:
            hint = f'write the contract by hand and name it: contract = "contracts/{name}.json"'
            raise self.places.mistake((*at, "command"), f"{name} has a `command`, so nobody can derive its contract", hint)
        if "contract" in table and "command" not in table:
            hint = "remove `contract`, or say with `command` how the service is started"
            raise self.places.mistake((*at, "contract"), f"the contract of {name} is derived from its code", hint)
        for key in ("concurrency", *FAILURES):
            if simulator and key in table:
                raise self.places.mistake((*at, key), f"{name} is a simulator: nothing reaches it through the gateway")
        if simulator and "command" not in table:
            raise self.places.mistake(
                at, f"{name} is a simulator and needs a `command`", 'command = ["python", "simulator.py", "{port}"]'
            )
        if "command" not in table and (not name.isidentifier() or keyword.iskeyword(name)):
            raise self.places.mistake(at, f"{name!r} can't be the name of a Python package", "use _ instead of -")

    def check_canary(self, name: str, table: Mapping[str, Any], at: tuple[str, ...]) -> None:
        if "command" in table or table.get("kind", "service") != "service":
            detail = f"{name} can't have a canary: that is another version of a Python service"
            raise self.places.mistake(at, detail, "remove it")
        if "folder" not in table["canary"]:
            raise self.places.mistake(at, "a canary needs a `folder`", f'folder = "services/{name}-next"')


def _cors(table: Mapping[str, Any]) -> CorsSpec:
    found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return CorsSpec(**found)


def _failures(table: Mapping[str, Any], usual: FailureDetection) -> FailureDetection:
    """What `table` says of failures, key by key over what is `usual`."""
    said = {key: table[key] for key in FAILURES if key in table}
    groups = {key: replace(getattr(usual, key), **value) for key, value in said.items() if isinstance(value, Mapping)}
    return replace(usual, **{**said, **groups})


def _canary(folder: Path, table: Mapping[str, Any]) -> CanarySpec:
    return CanarySpec(
        folder=folder / table["folder"],
        weight=table.get("weight", 0),
        replicas=table.get("replicas", 1),
        python=folder / table["python"] if "python" in table else None,
    )


def _trustworthy(url: str) -> bool:
    """Whoever can change what is fetched there issues tokens that open this system. On this machine nobody else can."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in OWN_NAMES


def _auth(table: Mapping[str, Any], folder: Path) -> AuthSpec:
    url = table.get("database_url")
    own = {"access_token_lifetime_s", "database", "database_url"}
    return AuthSpec(
        access_token_lifetime_s=table.get("access_token_lifetime_s", 300),
        database=table.get("database", "sqlite"),
        database_url=Secret(url["secret"]) if url else None,
        options={key: _placed(key, value, folder) for key, value in table.items() if key not in own},
    )


def _placed(key: str, value: Any, folder: Path) -> Any:
    """Files beside the manifest, as auth finds them from its own folder."""
    if key != "providers":
        return value
    return {
        name: {**one, "jwks_file": str(folder / one["jwks_file"])} if "jwks_file" in one else one for name, one in value.items()
    }


def _value(value: Any) -> Any:
    return Secret(value["secret"]) if isinstance(value, dict) else value
