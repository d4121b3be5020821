"""The recogniser that the configuration names: whom to ask first, who stands in, and the recovery around both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
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
from server.speech.two_pass import TwoPassRecogniser
from server.wire.errors import ConfigError

KEY_VARIABLE = "DEEPGRAM_API_KEY"
_VENDOR_HOST = "deepgram.com"
_WHISPER_INTERIM_EVERY_MS = 640
"""A decode of Whisper base takes twice as long as one of Moonshine, however short the speech is."""
_WHISPER_NICENESS = 5
"""Interims of the fast recogniser and annotations go first: without it a machine that runs short would be late with
everything instead of skipping the second pass."""


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
        recognisers.append(embedded(settings, metrics))
    spool_folder.mkdir(parents=True, exist_ok=True)
    recovery = RecoverySettings(ring_s=settings.ring_s, spool_s=settings.spool_s, spool_folder=str(spool_folder))
    return RecoveringRecogniser(recognisers, recovery, metrics)


def embedded(settings: SpeechSettings, metrics: Metrics) -> Recogniser:
    """The recogniser that runs here: Moonshine, and a Whisper for its finals if the settings name one."""
    fast = EmbeddedSettings(
        workers=settings.workers,
        endpoint_ms=settings.endpoint_ms,
        moonshine_folder=settings.moonshine_folder,
        max_streams=settings.max_streams,
    )
    whisper = settings.whisper
    if not whisper.folder:
        return EmbeddedRecogniser(fast)
    cores = os.cpu_count() or 1
    workers = whisper.workers or (1 if whisper.device == "cuda" else max(1, cores // 2))
    strong = replace(
        fast,
        workers=workers,
        whisper_folder=whisper.folder,
        device=whisper.device,
        compute_type=whisper.compute_type,
        interim_every_ms=_WHISPER_INTERIM_EVERY_MS,
        niceness=_WHISPER_NICENESS,
    )
    budget_s = whisper.budget_ms / 1000
    return TwoPassRecogniser(EmbeddedRecogniser(fast), EmbeddedRecogniser(strong), workers, budget_s, metrics)


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
