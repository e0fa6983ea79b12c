"""TLS on both sides of Envoy. Certificates come by secret discovery (SDS), each from a file of its own: a new one is shown
in the next handshake, and connections that stand are left alone.
"""

from __future__ import annotations

from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json, typed, typed_extension

__all__ = ["authorities", "certificate", "downstream", "plain", "quic", "upstream"]

_TLS = "envoy.extensions.transport_sockets.tls.v3"
_SECRET = f"{_TLS}.Secret"
# For TLS 1.2; 1.3 has no weak ones. All with forward secrecy and authenticated encryption (RFC 9325 §4.2).
_CIPHERS = (
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
    "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
# The first is safe from those who record today and compute later (FIPS 203); who does not know it takes the next.
_CURVES = ("X25519MLKEM768", "X25519", "P-256")


def certificate(name: str, chain: str, key: str) -> Json:
    """A certificate as SDS resource."""
    return typed(
        _SECRET,
        name=name,
        tls_certificate={"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}},
    )


def authorities(name: str, chain: str) -> Json:
    """Whose certificates are believed, as SDS resource."""
    return typed(_SECRET, name=name, validation_context={"trusted_ca": {"inline_string": chain}})


def downstream(folders: Folders) -> Json:
    """Of a TCP listener: TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1."""
    return typed_extension(
        "envoy.transport_sockets.tls", f"{_TLS}.DownstreamTlsContext", **_server(folders, ["h2", "http/1.1"])
    )


def quic(folders: Folders) -> Json:
    """Of a UDP listener. No early data: it can be replayed by whoever saw it."""
    return typed_extension(
        "envoy.transport_sockets.quic",
        "envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport",
        downstream_tls_context=_server(folders, ["h3"]),
        enable_early_data=False,
    )


def upstream(service: str, folders: Folders) -> Json:
    """To replicas of `service`: both ends are ours, so nothing older than TLS 1.3, and names are exact."""
    wanted = {"san_type": "DNS", "matcher": {"exact": service}}
    context = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [_secret("upstream_certificate", folders)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [wanted]},
            "validation_context_sds_secret_config": _secret("upstream_authorities", folders),
        },
    }
    return typed_extension("envoy.transport_sockets.tls", f"{_TLS}.UpstreamTlsContext", sni=service, common_tls_context=context)


def plain() -> Json:
    return typed_extension("envoy.transport_sockets.raw_buffer", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")


def _server(folders: Folders, protocols: list[str]) -> Json:
    context = {
        "alpn_protocols": protocols,
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
            "cipher_suites": list(_CIPHERS),
            "ecdh_curves": list(_CURVES),
        },
        "tls_certificate_sds_secret_configs": [_secret("server_certificate", folders)],
    }
    return {"common_tls_context": context}


def _secret(name: str, folders: Folders) -> Json:
    return {"name": name, "sds_config": folders.source(name)}
