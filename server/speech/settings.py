"""What the embedded recogniser can be told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from server.speech.segmenter import SegmenterSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSettings:
    """Settings of the embedded recogniser. The defaults are what was measured best on two cores.

    Attributes:
        workers: Worker processes; 0: one a core.
        threads: Threads of one decode. A second one brought 1 to 8 % and cost a core.
        endpoint_ms: Silence that ends an utterance; 0: the segmenter's default.
        interim_every_ms: Speech between interims; 0: the segmenter's default.
        interim_share: Part of a worker's time that repeated interims may take. Under load their interval stretches
            until they fit, so that finals and first interims find the worker free.
        min_confidence: Below it a decode is taken for noise and gives no text.
        noise_floor_dbfs: A frame with less power than this is not voiced, whatever the detector says of it.
        max_backlog_ms: Audio of one stream that may wait before `send` waits too, and then fails.
        overload_after_s: How long `send` waits for room before it raises `Overloaded`.
        max_streams: Streams at once over all workers; `open` refuses more.
        moonshine_folder: Folder with the recogniser's weights; empty: the installed package.
        silero_folder: Folder with the voice detector's weights; empty: the installed package.
        whisper_folder: Folder of a CTranslate2 Whisper, to be used instead of Moonshine; empty: none.
        device: Where Whisper runs.
        compute_type: CTranslate2's, of Whisper; empty: what suits the device.
        niceness: Added to that of the server, for what may wait for others.
    """

    workers: int = 0
    threads: int = 1
    endpoint_ms: int = 0
    interim_every_ms: int = 0
    interim_share: float = 0.6
    min_confidence: float = 0.3
    noise_floor_dbfs: float = -60.0
    max_backlog_ms: int = 20_000
    overload_after_s: float = 2.0
    max_streams: int = 64
    moonshine_folder: str = ""
    silero_folder: str = ""
    whisper_folder: str = ""
    device: Literal["cpu", "cuda"] = "cpu"
    compute_type: str = ""
    niceness: int = 0

    @property
    def segmenter(self) -> SegmenterSettings:
        """The cutting rules that follow from these settings."""
        settings = SegmenterSettings()
        if self.endpoint_ms:
            settings = replace(settings, endpoint_ms=self.endpoint_ms)
        if self.interim_every_ms:
            settings = replace(settings, interim_every_ms=self.interim_every_ms)
        return settings
