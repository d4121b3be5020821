"""Bases of trades are read whole, and a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.training.readers import DataError
from inference.training.service_bases import read_service_bases

ARTICLE = """
  - id: late_fee
    title: Fee for late payment
    text: A fee of 5 is due after 30 days.
    direct: [what does it cost to pay late]
    talks:
      - before: ["c: i forgot to pay", "a: may i have your number: please"]
        ask: what happens now
"""


def test_every_question_has_its_turns(tmp_path: Path) -> None:
    (tmp_path / "power.yaml").write_text(f"articles:{ARTICLE}")
    (base,) = read_service_bases(tmp_path)
    assert (base.trade, base.articles[0].id) == ("power", "late_fee")
    assert base.articles[0].questions == (
        ("what does it cost to pay late", ()),
        ("what happens now", (("customer", "i forgot to pay"), ("agent", "may i have your number: please"))),
    )


@pytest.mark.parametrize(
    "text",
    ["", "articles: 3", "articles: [{id: a}]", f"articles:{ARTICLE}{ARTICLE}", "articles: [{", "x: 1"]
    + [f"articles:{ARTICLE.replace(old, new)}" for old, new in (("c: i", "x: i"), ("[what", "{what: [what"))],
)
def test_what_is_no_base_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "power.yaml").write_text(text)
    with pytest.raises(DataError, match=r"power\.yaml"):
        read_service_bases(tmp_path)


def test_a_folder_without_bases_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no base"):
        read_service_bases(tmp_path)


def test_the_bases_of_the_project_are_whole() -> None:
    bases = read_service_bases()
    assert len(bases) >= 20
    for base in bases:
        for article in base.articles:
            direct = [question for question, turns in article.questions if not turns]
            assert len(direct) >= 3, (base.trade, article.id)
            assert len(article.questions) - len(direct) >= 3, (base.trade, article.id)
            assert all(question.isascii() and question == question.lower() for question, _ in article.questions)
