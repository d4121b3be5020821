from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from inference.tokens import ID_BYTES, Tokenizer, pad_rows
from tests.examples import examples
from tests.inference.tiny_models import WORDS, bert_tokenizer


def ids(row: bytes) -> list[int]:
    return np.frombuffer(row, np.int32).tolist()


def expected(text: str, max_tokens: int) -> list[int]:
    reference = bert_tokenizer()
    reference.enable_truncation(max_tokens)
    return list(reference.encode(text).ids)


TOKENIZER = Tokenizer(bert_tokenizer(), 32)


@settings(max_examples=examples(500))
@given(st.text(max_size=60))
def test_any_text_gets_the_ids_of_the_full_tokeniser(text: str) -> None:
    assert ids(TOKENIZER.encode(text)) == expected(text, 32)


@given(
    st.lists(st.sampled_from([*WORDS, "Lost", "CARD!", "", "\t", "\u3000", "e\u0301", "is.lost", "\x0b"]), max_size=60)
)
def test_any_mix_of_words_blanks_and_marks_gets_the_ids_of_the_full_tokeniser(words: list[str]) -> None:
    text = " ".join(words)
    assert ids(TOKENIZER.encode(text)) == expected(text, 32)


@pytest.mark.parametrize("text", ["my \ud83d card", "my card \udc00", "my card\ud83d", "\ud83d\ude00 my card"])
def test_half_a_surrogate_pair_is_no_word(text: str) -> None:
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    assert ids(TOKENIZER.encode(text)) == expected(joined, 32)


def test_an_empty_text_has_only_the_special_tokens() -> None:
    assert ids(TOKENIZER.encode("")) == [2, 3]


def test_ten_thousand_words_are_cut_at_the_limit() -> None:
    text = "my card is lost " * 2_500
    assert ids(TOKENIZER.encode(text)) == expected(text, 32)
    assert len(TOKENIZER.encode(text)) == 32 * ID_BYTES


def test_text_far_beyond_the_limit_is_not_read() -> None:
    assert ids(TOKENIZER.encode(" " * 16 * 32 + "card")) == [2, 3]


def test_the_table_of_chunks_is_bounded_and_holds_no_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.tokens._MAX_CHUNKS", 4)
    tokenizer = Tokenizer(bert_tokenizer(), 32)
    for word in [*WORDS[5:], "card" * 10]:
        assert ids(tokenizer.encode(word)) == expected(word, 32)
        assert len(tokenizer._chunks) <= 4
    assert "card" * 10 not in tokenizer._chunks


def test_a_wrapped_tokeniser_neither_cuts_nor_pads_by_itself() -> None:
    other = bert_tokenizer()
    other.enable_truncation(2)
    other.enable_padding(length=8)
    text = "my\tcard is lost"  # not printable, so the full tokeniser is asked
    assert ids(Tokenizer(other, 32).encode(text)) == expected(text, 32)


def test_a_tokeniser_with_words_of_several_chunks_is_asked_for_the_whole_text() -> None:
    other = bert_tokenizer()
    other.add_tokens(["my card"])
    row = Tokenizer(other, 32).encode("lost my card")
    assert ids(row) == other.encode("lost my card").ids
    assert len(ids(row)) == 4


def test_a_limit_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        Tokenizer(bert_tokenizer(), 2)


def test_a_file_that_is_no_tokeniser_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokeniser file"):
        Tokenizer.from_file(tmp_path / "tokenizer.json", 32)


def test_a_tokeniser_that_joins_words_is_asked_for_the_whole_text() -> None:
    other = bert_tokenizer()
    other.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer = Tokenizer(other, 32)
    assert ids(tokenizer.encode("a b")) == other.encode("a b").ids


def test_revisions_that_differ_in_case_and_punctuation_compare_equal() -> None:
    loose = TOKENIZER.without_soft_punctuation
    assert loose(TOKENIZER.encode("My card, is lost.")) == loose(TOKENIZER.encode("my card is lost"))
    assert loose(TOKENIZER.encode("my card's lost")) != loose(TOKENIZER.encode("my card lost"))


def test_rows_are_padded_and_masked() -> None:
    token_ids, mask = pad_rows([TOKENIZER.encode("my card"), TOKENIZER.encode("lost")], 3, 6)
    assert token_ids.dtype == mask.dtype == np.int32
    assert token_ids.flags.c_contiguous
    assert token_ids.tolist() == [[2, 5, 6, 3, 0, 0], [2, 8, 3, 0, 0, 0], [0] * 6]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
