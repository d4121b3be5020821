"""What speech costs: texts are spoken by the embedded voice, sent through a telephone line and recognised again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr

from server.app.demo_script import Voice
from server.app.render import RATE_HZ, level, synthesiser, telephone, trim
from server.speech.model_files import locate
from server.speech.moonshine import Moonshine
from server.speech.text_guards import plausible_text

_RECOGNISER_RATE_HZ = 16_000
_MAX_CHARACTERS = 400
"""Longer texts are cut: the recogniser takes half a minute of speech at most."""


class TelephoneLine:
    """Loaded voice and recogniser. One thread at a time."""

    def __init__(self) -> None:
        self._speak = synthesiser(Voice(name="heart"))
        self._recogniser = Moonshine(locate("", "").moonshine_folder)

    def hear(self, texts: Sequence[str]) -> list[str]:
        """Return what the recogniser wrote of each text; empty where it heard nothing."""
        return [self._hear(text, seed) for seed, text in enumerate(texts)]

    def _hear(self, text: str, seed: int) -> str:
        if not any(character.isalnum() for character in text):
            return ""
        sound = level(trim(self._speak(text[:_MAX_CHARACTERS])))
        if len(sound) == 0:
            return ""
        line = soxr.resample(telephone(sound, seed), RATE_HZ, _RECOGNISER_RATE_HZ).astype(np.float32)
        decoded = self._recogniser.decode(line)
        if decoded is None:
            return ""
        return plausible_text(
            decoded.text,
            confidence=decoded.confidence,
            voiced_ms=len(line) * 1000 // _RECOGNISER_RATE_HZ,
            is_capped=decoded.is_capped,
            min_confidence=0.0,
        )
