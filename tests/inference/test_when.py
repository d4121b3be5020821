from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.when import MAX_DEPTH, MAX_TEXT, Predicate, WhenError, parse_when


def leaf(kind: str, name: str, *path: str, constant: str | float | bool | None = None) -> Predicate:
    return Predicate(kind, name=name, path=path, constant=constant)


@pytest.mark.parametrize(
    ("text", "predicate"),
    [
        ("is_final", leaf("truthy", "is_final")),
        ("speaker == customer", leaf("==", "speaker", constant="customer")),
        ("speaker=='customer'", leaf("==", "speaker", constant="customer")),
        ('language != "en-GB"', leaf("!=", "language", constant="en-GB")),
        ("intent.score >= -.5e1", leaf(">=", "intent", "score", constant=-5.0)),
        ("sentiment.scores.negative > 0.5", leaf(">", "sentiment", "scores", "negative", constant=0.5)),
        ("is_final == false", leaf("==", "is_final", constant=False)),
        ("not a", Predicate("not", (leaf("truthy", "a"),))),
        ("a and b and c", Predicate("and", (leaf("truthy", "a"), leaf("truthy", "b"), leaf("truthy", "c")))),
        (
            "a or b and not (c or d)",
            Predicate(
                "or",
                (
                    leaf("truthy", "a"),
                    Predicate(
                        "and",
                        (
                            leaf("truthy", "b"),
                            Predicate("not", (Predicate("or", (leaf("truthy", "c"), leaf("truthy", "d"))),)),
                        ),
                    ),
                ),
            ),
        ),
        ("android and nothing", Predicate("and", (leaf("truthy", "android"), leaf("truthy", "nothing")))),
    ],
)
def test_the_grammar(text: str, predicate: Predicate) -> None:
    assert parse_when(text) == predicate
    assert parse_when(str(predicate)) == predicate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the name of an input or output at column 1, given the end"),
        ("   ", "expected the name of an input or output"),
        ("a ==", "expected a number, a word or a quoted string at column 5, given the end"),
        ("a == b.c", "given 'b.c'"),
        ("a < 3 < 4", "expected 'and', 'or' or the end at column 7, given '<'"),
        ("(a", r"expected '\)' at column 3, given the end"),
        ("a)", "expected 'and', 'or' or the end at column 2"),
        ("a b", "expected 'and', 'or' or the end at column 3, given 'b'"),
        ("a = b", "unexpected '=' at column 3"),
        ("a == 3x", "unexpected '3' at column 6"),
        ("a == 'open", 'unexpected "\'" at column 6'),
        ("a & b", "unexpected '&' at column 3"),
        ("and", "given 'and'"),
        ("not", "given the end"),
        ("a == and", "given 'and'"),
        ("1 == a", "given '1'"),
        ("a == 1e999", "too large a number"),
        ("__import__('os')", r"expected 'and', 'or' or the end at column 11, given '\('"),
        ("(" * (MAX_DEPTH + 2) + "a", f"nested deeper than {MAX_DEPTH}"),
        ("not " * (MAX_DEPTH + 2) + "a", f"nested deeper than {MAX_DEPTH}"),
        ("a" * (MAX_TEXT + 1), f"longer than {MAX_TEXT}"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(WhenError, match=message):
        parse_when(text)


@given(st.text(alphabet="ab.01 ()'\"=<>!-andortue", max_size=40))
def test_any_text_is_a_predicate_or_refused(text: str) -> None:
    try:
        predicate = parse_when(text)
    except WhenError:
        return
    assert parse_when(str(predicate)) == predicate
    assert predicate.names()
