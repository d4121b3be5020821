"""Which web pages may talk to us. Pure.

A browser sends `Origin` with every WebSocket handshake and cross-site POST, and a page cannot forge it; other
programs send none and are let in, because they could send anything. A browser's same-origin GET has none either, so
where nobody signs in, `Host` has to be a loopback name. Source: RFC 6455 section 10.2, RFC 6454.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class OriginPolicy:
    """Our own pages, and those of the origins named in the configuration.

    Args:
        allowed: Origins such as `https://desktop.example.com`.
        is_loopback_only: Nobody signs in here. Then our own pages come from a loopback name: a page that points
            its own name at 127.0.0.1 (DNS rebinding) would otherwise count as ours.
    """

    def __init__(self, allowed: Collection[str] = (), *, is_loopback_only: bool = False) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        self._is_loopback_only = is_loopback_only

    def allows(self, origin: str | None, host: str | None) -> bool:
        """Whether a request may go on.

        Args:
            origin: Value of the header `Origin`, None if there was none.
            host: Value of the header `Host`.
        """
        if origin is None:
            # A page's own GET carries no origin either, and what a rebound name asks for is ours by that name.
            return not self._is_loopback_only or host is None or _hostname(f"//{host}") in LOOPBACK_HOSTS
        origin = origin.strip().lower()
        if origin in self._allowed:
            return True
        try:
            page = urlsplit(origin)
            page_host = page.hostname
        except ValueError:
            return False
        if not page_host or page.scheme not in ("http", "https") or host is None:
            return False
        if self._is_loopback_only and page_host not in LOOPBACK_HOSTS:
            return False
        # The scheme is left out: a proxy that ends TLS in front of us changes it.
        return page.netloc == host.strip().lower()


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url.strip().lower()).hostname
    except ValueError:
        return None
