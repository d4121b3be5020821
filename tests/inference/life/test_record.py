from __future__ import annotations

from pathlib import Path

import pytest

from inference.errors import ModelError
from inference.life.file import read_records, wishes, write_records
from inference.life.record import Record, SetAside, introduced, needed, next_version, promoted, withdrawn
from inference.model_config import VersionPolicy

LATEST = VersionPolicy()
BAD = SetAside("refused", "is bad", "b", 1.0)


@pytest.mark.parametrize(
    ("record", "policy", "seen", "expected"),
    [
        (Record(serving=1), LATEST, {1: "a"}, None),
        (Record(serving=1), LATEST, {1: "a", 2: "b"}, 2),
        (Record(serving=1, candidate=2, stage="shadow"), LATEST, {1: "a", 2: "b"}, None),
        (Record(serving=1, set_aside={2: BAD}), LATEST, {1: "a", 2: "b"}, None),
        (Record(serving=1, set_aside={2: BAD}), LATEST, {1: "a", 2: "new files"}, 2),
        (Record(serving=1, set_aside={3: BAD}), LATEST, {1: "a", 2: "x", 3: "b"}, 2),
        (Record(serving=2), LATEST, {1: "a"}, None),  # its folder vanished; it serves from memory
        (Record(serving=2), VersionPolicy(0, (1,)), {1: "a", 2: "b"}, 1),
        (Record(serving=2), VersionPolicy(0, (7,)), {1: "a", 2: "b"}, None),
    ],
)
def test_what_is_taken_in_next(
    record: Record, policy: VersionPolicy, seen: dict[int, str], expected: int | None
) -> None:
    assert next_version(record, policy, seen) == expected


def test_a_probation_ends_with_a_rollback_or_another_trial() -> None:
    record = promoted(Record(serving=1), 2, until_s=60.0)
    assert record == Record(serving=2, previous=1, probation_until_s=60.0)
    assert withdrawn(record, 2, BAD) == Record(serving=1, set_aside={2: BAD})
    assert introduced(record, 3, "canary", 0.1) == Record(2, 1, 3, "canary", 0.1)
    assert withdrawn(record, 3, BAD).probation_until_s == 60.0


def test_a_version_comes_serves_and_goes_back() -> None:
    record = introduced(Record(serving=1, set_aside={2: BAD}), 2, "canary", 0.1)
    assert (record.serving, record.candidate, record.stage, record.ratio, record.set_aside) == (1, 2, "canary", 0.1, {})
    assert withdrawn(record, 2, BAD) == Record(serving=1, set_aside={2: BAD})
    record = promoted(record, 2)
    assert record == Record(serving=2, previous=1)
    assert promoted(record, 2) == record
    assert withdrawn(record, 2, BAD) == Record(serving=1, set_aside={2: BAD})
    assert withdrawn(record, 1, BAD) == Record(serving=2, set_aside={1: BAD})


def test_what_may_be_unloaded() -> None:
    record = Record(serving=3, previous=2, candidate=4, stage="shadow")
    loaded = (1, 2, 3, 4)
    assert needed(record, LATEST, loaded, (), is_on_probation=False) == {3, 4}
    assert needed(record, LATEST, loaded, (1,), is_on_probation=True) == {1, 2, 3, 4}
    assert needed(Record(serving=3), VersionPolicy(2), (1, 2, 3), (), is_on_probation=False) == {2, 3}
    assert needed(Record(serving=1, set_aside={2: BAD}), LATEST, (1, 2), (), is_on_probation=False) == {1}


def test_records_outlive_the_process_and_a_damaged_file_is_never_overlooked(tmp_path: Path) -> None:
    path = tmp_path / "data" / "models.json"
    assert read_records(path) == {}
    records = {"utterance": Record(serving=2, previous=1, set_aside={3: BAD}), "other": Record()}
    write_records(path, records)
    assert read_records(path) == records
    assert wishes(records)["utterance"].serving == 2
    assert wishes(records)["utterance"].avoid == {3}
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ModelError, match=r"models\.json: cannot be read"):
        read_records(path)
