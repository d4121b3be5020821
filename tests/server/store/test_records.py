from __future__ import annotations

import itertools
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from server.store.records import Kept, replaces, row, rows
from server.store.schema import metadata
from tests.examples import examples
from tests.server.store.records import action, conversation, coverage, gap, receipt, utterance

RECORDS = st.lists(
    st.one_of(
        st.builds(utterance, st.sampled_from("ab"), st.integers(1, 5), st.text(max_size=3), final=st.booleans()),
        st.builds(action, st.sampled_from("ab"), st.integers(1, 5)),
        st.builds(conversation, st.sampled_from(["c1", "c2"]), st.integers(1, 5)),
        st.builds(receipt, st.sampled_from(["shown", "used"]), st.floats(0, 9)),
        st.builds(gap, st.integers(1, 5)),
        st.builds(coverage, st.integers(1, 5)),
    ),
    max_size=25,
)


def test_every_record_has_a_row_with_every_column() -> None:
    made = [conversation(), utterance(), action(), receipt(), gap(), coverage()]
    assert {type(record) for record in made} == set(get_args(Kept))
    tables = set()
    for record in made:
        table, values = row(record)
        tables.add(table.name)
        assert set(values) == {column.name for column in table.c}
    assert tables == set(metadata.tables) - {"erasures"}


@settings(max_examples=examples(300))
@given(RECORDS, st.data())
def test_thinning_a_batch_leaves_what_writing_it_all_would(records: list[Kept], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(records)), max_size=4)))
    table: dict[tuple[object, ...], dict[str, object]] = {}
    for start, end in itertools.pairwise([0, *cuts, len(records)]):
        for name, batch in rows(records[start:end]).items():
            for new in batch:
                key = (name, *(new[column.name] for column in metadata.tables[name].primary_key))
                if key not in table or replaces(new, table[key]):
                    table[key] = new
    whole = {
        (name, *(new[column.name] for column in metadata.tables[name].primary_key)): new
        for name, batch in rows(records).items()
        for new in batch
    }
    assert table == whole


@given(st.permutations([(revision, final) for revision in (1, 2, 3) for final in (False, True)]))
def test_any_order_leaves_the_newest_final(revisions: list[tuple[int, bool]]) -> None:
    records: list[Kept] = [utterance("u", revision, final=final) for revision, final in revisions]
    (kept,) = rows(records)["utterances"]
    assert (kept["revision"], kept["is_final"]) == (3, True)
