"""Work not done twice: the same token ids through the same version give what they gave before.

    ids ──recall──▶ (batch result, row) of the pass that computed them, however long ago the bound allows

Token ids are the identity of a text, so case and blanks that the tokeniser ignores do not count. An interim that
differs from its utterance's previous revision only in punctuation is answered as that one was; finals never are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from threading import Lock
from typing import Generic, TypeVar

from inference.row import Lane
from inference.tokens import TokenBytes

Result = TypeVar("Result")


class Memo(Generic[Result]):
    """Bounded, least recently used out first. Callable from any thread."""

    def __init__(self, max_rows: int) -> None:
        """Start empty; a bound of 0 keeps nothing."""
        self._max_rows = max_rows
        self._rows: OrderedDict[tuple[Lane, TokenBytes], Result] = OrderedDict()
        self._spoken: OrderedDict[Hashable, tuple[TokenBytes, TokenBytes]] = OrderedDict()
        self._lock = Lock()

    def recall(self, lane: Lane, ids: TokenBytes) -> Result | None:
        """Return what these ids gave, None if it is not known any more."""
        key = (lane, ids)
        with self._lock:
            result = self._rows.get(key)
            if result is not None:
                self._rows.move_to_end(key)
            return result

    def keep(self, lane: Lane, results: Iterable[tuple[TokenBytes, Result]]) -> None:
        """Remember what a batch of ids gave."""
        if not self._max_rows:
            return
        with self._lock:
            for ids, result in results:
                self._rows[lane, ids] = result
                if len(self._rows) > self._max_rows:
                    self._rows.popitem(last=False)

    def said(self, utterance: Hashable, words: TokenBytes) -> TokenBytes | None:
        """Return the ids of the utterance's latest revision if it had the same words.

        Args:
            utterance: Its identity.
            words: Ids without punctuation that comes and goes.
        """
        with self._lock:
            known = self._spoken.get(utterance)
            return known[1] if known is not None and known[0] == words else None

    def say(self, utterance: Hashable, words: TokenBytes, ids: TokenBytes) -> None:
        """Note the latest revision of an utterance that is to be computed."""
        if not self._max_rows:
            return
        with self._lock:
            self._spoken[utterance] = (words, ids)
            self._spoken.move_to_end(utterance)
            if len(self._spoken) > self._max_rows:
                self._spoken.popitem(last=False)

    def clear(self) -> int:
        """Forget all words; how many rows they were."""
        with self._lock:
            num_rows = len(self._rows)
            self._rows.clear()
            self._spoken.clear()
            return num_rows

    def forget(self, lane: Lane) -> None:
        """Drop everything a version gave."""
        with self._lock:
            for key in [key for key in self._rows if key[0] == lane]:
                del self._rows[key]
