from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.training.corpus import read_catalogue, read_corpus
from inference.training.readers import (
    DataError,
    IntentLine,
    Line,
    examples,
    read_intent,
    read_lines,
    read_question,
    read_turns,
)
from inference.training.retrieval import read_retrieval_set, score_retrieval
from inference.training.splits import position, split
from inference.training.tasks import SPEAKERS, TASKS, join, sample

INTENTS = ("balance", "greeting")


def write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder of made-up lines in the shape of the real one."""
    for part in ("train", "val"):
        rows = [{"text": f"{part} {intent} {i}", "intent": intent} for intent in (*INTENTS, "oos") for i in range(20)]
        write(tmp_path / f"intent/clinc150_{part}.jsonl", rows)
    write(
        tmp_path / "intent/banking77_train.jsonl",
        [{"text": f"where is card {i}?", "intent": ("card", "pin")[i % 2]} for i in range(40)],
    )
    for name, intents in (("banking", ["refund", "greet"]), ("hotels", ["spa"])):
        rows = [{"text": f"{name} {i}.", "intents": intents[: i % 3]} for i in range(40)]
        write(tmp_path / f"intent/nlupp_{name}_train.jsonl", rows)
    turns = [("customer", "do you fly to rome?", ["REQUEST"]), ("agent", "yes we do.", ["INFORM"])]
    turns += [("customer", "thanks, bye.", ["THANK_YOU", "GOODBYE"]), ("agent", "goodbye!", ["GOODBYE"])]
    rows = [
        {"dialogue": str(d), "turn": t, "speaker": speaker, "text": text, "acts": acts}
        for d in range(30)
        for t, (speaker, text, acts) in enumerate(turns)
    ]
    write(tmp_path / "dialogue_act/sgd_train.jsonl", rows)
    feelings = ("negative", "neutral", "positive")
    rows = [{"dialogue": str(i // 2), "text": f"Well {i}.", "sentiment": feelings[i % 3]} for i in range(30)]
    write(tmp_path / "sentiment/meld_train.jsonl", rows)
    write(tmp_path / "sentiment/tweeteval.jsonl", rows)
    rows = [
        {"dialogue": str(i // 2), "speaker": "customer", "text": f"again {i}", "acts": [], "satisfaction": 1 + i % 5}
        for i in range(40)
    ]
    rows.append({"dialogue": "1", "speaker": "agent", "text": "sorry", "acts": [], "satisfaction": None})
    for name in ("sgd", "mwoz"):
        write(tmp_path / f"sentiment/uss_{name}.jsonl", rows)
    return tmp_path


def test_every_task_is_read_and_no_group_is_torn(folder: Path) -> None:
    corpus = read_corpus(folder, seed=3)
    assert list(corpus.splits) == [task.name for task in TASKS]
    for name, parts in corpus.splits.items():
        groups = [set(part.groups) for part in (parts.fit, parts.calibrate, parts.validate)]
        if name not in ("intent", "actions"):  # these come with parts of their own
            assert not groups[0] & groups[1], name
            assert not groups[1] & groups[2], name
            assert not groups[0] & groups[2], name
    assert corpus.splits["intent"].fit.labels == INTENTS
    assert len(corpus.outside.fit) == 20
    assert corpus.splits["intent_modular"].fit.labels == ("greet", "refund", "spa")


def test_same_seed_same_parts_in_any_order(folder: Path) -> None:
    inside, _ = read_intent(folder, "train")
    turned = inside.take(np.arange(len(inside))[::-1])
    assert set(split(inside, 5).validate.texts) == set(split(turned, 5).validate.texts)
    assert set(split(inside, 5).validate.texts) != set(split(inside, 6).validate.texts)


def test_a_sample_is_the_same_each_time_and_has_both_speakers(folder: Path) -> None:
    acts = read_corpus(folder, 0).splits["acts"].fit
    some = sample(acts, len(acts) // 2)
    assert len(some) == len(acts) // 2
    assert set(some.speakers) == set(SPEAKERS)
    assert some.groups == sample(acts, len(acts) // 2).groups
    assert len(sample(acts, 10**6)) == len(acts)


def test_positions_spread_evenly() -> None:
    places = np.array([position(str(i), 0) for i in range(4000)])
    assert np.histogram(places, 4, (0, 1))[0] == pytest.approx(1000, rel=0.1)


def test_turns_know_what_was_said_before_in_their_dialogue(tmp_path: Path) -> None:
    said = [
        ("a", "hello"),
        ("a", "hi"),
        ("b", "yes"),
        ("a", "again"),
        ("", "one"),
        ("", "two"),
        ("b", "no"),
        ("b", "oh"),
    ]
    file = tmp_path / "turns.jsonl"
    file.write_text("".join(json.dumps({"dialogue": dialogue, "text": text}) + "\n" for dialogue, text in said))
    assert [line.before for line in read_turns(file, Line)] == ["", "hello", "", "", "", "", "", "no"]


def test_dissatisfied_is_below_three(folder: Path) -> None:
    rows = read_corpus(folder, 0).splits["dissatisfied"]
    everything = join([rows.fit, rows.calibrate, rows.validate])
    assert everything.targets.mean() == pytest.approx(0.4)
    assert set(everything.speakers) == {"customer"}


def test_a_question_is_read_off_its_mark_and_the_mark_is_gone(folder: Path) -> None:
    rows = join(read_question(folder))
    asked = {text: bool(target) for text, target in zip(rows.texts, rows.targets[:, 0], strict=True)}
    assert asked["do you fly to rome"]
    assert not asked["yes we do"]
    assert not any("?" in text for text in asked)


def test_actions_learn_from_other_labels_only_what_those_decide(folder: Path) -> None:
    rows = read_corpus(folder, 0).splits["actions"].fit
    at = {text: row for row, text in enumerate(rows.texts)}
    farewell = rows.labels.index("close_call")
    assert rows.targets[at["goodbye!"], farewell] == 1
    assert rows.mask[at["yes we do."], farewell] == 1
    assert rows.targets[at["yes we do."], farewell] == 0
    assert rows.mask[at["yes we do."], rows.labels.index("refund")] == 0


def test_the_catalogue_is_whole() -> None:
    rows = read_catalogue()
    assert len(rows.labels) >= 20
    assert len(set(rows.texts)) == len(rows.texts), "a phrase shows one action"
    for column, label in enumerate(rows.labels):
        for speaker in SPEAKERS:
            said = [who == speaker for who in rows.speakers]
            assert rows.targets[said, column].sum() >= 5, f"{label} said by {speaker}"
    assert all(text == text.lower() for text in rows.texts), "as a recogniser writes"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("greet: {agent: [hello]}", "customer"),
        ("greet: {agent: hello, customer: [hi]}", "array.*agent"),
        ("greet: {agent: [1], customer: [hi]}", "str.*agent"),
        ("greet: {agent: [hello], customer: [hi], bot: [ho]}", "bot"),
        ("[greet]", "object"),
        ("greet: [", "parsing"),
    ],
)
def test_a_malformed_catalogue_is_named(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "catalogue.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"catalogue\.yaml: .*{problem}"):
        read_catalogue(tmp_path / "catalogue.yaml")


def test_a_missing_and_an_empty_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl: No such file"):
        list(read_lines(tmp_path / "absent.jsonl", Line))
    (tmp_path / "blank.jsonl").write_text("\n  \n")
    with pytest.raises(DataError, match=r"blank\.jsonl: holds no line"):
        list(read_lines(tmp_path / "blank.jsonl", Line))


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b'{"text": 3, "intent": "pin"}', r"`str`.*text"),
        (b'{"text": "a"}', "missing.*`intent`"),
        (b'{"text": "a", "intent": 3}', r"`str`.*intent"),
        (b'{"text": "a", "intent": ""}', "intent"),
        (b'{"text": "a", "intent": null}', r"`str`.*intent"),
        (b'{"text": "a", "intent": "pin"', "truncated"),
        (b'{"text": "\xff", "intent": "pin"}', "utf-8"),
        (b'["a", "pin"]', "object"),
        (b'{"text": "a", "intent": "pin", "more": ' + b"[" * 100_000, "recursion"),
    ],
)
def test_a_bad_line_is_named_with_its_field(raw: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "fine", "intent": "pin"}\n\n' + raw + b"\n")
    with pytest.raises(DataError, match=rf"bad\.jsonl:3: .*{problem}"):
        list(read_lines(tmp_path / "bad.jsonl", IntentLine))


@pytest.mark.parametrize(
    ("name", "field", "wrong"),
    [
        ("intent/clinc150_train", "intent", ["balance"]),
        ("intent/clinc150_val", "intent", 1),
        ("intent/banking77_train", "intent", None),
        ("intent/nlupp_banking_train", "intents", "refund"),
        ("intent/nlupp_hotels_train", "intents", [1]),
        ("dialogue_act/sgd_train", "acts", "REQUEST"),
        ("dialogue_act/sgd_train", "dialogue", 1),
        ("dialogue_act/sgd_train", "speaker", "user"),
        ("sentiment/tweeteval", "sentiment", "angry"),
        ("sentiment/meld_train", "sentiment", 2),
        ("sentiment/meld_train", "dialogue", ""),
        ("sentiment/uss_sgd", "satisfaction", "low"),
        ("sentiment/uss_mwoz", "satisfaction", 7),
        ("sentiment/uss_mwoz", "dialogue", None),
    ],
)
def test_every_label_field_is_there_and_of_its_type(name: str, field: str, wrong: object, folder: Path) -> None:
    file = folder / f"{name}.jsonl"
    first, second, *others = file.read_text().splitlines()
    row = json.loads(second)
    assert field in row
    for bad in ({**row, field: wrong}, {key: value for key, value in row.items() if key != field}):
        file.write_text("\n".join([first, json.dumps(bad), *others]))
        with pytest.raises(DataError, match=rf"{name}\.jsonl:2: .*{field}"):
            read_corpus(folder, 0)


def test_a_label_that_only_the_held_out_rows_have_is_named_with_its_line(folder: Path) -> None:
    with (folder / "intent/clinc150_val.jsonl").open("a") as file:
        file.write('{"text": "what else", "intent": "nonsense"}\n')
    with pytest.raises(DataError, match=r"clinc150_val\.jsonl:61: label 'nonsense' is unknown to intent"):
        read_corpus(folder, 0)


@pytest.mark.parametrize(
    ("name", "rows", "problem"),
    [
        (
            "intent/clinc150_train",
            [{"text": intent, "intent": intent} for intent in INTENTS],
            "intent, oos: too few .* to fit",
        ),
        ("intent/clinc150_val", [{"text": "a", "intent": "oos"}], "intent: too few .* to calibrate"),
        ("intent/banking77_train", [{"text": "a", "intent": "pin"}], "intent_banking: too few"),
        (
            "dialogue_act/sgd_train",
            [{"text": str(i), "dialogue": str(i), "speaker": "agent", "acts": []} for i in range(40)],
            "acts: no row has a label",
        ),
    ],
)
def test_a_task_without_rows_or_labels_is_named(name: str, rows: Any, problem: str, folder: Path) -> None:
    write(folder / f"{name}.jsonl", rows)
    with pytest.raises(DataError, match=problem):
        read_corpus(folder, 0)


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(DataError, match=r"file:3: .*'nonsense'"):
        examples(TASKS[0], [Line(text="x", place="file:3")], INTENTS, [("nonsense",)], "made up")


def test_retrieval_is_scored_by_rank() -> None:
    questions = read_retrieval_set()
    assert len(questions.passages) >= 20
    assert all(len(texts) == len(questions.passages) for texts in questions.questions.values())
    place = {text: row for row, text in enumerate(questions.passages)}
    for texts in questions.questions.values():
        place |= {text: row for row, text in enumerate(texts)}
    eye = np.eye(len(questions.passages), dtype=np.float32)
    found = score_retrieval(questions, lambda texts: eye[[place[text] for text in texts]])
    assert set(found.values()) == {1.0}
