"""Values of the configuration checked against each other and against this machine."""

from __future__ import annotations

import ipaddress
import math
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from server.config.settings import AuthSettings, GenerationSettings, Settings, TlsSettings
from server.wire.errors import ConfigError

MIN_AUDIOHOOK_SECRET_BYTES = 16
MIN_SHARED_KEY_BYTES = 32
"""HS256 wants a key as long as its hash. Source: RFC 7518 section 3.2."""


def _check_finite(section: msgspec.Struct, path: str = "") -> None:
    """No timer takes infinity: what was meant as "never" would fail when it is first used."""
    for name in section.__struct_fields__:
        match getattr(section, name):
            case msgspec.Struct() as inner:
                _check_finite(inner, f"{path}{name}.")
            case float(value) if not math.isfinite(value):
                raise ConfigError("has to be a finite number", field=f"{path}{name}")


def check(settings: Settings) -> Settings:
    """Check values against each other.

    Raises:
        ConfigError: With the path of the value that has to change.
    """
    _check_finite(settings)
    if settings.auth.shared_key and len(settings.auth.shared_key.encode()) < MIN_SHARED_KEY_BYTES:
        raise ConfigError(f"needs at least {MIN_SHARED_KEY_BYTES} bytes", field="auth.shared_key")
    if settings.auth.is_anonymous and not is_loopback(settings.host):
        raise ConfigError(
            f"{settings.host} can be reached from other machines, which needs authentication: "
            "set auth.jwks or auth.shared_key",
            field="host",
        )
    _check_auth(settings.auth)
    _check_tls(settings.tls)
    for index, account in enumerate(settings.ingest.audiohook.accounts):
        try:
            is_long = len(account.secret) >= MIN_AUDIOHOOK_SECRET_BYTES
        except ValueError:
            is_long = False
        if not is_long:
            raise ConfigError(
                f"has to be base64 of at least {MIN_AUDIOHOOK_SECRET_BYTES} bytes",
                field=f"ingest.audiohook.accounts[{index}].client_secret",
            )
    if settings.auth.is_anonymous and not is_loopback(settings.connect.host):
        raise ConfigError(
            f"{settings.connect.host} can be reached from other machines, which needs authentication",
            field="connect.host",
        )
    if (settings.log.backend == "redis") != bool(settings.log.url):
        raise ConfigError("belongs to the backend redis, which needs it", field="log.url")
    if settings.auth.is_anonymous and not is_loopback(settings.fleet.host):
        raise ConfigError("can be reached from other machines, which needs authentication", field="fleet.host")
    _check_generation(settings.generation)
    if settings.engine.backend == "triton" and not settings.engine.triton_url:
        raise ConfigError("the backend triton needs its address, host:port", field="engine.triton_url")
    for field, folder in (("paths.graphs", settings.paths.graphs), ("paths.model_repo", settings.paths.model_repo)):
        if not Path(folder).is_dir():
            raise ConfigError(f"no such folder: {folder}", field=field)
    data_path = settings.data_path
    if data_path.exists() and not data_path.is_dir():
        raise ConfigError(f"is not a folder: {data_path}", field="data_dir")
    return settings


def _check_auth(auth: AuthSettings) -> None:
    if not auth.jwks:
        return
    if auth.shared_key:
        # Two ways in are one too many: the weaker one decides.
        raise ConfigError("is set as well as auth.jwks; use one of them", field="auth.shared_key")
    address = urlsplit(auth.jwks)
    if address.scheme and (address.scheme != "https" and not is_loopback(address.hostname or "")):
        raise ConfigError("has to be an https address, or the path of a file", field="auth.jwks")
    if not auth.audience:
        raise ConfigError("is needed with auth.jwks: the provider signs tokens for others, too", field="auth.audience")


def _check_tls(tls: TlsSettings) -> None:
    if bool(tls.certificate) != bool(tls.key):
        field = "tls.key" if tls.certificate else "tls.certificate"
        raise ConfigError("certificate and key need each other", field=field)
    if tls.client_ca and not tls.certificate:
        raise ConfigError("is needed to ask for client certificates", field="tls.certificate")


def _check_generation(generation: GenerationSettings) -> None:
    if not generation.base_url:
        return
    if urlsplit(generation.base_url).scheme not in ("http", "https"):
        raise ConfigError("expected an http or https address", field="generation.base_url")
    if not generation.model:
        raise ConfigError("the endpoint wants the name of a model", field="generation.model")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
