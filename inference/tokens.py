"""Text to token ids, without a Python object per token.

    text ──split at spaces──▶ chunks ──table of known chunks──▶ bytes of int32 ids ──joined──▶ the batch's tensor

A BERT tokeniser treats every stretch between blanks by itself, so the ids of a text are the ids of its chunks one
after the other. Words repeat, so a bounded table of chunks answers a 12-word text in 2.5 µs where the full tokeniser
takes 34 µs; a chunk seen for the first time asks the full tokeniser. Other tokenisers are asked for every text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

TokenBytes = bytes
"""Ids of one row as native int32, `np.frombuffer(row, np.int32)`; also the row's identity in the memo."""

ID_BYTES = 4

MAX_CHARS_A_TOKEN = 16
"""Text beyond this many characters a token of the limit is not read: four times what English needs, and the work of
a text of 10,000 words stays that of a long one."""

_MAX_CHUNK_CHARS = 32
"""Longer chunks (addresses, noise) are not kept."""

_MAX_CHUNKS = 1 << 16
"""Table size, about 8 MB when full; English calls use a tenth of it."""

_SOFT_PUNCTUATION = frozenset('.,!?;:"…')
"""Marks that a recogniser adds and removes while an utterance grows."""


class _Chunks(dict[str, bytes]):
    """Ids of known chunks; one that is not known asks the full tokeniser, without a second look at its neighbours."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        super().__init__()
        self._full = tokenizer

    def __missing__(self, chunk: str) -> bytes:
        ids = _pack(self._full.encode(chunk, add_special_tokens=False).ids)
        if len(chunk) <= _MAX_CHUNK_CHARS:
            if len(self) >= _MAX_CHUNKS:
                self.clear()  # rare, and one call refills what matters
            self[chunk] = ids
        return ids


class Tokenizer:
    """Ids of texts for one model. Not thread-safe: the event loop's thread owns it.

    Special tokens are added and the length is cut at `max_tokens`, as the wrapped tokeniser would.
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer, max_tokens: int) -> None:
        """Wrap a tokeniser.

        Args:
            tokenizer: Any; its own padding is switched off.
            max_tokens: Most ids of a row, special tokens included.

        Raises:
            ValueError: If `max_tokens` leaves no room beside the special tokens.
        """
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._full = tokenizer
        self._max_chars = MAX_CHARS_A_TOKEN * max_tokens
        probe = tokenizer.encode("a", add_special_tokens=False).ids
        framed = tokenizer.encode("a").ids
        at = next((i for i in range(len(framed)) if framed[i : i + len(probe)] == probe), 0)
        self._prefix = _pack(framed[:at])
        self._suffix = _pack(framed[at + len(probe) :])
        body = max_tokens - (len(framed) - len(probe))
        if body < 1:
            raise ValueError(f"max_tokens of {max_tokens} leaves no room beside the special tokens")
        self._body_bytes = body * ID_BYTES
        self._is_chunked = _treats_chunks_apart(json.loads(tokenizer.to_str()))
        self._chunks = _Chunks(tokenizer)
        vocabulary = tokenizer.get_vocab()
        self._is_soft = np.zeros(max(vocabulary.values(), default=0) + 1, np.bool_)
        self._is_soft[[vocabulary[mark] for mark in _SOFT_PUNCTUATION if mark in vocabulary]] = True

    @classmethod
    def from_file(cls, path: Path, max_tokens: int) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises:
            ValueError: If the file is none.
        """
        try:
            tokenizer = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path.name} is no tokeniser file: {error}") from error
        return cls(tokenizer, max_tokens)

    def encode(self, text: str) -> TokenBytes:
        """Return the ids of a text. Any string is valid, an empty one has only the special tokens."""
        text = text[: self._max_chars]
        # A printable text has no blank but the space, and no control character for the normaliser to drop.
        if self._is_chunked and text.isprintable():
            body = b"".join(map(self._chunks.__getitem__, text.split(" ")))
        else:
            # Half a surrogate pair is no text to the full tokeniser; as U+FFFD it is dropped.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            body = _pack(self._full.encode(text, add_special_tokens=False).ids)
        return self._prefix + body[: self._body_bytes] + self._suffix

    def without_soft_punctuation(self, row: TokenBytes) -> TokenBytes:
        """Return a row's ids without the marks a recogniser adds while an utterance grows, to compare revisions."""
        ids = np.frombuffer(row, np.int32)
        return ids[~self._is_soft[ids]].tobytes()


def pad_rows(rows: Sequence[TokenBytes], num_rows: int, num_tokens: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lay rows out as a batch: one joined string of bytes, seen as an array.

    Joining takes half the time of copying row by row into a tensor kept for the bucket, which is cold by the time the
    next batch comes: a model's pass sweeps the caches.

    Args:
        rows: At most `num_rows`, none longer than `num_tokens`.
        num_rows: First dimension; missing rows are padding with one unmasked token, so that no row is empty.
        num_tokens: Second dimension.

    Returns:
        Ids and mask, each `[num_rows, num_tokens] int32`, read-only. Padding has id 0, which no model sees.
    """
    width = num_tokens * ID_BYTES
    ids = b"".join([row.ljust(width, b"\0") for row in rows])
    mask = b"".join([_ones(len(row)).ljust(width, b"\0") for row in rows])
    if missing := num_rows - len(rows):
        ids += b"\0" * (width * missing)
        mask += _ones(ID_BYTES).ljust(width, b"\0") * missing
    shape = (num_rows, num_tokens)
    return np.frombuffer(ids, np.int32).reshape(shape), np.frombuffer(mask, np.int32).reshape(shape)


@cache
def _ones(num_bytes: int) -> bytes:
    """As many int32 ones as fit; one entry a length that occurs."""
    return np.ones(num_bytes // ID_BYTES, np.int32).tobytes()


def _pack(ids: Sequence[int]) -> bytes:
    return np.array(ids, np.int32).tobytes()


def _treats_chunks_apart(description: dict[str, Any]) -> bool:
    """Whether the ids of a text are those of its space-separated chunks: BERT's normaliser and pre-tokeniser."""
    kinds = [(description.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer")]
    has_blank = any(" " in token["content"] for token in description.get("added_tokens", ()))
    return kinds == ["BertNormalizer", "BertPreTokenizer"] and not has_blank
