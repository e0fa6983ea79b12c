"""Route tables in protobuf's binary form, which Envoy reads in two fifths of the time that it takes for their JSON.

It knows the fields that our route tables have and no others, by the numbers that they have in Envoy's API
(https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route.proto) and that never change there. What is put
together elsewhere stays JSON, for reading and for `atoll gateway diff`; this is only how a file holds it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from atoll.errors import Bug
from atoll.gateway.kept import Kept, Same
from atoll.gateway.xds.typed import Json

__all__ = ["MESSAGES", "begin_round", "response", "tables"]


Encode = Callable[[Any], bytes]
"""The content of one message or string."""
Field = Callable[[Any], bytes]
"""The same, behind its number and length."""

_VARINT, _FIXED64, _BYTES = 0, 1, 2


def _varint(value: int) -> bytes:
    """Negative ones as if they had 64 bits."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


_LENGTHS = tuple(_varint(size) for size in range(1024))


def _sized(tag: bytes, content: bytes) -> bytes:
    size = len(content)
    return tag + (_LENGTHS[size] if size < 1024 else _varint(size)) + content


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def response(version: str, resources: bytes) -> bytes:
    """A discovery response; `version` comes first, so that it can be read without the rest."""
    return _text(1)(version) + resources


def tables(some: Sequence[Json]) -> bytes:
    """Its resources."""
    return _many(2, _any)(some)


def begin_round() -> None:
    """A snapshot begins: routes that were in neither it nor the one before are forgotten (`Kept`)."""
    _kept_route.begin()


def _one(number: int, encode: Encode) -> Field:
    tag = _tag(number, _BYTES)
    return lambda value: _sized(tag, encode(value))


def _many(number: int, encode: Encode) -> Field:
    tag = _tag(number, _BYTES)
    return lambda values: b"".join([_sized(tag, encode(one)) for one in values])


def _by_name(number: int, encode: Encode) -> Field:
    """A map: an entry is a message of its key and value."""
    tag, key, value = _tag(number, _BYTES), _text(1), _one(2, encode)
    return lambda entries: b"".join([_sized(tag, key(name) + value(one)) for name, one in entries.items()])


def _text(number: int) -> Field:
    return _one(number, str.encode)


def _texts(number: int) -> Field:
    return _many(number, str.encode)


def _number(number: int) -> Field:
    """Whole numbers of every size, and truths."""
    tag = _tag(number, _VARINT)
    return lambda value: tag + _varint(int(value))


def _word(number: int, *words: str) -> Field:
    """An enum, its words in the order of their numbers."""
    put = _number(number)
    return lambda word: put(words.index(word))


def _duration(text: str) -> bytes:
    """From "0.250s"."""
    nanos = int(Decimal(text.removesuffix("s")) * 1_000_000_000)
    whole = abs(nanos) // 1_000_000_000 * (1 if nanos >= 0 else -1)
    return _number(1)(whole) + _number(2)(nanos - whole * 1_000_000_000)


def _message(name: str) -> Encode:
    """By its name, because some hold their own kind."""

    def encode(value: Mapping[str, Any]) -> bytes:
        fields = MESSAGES[name]
        if unknown := value.keys() - fields.keys():
            raise _unknown(f"field {min(unknown)!r} of {name}")
        return b"".join([fields[field](one) for field, one in value.items() if one is not None])

    return encode


def _any(value: Mapping[str, Any]) -> bytes:
    """Its type, and the message in its own bytes."""
    if "@type" not in value:
        return b""
    name = value["@type"].rpartition("/")[2]
    if name not in MESSAGES:
        raise _unknown(f"message {name}")
    rest = {field: one for field, one in value.items() if field != "@type"}
    return _text(1)(value["@type"]) + _one(2, _message(name))(rest)


def _unknown(what: str) -> Bug:
    return Bug(f"a route table has the {what}", hint="if Envoy has it too, it must be added to atoll.gateway.xds.binary")


def _struct_value(value: Any) -> bytes:
    match value:
        case bool():
            return _number(4)(value)
        case int() | float():
            return _tag(2, _FIXED64) + struct.pack("<d", value)
        case str():
            return _text(3)(value)
        case Mapping():
            return _one(5, _struct)(value)
        case None:
            return _number(1)(0)
    return _one(6, _many(1, _struct_value))(value)


def _struct(value: Mapping[str, Any]) -> bytes:
    return _by_name(1, _struct_value)(value)


def _wrapped(number: int) -> Field:
    """A number or a truth that may be absent, as a message of its own."""
    return _one(number, _number(1))


@Kept
def _kept_route(route: Same[Json]) -> bytes:
    return _message("Route")(route.it)


def _route(route: Json) -> bytes:
    """Most routes of a table are those of the last one, the very same objects."""
    return _kept_route(Same(route))


def _a(number: int, message: str) -> Field:
    return _one(number, _message(message))


def _some(number: int, message: str) -> Field:
    return _many(number, _message(message))


_FILTERS = "envoy.extensions.filters.http."

# Those that stand for themselves by their full names, the others by the last word.
MESSAGES: dict[str, dict[str, Field]] = {
    "envoy.config.route.v3.RouteConfiguration": {
        "name": _text(1),
        "virtual_hosts": _some(2, "VirtualHost"),
        "request_headers_to_add": _some(6, "HeaderValueOption"),
        "request_headers_to_remove": _texts(8),
        "max_direct_response_body_size_bytes": _wrapped(11),
    },
    "VirtualHost": {
        "name": _text(1),
        "domains": _texts(2),
        "typed_per_filter_config": _by_name(15, _any),
        "retry_policy": _a(16, "RetryPolicy"),
        "matcher": _a(21, "Matcher"),
    },
    "Matcher": {"matcher_tree": _a(2, "MatcherTree"), "on_no_match": _a(3, "OnMatch")},
    "MatcherTree": {"input": _a(1, "xds.TypedExtensionConfig"), "prefix_match_map": _a(3, "MatchMap")},
    "MatchMap": {"map": _by_name(1, _message("OnMatch"))},
    "OnMatch": {"action": _a(2, "xds.TypedExtensionConfig")},
    "xds.TypedExtensionConfig": {"name": _text(1), "typed_config": _one(2, _any)},
    "envoy.type.matcher.v3.HttpRequestHeaderMatchInput": {"header_name": _text(1)},
    "envoy.config.route.v3.RouteList": {"routes": _many(1, _route)},
    "Route": {
        "match": _a(1, "RouteMatch"),
        "route": _a(2, "RouteAction"),
        "metadata": _a(4, "Metadata"),
        "direct_response": _a(7, "DirectResponseAction"),
        "response_headers_to_add": _some(10, "HeaderValueOption"),
        "response_headers_to_remove": _texts(11),
        "typed_per_filter_config": _by_name(13, _any),
        "name": _text(14),
    },
    "RouteMatch": {
        "prefix": _text(1),
        "path": _text(2),
        "headers": _some(6, "HeaderMatcher"),
        "runtime_fraction": _a(9, "RuntimeFractionalPercent"),
        "safe_regex": _a(10, "RegexMatcher"),
        "path_separated_prefix": _text(14),
    },
    "RouteAction": {
        "cluster": _text(1),
        "weighted_clusters": _a(3, "WeightedCluster"),
        "timeout": _one(8, _duration),
        "retry_policy": _a(9, "RetryPolicy"),
        "hash_policy": _some(15, "HashPolicy"),
        "idle_timeout": _one(24, _duration),
        "upgrade_configs": _some(25, "UpgradeConfig"),
    },
    "WeightedCluster": {"clusters": _some(1, "ClusterWeight"), "use_hash_policy": _wrapped(5)},
    "ClusterWeight": {"name": _text(1), "weight": _wrapped(2)},
    "HashPolicy": {
        "header": _a(1, "HashPolicy.Header"),
        "connection_properties": _a(3, "ConnectionProperties"),
        "terminal": _number(4),
    },
    "HashPolicy.Header": {"header_name": _text(1)},
    "ConnectionProperties": {"source_ip": _number(1)},
    "UpgradeConfig": {"upgrade_type": _text(1)},
    "RetryPolicy": {
        "retry_on": _text(1),
        "num_retries": _wrapped(2),
        "per_try_timeout": _one(3, _duration),
        "retry_host_predicate": _some(5, "RetryHostPredicate"),
        "host_selection_retry_max_attempts": _number(6),
        "retry_back_off": _a(8, "RetryBackOff"),
    },
    "RetryHostPredicate": {"name": _text(1), "typed_config": _one(3, _any)},
    "RetryBackOff": {"base_interval": _one(1, _duration), "max_interval": _one(2, _duration)},
    "DirectResponseAction": {"status": _number(1), "body": _a(2, "DataSource")},
    "DataSource": {"inline_string": _text(3)},
    "Metadata": {"filter_metadata": _by_name(1, _struct)},
    "HeaderValueOption": {
        "header": _a(1, "HeaderValue"),
        "append_action": _word(
            3, "APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS"
        ),
    },
    "HeaderValue": {"key": _text(1), "value": _text(2)},
    "HeaderMatcher": {
        "name": _text(1),
        "present_match": _number(7),
        "invert_match": _number(8),
        "string_match": _a(13, "StringMatcher"),
    },
    "StringMatcher": {"exact": _text(1), "safe_regex": _a(5, "RegexMatcher")},
    "RegexMatcher": {"regex": _text(2)},
    "RuntimeFractionalPercent": {"default_value": _a(1, "FractionalPercent"), "runtime_key": _text(2)},
    "FractionalPercent": {"numerator": _number(1), "denominator": _word(2, "HUNDRED", "TEN_THOUSAND", "MILLION")},
    "TypedExtensionConfig": {"name": _text(1), "typed_config": _one(2, _any)},
    "envoy.config.route.v3.FilterConfig": {"config": _one(1, _any), "disabled": _number(3)},
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate": {},
    # Scopes.
    f"{_FILTERS}rbac.v3.RBACPerRoute": {"rbac": _a(2, f"{_FILTERS}rbac.v3.RBAC")},
    f"{_FILTERS}rbac.v3.RBAC": {"rules": _a(1, "RBAC")},
    "RBAC": {"action": _word(1, "ALLOW", "DENY", "LOG"), "policies": _by_name(2, _message("Policy"))},
    "Policy": {"permissions": _some(1, "Permission"), "principals": _some(2, "Principal")},
    "Permission": {"any": _number(3)},
    "Principal": {"and_ids": _a(1, "Principal.Set"), "sourced_metadata": _a(13, "SourcedMetadata")},
    "Principal.Set": {"ids": _some(1, "Principal")},
    "SourcedMetadata": {"metadata_matcher": _a(1, "MetadataMatcher")},
    "MetadataMatcher": {"filter": _text(1), "path": _some(2, "PathSegment"), "value": _a(3, "ValueMatcher")},
    "PathSegment": {"key": _text(1)},
    "ValueMatcher": {"string_match": _a(3, "StringMatcher"), "list_match": _a(6, "ListMatcher")},
    "ListMatcher": {"one_of": _a(1, "ValueMatcher")},
    # Other settings of filters.
    f"{_FILTERS}jwt_authn.v3.PerRouteConfig": {"disabled": _number(1), "requirement_name": _text(2)},
    f"{_FILTERS}lua.v3.LuaPerRoute": {"disabled": _number(1), "filter_context": _one(4, _struct)},
    f"{_FILTERS}filter_chain.v3.FilterChainConfigPerRoute": {"filter_chain": _a(1, "FilterChain")},
    "FilterChain": {"filters": _some(1, "TypedExtensionConfig")},
    f"{_FILTERS}body_size_limit.v3.BodySizeLimit": {"max_request_bytes": _wrapped(1)},
    f"{_FILTERS}buffer.v3.BufferPerRoute": {"buffer": _a(2, "Buffer")},
    "Buffer": {"max_request_bytes": _wrapped(1)},
    f"{_FILTERS}compressor.v3.CompressorPerRoute": {"disabled": _number(1)},
    f"{_FILTERS}cors.v3.CorsPolicy": {
        "allow_origin_string_match": _some(1, "StringMatcher"),
        "expose_headers": _text(4),
        "allow_credentials": _wrapped(6),
        "filter_enabled": _a(7, "RuntimeFractionalPercent"),
        "forward_not_matching_preflights": _wrapped(10),
    },
    f"{_FILTERS}dynamic_modules.v3.DynamicModuleFilterPerRoute": {
        "dynamic_module_config": _a(1, "DynamicModuleConfig"),
        "per_route_config_name": _text(2),
        "filter_config": _one(3, _any),
    },
    "DynamicModuleConfig": {"name": _text(1), "do_not_close": _number(3)},
    "google.protobuf.StringValue": {"value": _text(1)},
}
