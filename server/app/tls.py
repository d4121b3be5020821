"""TLS of our port, and certificates that are renewed while the server runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from server.config.settings import TlsSettings
from server.wire.errors import ConfigError

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 30.0
"""How soon a renewed certificate is seen; they are renewed days before they end."""


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """A server context for TLS 1.2 and newer.

    Raises:
        ConfigError: A file cannot be used; names the setting.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for field, path in (("tls.certificate", settings.certificate), ("tls.key", settings.key)):
        if not Path(path).is_file():
            raise ConfigError(f"no such file: {path}", field=field)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"certificate and key do not load: {_reason(error)}", field="tls.certificate") from None
    if settings.client_ca:
        try:
            context.load_verify_locations(settings.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"does not load: {_reason(error)}", field="tls.client_ca") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Renewal:
    """Takes up a certificate that was renewed; open connections keep theirs.

    Args:
        context: What serves.
        settings: Where the files are.
    """

    def __init__(self, context: ssl.SSLContext, settings: TlsSettings) -> None:
        self._context = context
        self._settings = settings
        self._seen = self._stamps()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            self.look()

    def look(self) -> None:
        """Load certificate and key again if their files have changed."""
        now = self._stamps()
        if now == self._seen:
            return
        files = (self._settings.certificate, self._settings.key)
        try:
            # Tried on a context of its own first: half a renewal must not spoil the one that serves.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files)
            self._context.load_cert_chain(*files)
        except (ssl.SSLError, OSError) as error:
            logger.error("the new certificate does not load; the old one serves", extra={"reason": _reason(error)})
            return
        self._seen = now
        logger.info("certificate renewed")

    def _stamps(self) -> tuple[int, ...]:
        try:
            return tuple(Path(path).stat().st_mtime_ns for path in (self._settings.certificate, self._settings.key))
        except OSError:
            return ()


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
