"""The speech contract over a chain of recognisers: the first that answers serves, and what it loses is said again.

RecoveringRecogniser([deepgram, embedded]) ── open ─▶ RecoveredStream
"""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import Callable, Sequence

from server.metrics import Metrics
from server.speech.contract import Capabilities, Recogniser, SpeechCall, SpeechStream
from server.speech.recovery.chain import PERMANENT, Chain
from server.speech.recovery.leg import Leg
from server.speech.recovery.settings import RecoverySettings
from server.speech.recovery.stream import RecoveredStream
from server.wire.errors import Overloaded


class RecoveringRecogniser:
    """Keeps unrecognised audio and asks again.

    Args:
        recognisers: In order of preference, at least one.
        settings: Numbers.
        metrics: Counts.
        draw: Uniform from 0 to 1, for the jitter.
    """

    def __init__(
        self,
        recognisers: Sequence[Recogniser],
        settings: RecoverySettings,
        metrics: Metrics,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._recognisers = tuple(recognisers)
        self._settings = settings
        self._metrics = metrics
        self._draw = draw
        self._streams: weakref.WeakSet[RecoveredStream] = weakref.WeakSet()
        metrics.asr_unsettled.set_function(lambda: sum(stream.unsettled_s for stream in self._streams))

    @property
    def capabilities(self) -> Capabilities:
        """Those of the preferred one."""
        return self._recognisers[0].capabilities

    async def start(self) -> None:
        """Start all of them.

        Raises:
            ConfigError: One of them is configured wrongly.
        """
        for recogniser in self._recognisers:
            await recogniser.start()

    async def open(self, call: SpeechCall) -> SpeechStream:
        """Open a stream on the first recogniser that takes the call.

        If none answers, the call is taken all the same and its audio kept: they are tried again.

        Raises:
            Overloaded: None has room for another stream.
            CuelineError: All of them refused this call for good; the last answer.
        """
        chain = Chain(self._recognisers, self._settings, self._metrics, self._draw)
        errors: list[BaseException] = []
        first: Leg | None = None
        for index in range(len(self._recognisers)):
            first = await chain.open(chain.attempt(index), call)
            if first is not None or not isinstance(chain.last_error, (Overloaded, *PERMANENT)):
                break  # taken, or away for a moment: the stream itself tries again, and then the others
            errors.append(chain.last_error)
        if len(errors) == len(self._recognisers):
            raise next((error for error in errors if isinstance(error, Overloaded)), errors[-1])
        stream = RecoveredStream(call, chain, first, self._settings)
        self._streams.add(stream)
        return stream

    async def stop(self) -> None:
        """End all streams and all recognisers."""
        await asyncio.gather(*(stream.abandon() for stream in list(self._streams)))
        for recogniser in self._recognisers:
            await recogniser.stop()
