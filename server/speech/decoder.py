"""What a recogniser process needs of a model: one stretch of speech in, its text out. Implemented by a file a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from server.speech.silero import FloatArray

SAMPLE_RATE_HZ = 16_000
"""Of the audio that every decoder takes."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decode.

    Attributes:
        text: As the model wrote it, with case and punctuation.
        tokens: What it was made of; the draft of the next decode.
        confidence: Geometric mean of the token probabilities, 0 to 1; 0 for no text.
        is_capped: The token limit cut it off: it repeats itself.
    """

    text: str
    tokens: tuple[int, ...]
    confidence: float
    is_capped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What is known of a stretch of speech before it is decoded.

    Attributes:
        draft: Tokens of an earlier decode of its beginning.
        language: Primary subtag, as `en`.
    """

    draft: Sequence[int] = ()
    language: str = "en"


NO_HINTS = Hints()


class Decoder(Protocol):
    """A loaded model. Used by one thread at a time."""

    def decode(self, pcm: FloatArray, hints: Hints = NO_HINTS, should_stop: Callable[[], bool] = ...) -> Decoded | None:
        """Recognise one stretch of speech.

        Args:
            pcm: `[samples] float32` at 16 kHz, -1 to 1.
            hints: What is known of it.
            should_stop: Asked now and then; more urgent work waits when it says yes.

        Returns:
            None if it was stopped.
        """
