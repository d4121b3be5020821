"""Sets of questions: read, checked against the base, and judged."""

from pathlib import Path

import pytest

from retrieval.article import Viewer
from retrieval.errors import BadQuery
from retrieval.evaluation import MAX_NAMED, evaluate, read_cases
from retrieval.ingest import ingest
from retrieval.search import KnowledgeBase
from retrieval.store import BaseStore
from tests.retrieval.hashing_embedder import HashingEmbedder

REFUND = b'{"question": "refund for returned jacket", "relevant": "refund.md"}'
NOTHING = b'{"question": "zebra quantum lasagne", "relevant": []}'


@pytest.fixture
async def base(tmp_path: Path) -> KnowledgeBase:
    folder = tmp_path / "articles"
    folder.mkdir()
    (folder / "refund.md").write_text("# Refund status\n\nA refund for a returned jacket takes five working days.\n")
    (folder / "secret.md").write_text("---\nrights: staff\n---\n# Goodwill\n\nPay goodwill vouchers at once.\n")
    await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())
    return KnowledgeBase(tmp_path, "shop", "faq", HashingEmbedder())


async def test_what_is_found_and_what_is_left_are_counted(base: KnowledgeBase) -> None:
    scores, answers = await evaluate(base, read_cases([REFUND, b"", NOTHING]))
    assert (scores.questions, scores.answerable, scores.abstained) == (2, 1, 1)
    assert (scores.recall_at_1, scores.mrr, scores.abstention_recall) == (1.0, 1.0, 1.0)
    assert [answer.abstained for answer in answers] == [False, True]


async def test_an_article_that_the_base_does_not_have_is_refused_with_its_line(base: KnowledgeBase) -> None:
    lines = [REFUND, b"", b'{"question": "refund", "relevant": ["refund.md", "refunds.md"]}']
    with pytest.raises(BadQuery, match=r"line 3 `refunds\.md`") as raised:
        await evaluate(base, read_cases(lines))
    assert raised.value.field == "relevant"
    many = [b'{"question": "refund", "relevant": "none.md"}'] * (MAX_NAMED + 2)
    with pytest.raises(BadQuery, match=f"line {MAX_NAMED} `none.md` and 2 more"):
        await evaluate(base, read_cases(many))


async def test_one_that_the_reader_may_not_see_is_refused_as_well(base: KnowledgeBase) -> None:
    cases = read_cases([b'{"question": "goodwill vouchers", "relevant": "secret.md"}'])
    with pytest.raises(BadQuery, match=r"line 1 `secret.md` \(asks for a right or a queue\)"):
        await evaluate(base, cases)
    scores, _ = await evaluate(base, cases, viewer=Viewer(frozenset({"staff"})))
    assert scores.recall_at_1 == 1.0


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"{", "line 2"),
        (b"[]", "line 2: $"),
        (b'{"question": 1}', "line 2: question"),
        (b'{"question": "a", "relevant": 1}', "line 2: relevant"),
        (b'{"question": "a", "context": [{"speaker": "x", "text": "b"}]}', "line 2: context[0].speaker"),
        (b'{"question": " "}', "line 2: question"),
    ],
)
async def test_a_wrong_line_is_named_with_its_field(base: KnowledgeBase, line: bytes, field: str) -> None:
    with pytest.raises(BadQuery) as raised:
        await evaluate(base, read_cases([REFUND, line]))
    assert raised.value.field == field


def test_a_set_of_nothing_is_refused() -> None:
    with pytest.raises(BadQuery, match="no question"):
        read_cases([b"", b"\n"])
