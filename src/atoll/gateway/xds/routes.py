"""The route table. The first match counts, so the order of `ir.Gateway.routes` is the order here.

Every entry says what token it needs, also those that answer without a service: an entry that says nothing is public.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import msgspec

from atoll.gateway.ir import (
    PUBLIC,
    Border,
    Cors,
    Document,
    Entry,
    Gateway,
    Issuer,
    Limits,
    Listener,
    MethodList,
    MethodRefusal,
    Route,
    Sample,
)
from atoll.gateway.kept import Kept
from atoll.gateway.paths import Path
from atoll.gateway.xds import (
    api_keys,
    binary,
    body_size,
    capture,
    compression,
    cors,
    credentials,
    jwt,
    proxies,
    rate_limit,
    rate_limit_headers,
    rbac,
    whole_body,
)
from atoll.gateway.xds.answers import Answer, together
from atoll.gateway.xds.typed import Json, header, seconds, typed
from atoll.system.failures import USUAL

__all__ = ["NAME", "resource"]

NAME = "atoll"
_NOTHING = Gateway(Listener("", 0), Issuer("", ""))
# Idle longer than any handler may take, or a slow answer would be cut off as an idle stream.
_IDLE_MARGIN_S = 5.0
# RFC 9110 §7.2: Host is uri-host [":" port], and there is exactly one (RFC 9112 §3.2).
_HOST = r"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
_SAFE_TO_REPEAT = "connect-failure,refused-stream,reset-before-request"
# Everywhere else an upgrade is refused: nobody has checked what comes after it.
_WEBSOCKET: Json = {"upgrade_configs": [{"upgrade_type": "websocket"}]}


def resource(gateway: Gateway) -> Json:
    longest = max((len(document.body.encode()) for document in gateway.documents), default=0)
    return typed(
        "envoy.config.route.v3.RouteConfiguration",
        name=NAME,
        max_direct_response_body_size_bytes=max(4096, longest),
        # Envoy adds it for clients from outside; services have x-forwarded-for.
        request_headers_to_remove=["x-envoy-external-address"],
        **({"request_headers_to_add": added} if (added := proxies.request_headers(gateway)) else {}),
        virtual_hosts=[{"name": NAME, "domains": ["*"], "routes": _routes(gateway), **_everywhere(gateway)}],
    )


def _everywhere(gateway: Gateway) -> Json:
    """What holds for all routes that say nothing else."""
    found: Json = {"retry_policy": _retries(USUAL.retries.count, repeatable=True)}
    if gateway.cors:
        found["typed_per_filter_config"] = {cors.NAME: cors.policy(gateway.cors)}
    return found


def _routes(gateway: Gateway) -> list[Json]:
    common = _Common.of(gateway)
    for kept in (_rendered, _documented):
        kept.begin()
    binary.begin_round()
    documents = [entry for one in gateway.documents for entry in _documented(one, common)]
    declared = [entry for one in together(gateway.routes) for entry in _rendered(one, common)]
    last = [_border(prefix) for prefix in gateway.owned] if gateway.fallback else [_not_found({"prefix": "/"})]
    untouched = _with_twins(_fallback(gateway.fallback, gateway), gateway.fallback_sample) if gateway.fallback else []
    return [
        _finished(_strange_host(), None, gateway),
        *documents,
        *declared,
        *(_finished(entry, None, gateway) for entry in last),
        *(_limited(entry, None, gateway.limits) for entry in untouched),
    ]


@dataclass(frozen=True, slots=True)
class _Common:
    """What every entry depends on beside itself. Two are equal when their text is."""

    text: bytes
    gateway: Gateway = field(compare=False)

    @classmethod
    def of(cls, gateway: Gateway) -> _Common:
        issuer = Issuer(gateway.issuer.url, "")
        providers = tuple(msgspec.structs.replace(one, keys=()) for one in gateway.providers)
        about = replace(_NOTHING, listener=gateway.listener, issuer=issuer, providers=providers, limits=gateway.limits)
        about = replace(about, compression=gateway.compression, cors=gateway.cors)
        return cls(msgspec.json.encode(about, order="deterministic"), about)


@Kept
def _rendered(entry: Entry | Answer, common: _Common) -> tuple[Json, ...]:
    route = entry if isinstance(entry, Route) else None
    return tuple(_finished(one, route, common.gateway) for one in _entries(entry, common.gateway))


@Kept
def _documented(document: Document, common: _Common) -> tuple[Json, ...]:
    return tuple(_finished(one, None, common.gateway) for one in _document(document, common.gateway.cors))


def _finished(entry: Json, route: Route | None, gateway: Gateway) -> Json:
    return _by_origin(_limited(entry, route, gateway.limits), gateway.cors)


def _by_origin(entry: Json, policy: Cors | None) -> Json:
    """The same, its answers marked as one origin's; unchanged where no page of another origin may call."""
    if policy is None:
        return entry
    return {**entry, "response_headers_to_add": [*entry.get("response_headers_to_add", ()), cors.VARY]}


def _strange_host() -> Json:
    """Not one name or address, and a port or none: Envoy makes `a,b` of two Host headers and takes `user@host` too."""
    one_host = {"name": ":authority", "string_match": {"safe_regex": {"regex": _HOST}}, "invert_match": True}
    return {
        "match": {"prefix": "/", "headers": [one_host]},
        "direct_response": {"status": 400},
        "typed_per_filter_config": _public(),
    }


def _limited(entry: Json, route: Route | None, limits: Limits) -> Json:
    """The same with what the rate limit filters look for; unchanged where nothing is limited."""
    if buckets := rate_limit.metadata(route, limits):
        entry.setdefault("metadata", {"filter_metadata": {}})["filter_metadata"][rate_limit.NAMESPACE] = buckets
        entry["typed_per_filter_config"].update(rate_limit.per_route(route, limits))
    if told := rate_limit.shown(route, limits):
        entry["typed_per_filter_config"][rate_limit_headers.NAME] = rate_limit_headers.per_route(told)
        if "route" in entry:
            entry["response_headers_to_remove"] = [*rate_limit_headers.REPLACED]
    return entry


def _entries(entry: Entry | Answer, gateway: Gateway) -> list[Json]:
    match entry:
        case Route():
            return _with_twins(_route(entry, gateway), entry.sample)
        case Answer():
            return _answer(entry.one, _any_of(entry.paths), gateway.cors)
        case MethodList() | MethodRefusal():
            return _answer(entry, _match(entry.path), gateway.cors)
        case Border():
            return [_border(entry.prefix)]
    assert_never(entry)


def _answer(one: MethodList | MethodRefusal, match: Json, policy: Cors | None) -> list[Json]:
    return _options(one, match, policy) if isinstance(one, MethodList) else [_refusal(one, match)]


def _with_twins(entry: Json, samples: tuple[Sample, ...]) -> list[Json]:
    """Before it, what takes a share of its requests and differs in nothing but that the answers are captured."""
    return [*(_twin(entry, sample) for sample in samples), entry]


def _twin(entry: Json, sample: Sample) -> Json:
    others = [one for one in entry["match"].get("headers", ()) if one["name"] != ":method"]
    headers = [_methods(sample.methods), *others, *capture.conditions(sample)]
    return {
        **entry,
        "match": {**entry["match"], "headers": headers, "runtime_fraction": capture.share(sample)},
        "typed_per_filter_config": {**entry["typed_per_filter_config"], capture.NAME: capture.per_route(sample)},
    }


def _route(route: Route, gateway: Gateway) -> Json:
    return {
        "name": route.name,
        "match": {**_match(route.path), "headers": _conditions(route)},
        **_told_scope(route),
        "route": {
            **_destination(route),
            **_times(route.timeout_s),
            **_own_retries(route),
            **(_WEBSOCKET if route.websocket else {}),
        },
        "typed_per_filter_config": {
            **_filters(route, gateway),
            **_body(route, gateway.listener.body_limit_bytes),
            **_passed_as_it_is(route, gateway),
        },
    }


def _told_scope(route: Route) -> Json:
    """For who is refused without it, and for the access log."""
    return {"metadata": {"filter_metadata": {"atoll": {"scope": route.token.scope}}}} if route.token.scope else {}


def _own_retries(route: Route) -> Json:
    """Where they are not those of all."""
    if route.repeatable and route.try_timeout_s is None and route.retries == USUAL.retries.count:
        return {}
    return {"retry_policy": _retries(route.retries, route.repeatable, route.try_timeout_s)}


def _passed_as_it_is(route: Route, gateway: Gateway) -> dict[str, Any]:
    """A stream's pieces don't wait for each other, and a service that answers OPTIONS to anybody answers preflights itself."""
    found = compression.off() if gateway.compression and route.timeout_s is None else {}
    if gateway.cors and route.methods == ("OPTIONS",) and not route.token.required:
        found[cors.NAME] = cors.off()
    return found


def _destination(route: Route) -> Json:
    """The same client meets the same version: who it is by its token, else by its address. Raising the canary's share takes
    nobody away from it, because its part of the range begins at zero.
    """
    if route.canary is None:
        return {"cluster": route.cluster}
    return {
        "weighted_clusters": {
            "clusters": [{"name": name, "weight": percent} for name, percent in route.shares],
            "use_hash_policy": True,
        },
        "hash_policy": [
            {"header": {"header_name": "x-atoll-subject"}, "terminal": True},
            {"connection_properties": {"source_ip": True}},
        ],
    }


def _match(path: Path) -> Json:
    if path.literal is not None:
        return {"path": path.literal}
    return {"safe_regex": {"regex": path.regex}}


def _any_of(paths: Sequence[Path]) -> Json:
    return _match(paths[0]) if len(paths) == 1 else {"safe_regex": {"regex": "|".join(path.regex for path in paths)}}


def _conditions(route: Route) -> list[Json]:
    present = [{"name": route.header, "present_match": True}] if route.header else []
    return [_methods(route.methods), *present]


def _methods(methods: tuple[str, ...]) -> Json:
    if len(methods) == 1:
        return {"name": ":method", "string_match": {"exact": methods[0]}}
    return {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(methods)}}}


def _times(timeout_s: float | None) -> Json:
    """0 is Envoy's way to say never."""
    if timeout_s is None:
        return {"timeout": "0s", "idle_timeout": "0s"}
    return {"timeout": seconds(timeout_s), "idle_timeout": seconds(timeout_s + _IDLE_MARGIN_S)}


def _retries(count: int, repeatable: bool, try_timeout_s: float | None = None) -> Json:
    """Envoy retries whatever the method is: what may have reached a service is repeated only where that changes nothing.

    An answer is never repeated, not even a 503: replicas share one database, so that would only ask it more.
    """
    if not count:
        return {"num_retries": 0}
    policy: Json = {
        "retry_on": _SAFE_TO_REPEAT,
        "num_retries": count,
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.500s"},
        "host_selection_retry_max_attempts": 3,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
            }
        ],
    }
    if repeatable:
        policy["retry_on"] = f"{_SAFE_TO_REPEAT},reset"
    if try_timeout_s is not None:
        policy["per_try_timeout"] = seconds(try_timeout_s)
    return policy


def _public() -> dict[str, Any]:
    """Nobody is asked who they are."""
    return {jwt.NAME: jwt.per_route(PUBLIC), api_keys.NAME: api_keys.nothing(), credentials.NAME: credentials.nothing()}


def _filters(route: Route, gateway: Gateway) -> dict[str, Any]:
    if not route.token.required:
        return _public()
    found: dict[str, Any] = {jwt.NAME: jwt.per_route(route.token, websocket=route.websocket, sticky=route.canary is not None)}
    if route.token.scope:
        found[rbac.NAME] = rbac.per_route(route.token.scope, gateway.issuer.url, gateway.providers)
    return found


def _body(route: Route, default_bytes: int) -> dict[str, Any]:
    found = {}
    if route.body_limit_bytes != default_bytes:
        found[body_size.NAME] = body_size.per_route(route.body_limit_bytes)
    if route.whole_body:
        found[whole_body.NAME] = whole_body.per_route(route.body_limit_bytes)
    return found


def _refusal(refusal: MethodRefusal, match: Json) -> Json:
    allow = ", ".join(refusal.allow)
    return {
        "match": match,
        "direct_response": {"status": 405, "body": {"inline_string": f"This path takes {allow}"}},
        "response_headers_to_add": [header("allow", allow)],
        "typed_per_filter_config": _public(),
    }


def _options(options: MethodList, match: Json, policy: Cors | None) -> list[Json]:
    """For preflights of allowed origins, and for everybody else."""
    asked = [_methods(("OPTIONS",))]
    found = [] if options.preflight else [_told({**match, "headers": asked}, options.allow, [])]
    if policy:
        preflight = [*asked, {"name": "access-control-request-method", "present_match": True}, cors.from_allowed(policy)]
        found = [_told({**match, "headers": preflight}, options.allow, cors.preflight(policy, options.allow)), *found]
    return found


def _told(match: Json, allow: Sequence[str], headers: list[Json]) -> Json:
    return {
        "match": match,
        "direct_response": {"status": 204},
        "response_headers_to_add": [header("allow", ", ".join(allow)), *headers],
        "typed_per_filter_config": _public(),
    }


def _document(document: Document, policy: Cors | None) -> list[Json]:
    path, allow = Path(document.path), ("GET", "HEAD", "OPTIONS")
    entry = {
        "name": f"gateway{document.path}",
        "match": {**_match(path), "headers": [_methods(("GET", "HEAD"))]},
        "direct_response": {"status": 200, "body": {"inline_string": document.body}},
        "response_headers_to_add": [
            header("content-type", document.media_type),
            *(header(name, value) for name, value in document.headers),
        ],
        "typed_per_filter_config": _public(),
    }
    options = _options(MethodList(path, allow), _match(path), policy)
    return [entry, *options, _refusal(MethodRefusal(path, allow), _match(path))]


def _fallback(cluster: str, gateway: Gateway) -> Json:
    """Another program's paths: it checks tokens and origins itself, nothing that may have reached it is repeated, and its
    answers are not touched.
    """
    untouched = compression.off() if gateway.compression else {}
    if gateway.cors:
        untouched[cors.NAME] = cors.off()
    retries = next(one.failures.retries.count for one in gateway.clusters if one.name == cluster)
    return {
        "name": f"{cluster}.fallback",
        "match": {"prefix": "/"},
        "route": {"cluster": cluster, **_times(None), "retry_policy": _retries(retries, repeatable=False), **_WEBSOCKET},
        "typed_per_filter_config": {**_public(), **untouched},
    }


def _border(prefix: str) -> Json:
    return _not_found({"path_separated_prefix": prefix})


def _not_found(match: Json) -> Json:
    return {"match": match, "direct_response": {"status": 404}, "typed_per_filter_config": _public()}
