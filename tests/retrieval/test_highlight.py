import numpy as np
import pytest

from retrieval.highlight import choose, sentence_texts, sentences

TEXT = "It is free. It takes forty minutes. Bring the key."


def vectors(*near: float) -> np.ndarray:
    """Sentences so near to the question `[1, 0]`, alone and under their title."""
    return np.array([[cosine, 0.0] for cosine in (*near, *near)], np.float32)


ASKED = np.array([[1.0, 0.0]], np.float32)


def test_sentences_are_spans_of_the_text() -> None:
    assert [TEXT[start:end] for start, end in sentences(TEXT)] == TEXT.replace(". ", ".|").split("|")
    assert sentences("No mark at the end") == ((0, 18),)
    assert len(sentence_texts("Title", TEXT, sentences(TEXT))) == 6


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        ((0.1, 0.9, 0.2), "It takes forty minutes."),
        ((0.8, 0.9, 0.2), "It is free. It takes forty minutes."),
        ((0.9, 0.2, 0.85), "It is free."),  # not next to it
        ((0.9, 0.9, 0.9), TEXT),
    ],
)
def test_the_nearest_sentence_and_its_companions_answer(near: tuple[float, ...], expected: str) -> None:
    ((start, end),) = choose(sentences(TEXT), vectors(*near), ASKED)
    assert TEXT[start:end] == expected
