"""The recogniser that the configuration names: whom to ask first, who stands in, and the recovery around both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
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
        recognisers.append(deepgram(settings, environment))
    if settings.recogniser == "embedded" or settings.fallback == "embedded":
        recognisers.append(embedded(settings, metrics))
    spool_folder.mkdir(parents=True, exist_ok=True)
    recovery = RecoverySettings(ring_s=settings.ring_s, spool_s=settings.spool_s, spool_folder=str(spool_folder))
    return RecoveringRecogniser(recognisers, recovery, metrics)


def embedded(settings: SpeechSettings, metrics: Metrics) -> Recogniser:
    """The recogniser that runs here: Moonshine, and a Whisper for its finals if the settings name one."""
    fast = EmbeddedRecogniser(_fast(settings))
    if not settings.whisper.folder:
        return fast
    budget_s = settings.whisper.budget_ms / 1000
    return TwoPassRecogniser(fast, whisper_alone(settings), _whisper_workers(settings), budget_s, metrics)


def whisper_alone(settings: SpeechSettings) -> EmbeddedRecogniser:
    """The Whisper that the settings name, by itself.

    Raises:
        ConfigError: Its runtime is not installed.
    """
    if find_spec("ctranslate2") is None:
        raise ConfigError("needs the extra whisper: make whisper", field="speech.whisper.folder")
    whisper = settings.whisper
    strong = replace(
        _fast(settings),
        workers=_whisper_workers(settings),
        whisper_folder=whisper.folder,
        device=whisper.device,
        compute_type=whisper.compute_type,
        interim_every_ms=_WHISPER_INTERIM_EVERY_MS,
        niceness=_WHISPER_NICENESS,
    )
    return EmbeddedRecogniser(strong)


def _fast(settings: SpeechSettings) -> EmbeddedSettings:
    return EmbeddedSettings(
        workers=settings.workers,
        endpoint_ms=settings.endpoint_ms,
        moonshine_folder=settings.moonshine_folder,
        max_streams=settings.max_streams,
    )


def _whisper_workers(settings: SpeechSettings) -> int:
    whisper = settings.whisper
    return whisper.workers or (1 if whisper.device == "cuda" else max(1, (os.cpu_count() or 1) // 2))


def deepgram(settings: SpeechSettings, environment: Mapping[str, str]) -> Recogniser:
    """The vendor. Raises as `choose` does."""
    vendor, key = settings.deepgram, environment.get(KEY_VARIABLE, "")
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
