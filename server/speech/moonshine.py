"""Speech to text: Moonshine tiny-en on plain onnxruntime, greedy, with the last decode as a draft.

    pcm ─▶ encoder ─▶ decoder: [begin + draft] in one pass ─▶ keep what it agrees with ─▶ go on token by token

A live segment is decoded again and again while it grows, and most of the text does not change. The tokens of the
decode before are proposed to the decoder in one pass; it keeps the prefix it would have chosen itself and only the
rest is generated one by one. The text is a greedy one either way; the time is not: 5 s of speech took 65 ms instead
of 114 ms and 10 s 155 ms instead of 280 ms (one thread, EPYC with AVX-512, 2 cores).

The decoder is quantised with one scale per pass, so a pass of many tokens rounds a little differently from passes of
one token: near-ties (a comma or a full stop) may fall differently with and without a draft.

Source: Moonshine (arXiv 2410.15608); speculative decoding (arXiv 2211.17192) with the previous hypothesis as draft.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from server.speech.decoder import NO_HINTS, SAMPLE_RATE_HZ, Decoded, Hints
from server.speech.silero import FloatArray, session_options

_BEGIN, _END = 1, 2
_NUM_HEADS, _HEAD_SIZE = 8, 36
_LEAD_S, _TAIL_S = 0.1, 0.5
"""Silence around the speech. It took the word error rate of 60 human telephone prompts from 6.1 % to 4.5 %."""

_MAX_TOKENS_PER_S = 6.5
"""The model's own limit: no speech yields more, so a decode that reaches it is going round in circles."""

_MAX_PROPOSAL = 16
"""Tokens proposed at once after a disagreement: a pass of 16 costs about as much as three of one."""

_BYTE_TOKEN = re.compile(rb"<0x([0-9A-F]{2})>")


def read_vocabulary(data: bytes) -> list[bytes]:
    """Parse `tokenizer.bin`: byte strings, each after its length in one or two bytes.

    Raises:
        ValueError: If the file ends inside an entry.
    """
    entries: list[bytes] = []
    position = 0
    while position < len(data):
        length = data[position]
        position += 1
        if length >= 128:
            if position == len(data):
                raise ValueError("vocabulary ends inside a length")
            length += data[position] * 128 - 128
            position += 1
        if position + length > len(data):
            raise ValueError("vocabulary ends inside an entry")
        entry = data[position : position + length]
        byte = _BYTE_TOKEN.fullmatch(entry)
        entries.append(bytes([int(byte[1], 16)]) if byte else entry)
        position += length
    return entries


class Moonshine:
    """The loaded model. `decode` may be called from one thread at a time.

    Args:
        folder: Holds `encoder_model.ort`, `decoder_model_merged.ort` and `tokenizer.bin`.
        threads: Threads of one decode; a second one brought nothing when measured.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        options = session_options(threads)
        providers = ["CPUExecutionProvider"]
        self._encoder = ort.InferenceSession(str(folder / "encoder_model.ort"), options, providers=providers)
        self._decoder = ort.InferenceSession(str(folder / "decoder_model_merged.ort"), options, providers=providers)
        self._cache_names = [i.name for i in self._decoder.get_inputs() if i.name.startswith("past_key_values")]
        self._vocabulary = read_vocabulary((folder / "tokenizer.bin").read_bytes())

    def decode(
        self, pcm: FloatArray, hints: Hints = NO_HINTS, should_stop: Callable[[], bool] = lambda: False
    ) -> Decoded | None:
        """Recognise one stretch of speech. See `Decoder`; of the hints it takes the draft."""
        draft = hints.draft
        padded = np.zeros(int((_LEAD_S + _TAIL_S) * SAMPLE_RATE_HZ) + len(pcm), np.float32)
        lead = int(_LEAD_S * SAMPLE_RATE_HZ)
        padded[lead : lead + len(pcm)] = pcm
        mask = np.ones((1, len(padded)), np.int64)
        hidden = self._encoder.run(None, {"input_values": padded[None], "attention_mask": mask})[0]
        run = _DecoderRun(self._decoder, self._cache_names, hidden, mask)
        max_tokens = 6 + int(_MAX_TOKENS_PER_S * len(padded) / SAMPLE_RATE_HZ)
        cursor, proposal = 0, tuple(draft[:max_tokens])
        while not should_stop():
            agreed, token = run.advance(proposal)
            cursor += agreed
            if token == _END:
                return self._decoded(run, is_capped=False)
            if len(run.tokens) >= max_tokens:
                return self._decoded(run, is_capped=True)
            cursor = _resynchronise(draft, cursor, token)
            # After a proposal that failed at once the draft may be of no more use: try it in small bites.
            size = _MAX_PROPOSAL if agreed else 2
            proposal = tuple(draft[cursor : cursor + size])
        return None

    def _decoded(self, run: _DecoderRun, *, is_capped: bool) -> Decoded:
        tokens = tuple(run.tokens)
        raw = b"".join(self._vocabulary[token] for token in tokens)
        text = " ".join(raw.decode("utf-8", "ignore").replace("\u2581", " ").split())
        confidence = math.exp(sum(run.log_probabilities) / len(run.log_probabilities)) if tokens else 0.0
        return Decoded(text, tokens, confidence, is_capped)


def _resynchronise(draft: Sequence[int], cursor: int, token: int) -> int:
    """Where in the draft to go on after the decoder chose `token` instead of `draft[cursor]`.

    A token found near by means that words were left out or repeated; otherwise it replaced one.
    """
    if cursor >= len(draft):
        return len(draft)
    low = max(0, cursor - 2)
    window = list(draft[low : cursor + 4])
    return low + window.index(token) + 1 if token in window else cursor + 1


class _DecoderRun:
    """One decode in progress: the tokens so far and the decoder's cache over them."""

    def __init__(
        self, decoder: ort.InferenceSession, cache_names: list[str], hidden: FloatArray, mask: npt.NDArray[np.int64]
    ) -> None:
        self.tokens: list[int] = []
        self.log_probabilities: list[float] = []
        self._decoder = decoder
        self._cache_names = cache_names
        self._inputs: dict[str, npt.NDArray[np.generic]] = {
            "encoder_hidden_states": hidden,
            "encoder_attention_mask": mask,
            "use_cache_branch": np.array([False]),
        }
        empty = np.zeros((1, _NUM_HEADS, 0, _HEAD_SIZE), np.float32)
        self._inputs.update(dict.fromkeys(cache_names, empty))
        self._last = _BEGIN

    def advance(self, proposal: Sequence[int]) -> tuple[int, int]:
        """Run one pass over the last token and the proposal.

        Returns:
            How many proposed tokens the decoder agrees with, and the token that it chooses after them. All of them
            are appended to `tokens`, except an end token.
        """
        self._inputs["input_ids"] = np.array([[self._last, *proposal]], np.int64)
        is_first = not self.tokens and self._last == _BEGIN
        outputs = self._decoder.run(None, self._inputs)
        logits: FloatArray = outputs[0][0]
        choices = logits.argmax(axis=-1)
        agreed = 0
        while agreed < len(proposal) and choices[agreed] == proposal[agreed]:
            agreed += 1
        token = int(choices[agreed])
        rows = logits[: agreed + 1]
        peaks = rows.max(axis=-1)
        self.log_probabilities += (-np.log(np.exp(rows - peaks[:, None]).sum(axis=-1))).tolist()
        self.tokens += [int(t) for t in proposal[:agreed]]
        num_cached = 1 + len(self.tokens)
        for name, value in zip(self._cache_names, outputs[1:], strict=True):
            if ".decoder." in name:
                self._inputs[name] = value[:, :, :num_cached]
            elif is_first:
                self._inputs[name] = value
        self._inputs["use_cache_branch"] = np.array([True])
        if token != _END:
            self.tokens.append(token)
        self._last = token
        return agreed, token
