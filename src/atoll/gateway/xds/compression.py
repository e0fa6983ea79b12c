"""Answers in fewer bytes: brotli, zstd or gzip, whatever the client takes."""

from __future__ import annotations

from typing import Any

from atoll.gateway.xds.typed import Json, typed, typed_extension

__all__ = ["filters", "off"]

_NAMES = {one: f"envoy.filters.http.compressor.{one}" for one in ("br", "zstd", "gzip")}
# What text is made of. Not text/event-stream and application/grpc: their pieces must not wait for each other.
_TYPES = (
    "application/javascript",
    "application/json",
    "application/manifest+json",
    "application/problem+json",
    "application/xml",
    "image/svg+xml",
    "text/css",
    "text/csv",
    "text/html",
    "text/javascript",
    "text/plain",
    "text/xml",
)
# Below this the answer fits into one packet anyway.
_LEAST_BYTES = 1024
_LIBRARIES: dict[str, Json] = {
    # Levels at which a core compresses faster than a network takes it; what lies above gains a few per cent.
    "br": typed_extension(
        "envoy.compression.brotli.compressor", "envoy.extensions.compression.brotli.compressor.v3.Brotli", quality=4
    ),
    "zstd": typed_extension(
        "envoy.compression.zstd.compressor", "envoy.extensions.compression.zstd.compressor.v3.Zstd", compression_level=3
    ),
    "gzip": typed_extension(
        "envoy.compression.gzip.compressor",
        "envoy.extensions.compression.gzip.compressor.v3.Gzip",
        compression_level="COMPRESSION_LEVEL_5",
        memory_level=8,
        window_bits=15,
    ),
}


def filters() -> list[Json]:
    """The one that a client likes best by its own weights; where it likes several alike, brotli, else what it names first."""
    return [_filter(one) for one in _NAMES]


def off() -> dict[str, Any]:
    """For a route whose answers must pass as they are, by filter."""
    name = "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute"
    return {one: typed(name, disabled=True) for one in _NAMES.values()}


def _filter(encoding: str) -> Json:
    return typed_extension(
        _NAMES[encoding],
        "envoy.extensions.filters.http.compressor.v3.Compressor",
        compressor_library=_LIBRARIES[encoding],
        # Where a client likes several alike. (Of two that say so, Envoy takes neither the first nor the client's first.)
        choose_first=encoding == "br",
        response_direction_config={
            "common_config": {
                "min_content_length": _LEAST_BYTES,
                "content_type_matcher": [{"exact": one} for one in _TYPES],
            },
            # Other bytes of the same meaning: W/"…" (RFC 9110 §8.8.1). A strong tag would be a lie, none would end caching.
            "weaken_etag_on_compress": True,
            # A part of the bytes must stay that part.
            "uncompressible_response_codes": [206],
        },
    )
