from hypothesis import given
from hypothesis import strategies as st

from retrieval.article import Article, Audience, Section, Viewer
from retrieval.chunking import MAX_PASSAGE_WORDS, chunk, part_texts
from retrieval.content import Content
from retrieval.highlight import sentences

words = st.text("abcde. !", min_size=1, max_size=30).filter(str.strip)
sections = st.builds(
    Section,
    st.tuples() | st.tuples(st.sampled_from(["One", "Two"])),
    st.lists(words, min_size=1, max_size=8).map(tuple),
)
labelled = st.frozensets(st.sampled_from("abc"), max_size=2)
articles = st.builds(
    Article,
    st.sampled_from(["a.md", "b.md"]),
    st.just("Title"),
    st.lists(sections, min_size=1, max_size=5).map(tuple),
    st.builds(Audience, labelled, labelled),
)


@given(articles)
def test_every_word_is_in_a_passage_once_and_in_order(article: Article) -> None:
    said = [word for section in article.sections for block in section.blocks for word in block.split()]
    kept = [word for passage in chunk(article) for word in passage.text.split()]
    assert kept == said


@given(articles)
def test_ids_are_unique_and_stable(article: Article) -> None:
    ids = [passage.id for passage in chunk(article)]
    assert len(set(ids)) == len(ids)
    assert ids == [passage.id for passage in chunk(article)]


@given(articles, sections)
def test_an_added_section_moves_no_id_before_it(article: Article, added: Section) -> None:
    longer = Article(article.source, article.title, (*article.sections, added), article.audience)
    ids = [passage.id for passage in chunk(article)]
    assert [passage.id for passage in chunk(longer)][: len(ids)] == ids


@given(articles)
def test_passages_and_parts_are_bounded_and_numbered(article: Article) -> None:
    passages = chunk(article)
    assert all(len(passage.text.split()) <= 2 * MAX_PASSAGE_WORDS for passage in passages)
    content = Content.of(passages)
    assert [p for number in range(content.num_parts) for p in content.part(number)] == passages


@given(
    st.lists(articles, min_size=1, max_size=4, unique_by=lambda a: a.source), labelled, st.sampled_from(["", *"abc"])
)
def test_no_filter_ever_leaks(found: list[Article], rights: frozenset[str], queue: str) -> None:
    viewer = Viewer(rights, queue)
    passages = [passage for article in found for passage in chunk(article)]
    allowed = Content.of(passages).allowed(viewer)
    for number, passage in enumerate(passages):
        may = (not passage.audience.rights or bool(passage.audience.rights & rights)) and (
            not passage.audience.queues or queue in passage.audience.queues
        )
        assert (allowed is None or bool(allowed[number])) == may
        if allowed is None:
            assert may


def test_items_and_rows_stand_on_lines_of_their_own_and_vectors_do_not_see_them() -> None:
    blocks = ("The warranty is two years. It begins with the delivery.", "Water damage", "Tuning kits")
    (passage,) = chunk(Article("a.md", "Warranty", (Section((), blocks),)))
    assert passage.text == "\n".join(blocks)
    assert passage.embedded == f"Warranty: {' '.join(blocks)}"
    assert part_texts([passage])[2] == f"Warranty. {' '.join(blocks)}"
    said = [passage.text[start:end] for start, end in sentences(passage.text)]
    assert said == ["The warranty is two years.", "It begins with the delivery.", "Water damage", "Tuning kits"]
