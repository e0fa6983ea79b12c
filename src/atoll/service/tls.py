"""TLS of a service process: it proves that it is the service, and answers nobody who does not prove to be the gateway.

Its files are followed while they change. Every handshake uses the context that was whole last, so that also an authority that
is taken out of its file is believed no longer.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from datetime import UTC, datetime

from atoll.certificates.pair import Pair, read_authorities
from atoll.certificates.watch import LOOK_S, Watch
from atoll.errors import SystemMistake
from atoll.service.environment import TlsFiles

__all__ = ["GatewayOnly"]

_log = logging.getLogger("atoll.service")


class GatewayOnly:
    """`context` is what the server is given. Raises SystemMistake that names the file and what is wrong with it."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._watch = Watch(files.all)
        self._watch.changed()
        self._newest = _context(files)
        self._fault = ""
        self.context = _context(files)
        self.context.sni_callback = self._choose

    async def follow(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._watch.changed() or self._fault:
                self._take()

    def _take(self) -> None:
        try:
            self._newest = _context(self._files)
        except SystemMistake as mistake:
            if mistake.detail != self._fault:
                _log.warning("%s; the last good one stays in use", mistake.detail)
            self._fault = mistake.detail
        else:
            _log.info("%s is in use", self._files.certificate)
            self._fault = ""

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        connection.context = self._newest


def _context(files: TlsFiles) -> ssl.SSLContext:
    Pair.read(files.certificate, files.key, datetime.now(UTC))
    authorities = read_authorities(files.ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A certificate that is good for servers only does not get in: other services have such.
    context.verify_mode = ssl.CERT_REQUIRED
    # A session that is resumed shows no certificate again.
    context.num_tickets = 0
    try:
        context.load_verify_locations(cadata=authorities.decode())
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ValueError) as error:  # replaced since it was read
        raise SystemMistake(f"{files.certificate}, {files.key}, {files.ca}: {error}") from error
    return context
