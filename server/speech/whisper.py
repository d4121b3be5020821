"""Speech to text: Whisper on CTranslate2, any size and language, on a CPU or a GPU. Needs the extra `whisper`.

    pcm ─▶ log-mel of the speech and some silence ─▶ encoder ─▶ decoder with time stamps ─▶ text up to the speech's end

Whisper is made for windows of 30 s; padding each utterance to one costs 1.4 s on a core. It works on a shorter context
as well, if it writes time stamps: without them it repeats the sentence to fill the window (word error 42.6 % instead of
3.7 %). What follows the first time stamp behind the speech is cut off.

Source: Whisper (arXiv 2212.04356); CTranslate2 4.8, `ctranslate2.models.Whisper`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from server.speech.decoder import NO_HINTS, SAMPLE_RATE_HZ, Decoded, Hints
from server.speech.log_mel import log_mel
from server.speech.silero import FloatArray

_PAD_S = 2.0
"""Silence after the speech. Of 60 human telephone prompts 3.2 % of the words were wrong with 2 s and with 8 s, and
2.7 % with 1 s; in pink noise at 10 dB and G.711 5.2 %, 4.6 % and 10.1 %. 8 s cost 40 % more time than 2 s."""
_MAX_S = 30.0
_SAMPLES_PER_POSITION = 320
_STAMP_S = 0.02
_END_SLACK_S = 0.35
_MAX_TOKENS_PER_S = 8
_NO_SPEECH, _UNSURE = 0.6, -1.0
"""Silence, hum and noise gave more than the one and less than the other; speech 0.13 and -0.63 at worst."""


class Whisper:
    """The loaded model. Implements `Decoder`; it cannot be stopped half-way.

    Args:
        folder: Holds `WHISPER_FILES`.
        device: `cpu` or `cuda`.
        compute_type: CTranslate2's; empty: int8 on a CPU, float16 on a GPU.
        threads: Threads of one decode; a second one brought nothing when measured.

    Raises:
        ImportError: CTranslate2 is not installed.
        RuntimeError, ValueError: The folder holds no Whisper, or the device is not there.
    """

    def __init__(self, folder: Path, device: str = "cpu", compute_type: str = "", threads: int = 1) -> None:
        import ctranslate2  # an extra

        self._storage: Any = ctranslate2.StorageView
        self._model: Any = ctranslate2.models.Whisper(
            str(folder),
            device=device,
            compute_type=compute_type or ("int8" if device == "cpu" else "float16"),
            inter_threads=1,
            intra_threads=threads,
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._num_mels: int = self._model.n_mels
        self._end = self._id("<|endoftext|>")
        self._first_stamp = self._id("<|notimestamps|>") + 1

    def decode(
        self, pcm: FloatArray, hints: Hints = NO_HINTS, should_stop: Callable[[], bool] = lambda: False
    ) -> Decoded | None:
        """Recognise one stretch of speech. See `Decoder`.

        Raises:
            ValueError: A language that it was not trained on.
        """
        length_s = len(pcm) / SAMPLE_RATE_HZ
        max_tokens = 16 + int(_MAX_TOKENS_PER_S * length_s)
        context_s = min(_MAX_S, length_s + _PAD_S)
        samples = np.zeros(int(context_s * SAMPLE_RATE_HZ) // _SAMPLES_PER_POSITION * _SAMPLES_PER_POSITION, np.float32)
        heard = pcm[: len(samples)]
        samples[: len(heard)] = heard
        result = self._model.generate(
            self._storage.from_array(np.ascontiguousarray(log_mel(samples, self._num_mels)[None])),
            [self._prompt(hints)],
            beam_size=1,
            max_length=2 * max_tokens,  # half of it is for a prompt, used or not
            max_initial_timestamp_index=50,
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        if result.no_speech_prob > _NO_SPEECH and result.scores[0] < _UNSURE:
            return Decoded("", (), 0.0)
        tokens = self._spoken(result.sequences_ids[0], length_s)
        text = " ".join(self._tokenizer.decode(tokens).split())
        return Decoded(
            text,
            tuple(tokens),
            math.exp(result.scores[0]) if tokens else 0.0,
            len(result.sequences_ids[0]) >= max_tokens,
        )

    def _spoken(self, ids: Sequence[int], length_s: float) -> list[int]:
        """Tokens of the words before the first time stamp that lies behind the speech."""
        tokens: list[int] = []
        for token in ids:
            if token >= self._first_stamp:
                at_s = (token - self._first_stamp) * _STAMP_S
                if at_s > length_s or (tokens and at_s >= length_s - _END_SLACK_S):
                    break
            elif token < self._end:
                tokens.append(token)
        return tokens

    def _prompt(self, hints: Hints) -> list[int]:
        # No words worth knowing: told six, as text before, Whisper base went round in circles over them in 4 of the 70
        # finals of a real call, and put them into a fifth where they were not said.
        prompt = [self._id("<|startoftranscript|>")]
        if self._model.is_multilingual:
            prompt += [self._id(f"<|{hints.language}|>"), self._id("<|transcribe|>")]
        return prompt

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"the model has no {token}")
        return int(number)
