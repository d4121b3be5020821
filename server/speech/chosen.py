"""The recogniser that the configuration names: whom to ask first, who stands in, and the recovery around both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from server.config.check import is_loopback
from server.config.settings import SpeechSettings
from server.metrics import Metrics
from server.speech.contract import Recogniser
from server.speech.embedded import EmbeddedRecogniser
from server.speech.recovery.recogniser import RecoveringRecogniser
from server.speech.recovery.settings import RecoverySettings
from server.speech.settings import EmbeddedSettings
from server.wire.errors import ConfigError

KEY_VARIABLE = "DEEPGRAM_API_KEY"
_VENDOR_HOST = "deepgram.com"


def choose(
    settings: SpeechSettings, spool_folder: Path, environment: Mapping[str, str], metrics: Metrics
) -> RecoveringRecogniser:
    """Build the recognisers that the settings name.

    Args:
        settings: Of the section `speech`.
        spool_folder: Where audio of long outages may go; made if it is not there.
        environment: Holds the vendor's key.
        metrics: Counts.

    Raises:
        ConfigError: The vendor's package or key is missing, or its address is not safe to send audio to.
    """
    recognisers: list[Recogniser] = []
    if settings.recogniser == "deepgram":
        recognisers.append(_deepgram(settings, environment.get(KEY_VARIABLE, "")))
    if settings.recogniser == "embedded" or settings.fallback == "embedded":
        recognisers.append(EmbeddedRecogniser(embedded_settings(settings)))
    spool_folder.mkdir(parents=True, exist_ok=True)
    recovery = RecoverySettings(ring_s=settings.ring_s, spool_s=settings.spool_s, spool_folder=str(spool_folder))
    return RecoveringRecogniser(recognisers, recovery, metrics)


def embedded_settings(settings: SpeechSettings) -> EmbeddedSettings:
    """What the embedded recogniser is told."""
    return EmbeddedSettings(
        workers=settings.workers,
        endpoint_ms=settings.endpoint_ms,
        moonshine_folder=settings.moonshine_folder,
        max_streams=settings.max_streams,
    )


def _deepgram(settings: SpeechSettings, key: str) -> Recogniser:
    vendor = settings.deepgram
    address = urlsplit(vendor.url)
    host = address.hostname or ""
    if address.scheme not in ("ws", "wss") or not host:
        raise ConfigError("is no WebSocket address such as wss://host:port", field="speech.deepgram.url")
    if address.scheme == "ws" and not is_loopback(host):
        raise ConfigError("customers' voices leave this machine: use wss://", field="speech.deepgram.url")
    if not key and (host == _VENDOR_HOST or host.endswith(f".{_VENDOR_HOST}")):
        raise ConfigError("the vendor's key has to be in the environment", field=KEY_VARIABLE)
    try:
        from server.speech.deepgram.recogniser import DeepgramRecogniser  # its SDK is an extra
    except ImportError as error:
        raise ConfigError("needs the extra deepgram: pip install deepgram-sdk", field="speech.recogniser") from error
    return DeepgramRecogniser(vendor, key)
