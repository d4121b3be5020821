"""All tasks of a data folder, cut into splits: what the whole pipeline trains, calibrates and validates on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import yaml

from inference.training import readers
from inference.training.splits import Split, split
from inference.training.tasks import SPEAKERS, TASKS, Examples, join, sample

CUT_SEED = 0
"""Of which rows are held out. A version that continues from another has to leave the same ones aside, and one that is
judged those that it was trained without; so it is not the seed of what a run draws."""

CATALOGUE = Path(__file__).with_name("actions.yaml")

MAX_QUESTION_ROWS = 4000
"""Rows a source that tell whether something is asked; it needs no more, and every row costs an encoder pass."""

ACTION_EVIDENCE: Mapping[str, Mapping[str, str]] = {
    "acts": {
        "agent:CONFIRM": "confirm",
        "agent:REQ_MORE": "offer_help",
        "agent:GOODBYE": "close_call",
        "customer:GOODBYE": "close_call",
    },
    "intent_modular": {
        "handoff": "transfer",
        "refund": "refund",
        "cancel_close_leave_freeze": "cancel",
        "appointment": "schedule_appointment",
        "greet": "greet",
        "end_call": "close_call",
    },
}
"""Labels of other tasks that show a service action, and show its absence where they are absent."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that training reads.

    Attributes:
        splits: Task name to its three parts.
        outside: Utterances outside of the intents, in three parts.
    """

    splits: Mapping[str, Split]
    outside: Split

    def refitted(self) -> Corpus:
        """Let weights learn from the validate rows as well: for the last run, when everything has been chosen.

        What such a run scores on them says nothing any more; its calibrate rows do.
        """
        return Corpus({name: _with_more(cut) for name, cut in self.splits.items()}, _with_more(self.outside))


def read_corpus(folder: Path, seed: int = CUT_SEED) -> Corpus:
    """Read and cut all sets of a data folder.

    CLINC150 comes with its own validation rows: half of them calibrate, half validate.

    Raises:
        DataError: If a file is missing or a line of it is not as it should be, or a task lacks rows or labels.
    """
    inside, outside = readers.read_intent(folder, "train")
    held_inside, held_outside = readers.read_intent(folder, "val")
    acts = split(readers.read_acts(folder), seed)
    modular = _split_all(readers.read_modular(folder), seed)
    splits = {
        "intent": _with_fit(inside, split(held_inside, seed, calibrate=0.5, validate=0.5)),
        "intent_banking": split(readers.read_banking(folder), seed),
        "intent_modular": modular,
        "sentiment": _split_all(readers.read_sentiment(folder), seed),
        "dissatisfied": _split_all(readers.read_dissatisfied(folder), seed),
        "acts": acts,
        "actions": _actions(
            split(read_catalogue(), seed, calibrate=0.15, validate=0.1), {"acts": acts, "intent_modular": modular}
        ),
        "question": _split_all([sample(part, MAX_QUESTION_ROWS) for part in readers.read_question(folder)], seed),
    }
    corpus = Corpus(
        splits={task.name: splits[task.name] for task in TASKS},
        outside=_with_fit(outside, split(held_outside, seed, calibrate=0.5, validate=0.5)),
    )
    for name, cut in {**corpus.splits, f"intent, {readers.OUT_OF_SCOPE}": corpus.outside}.items():
        _check_whole(f"{folder}: {name}", cut)
    return corpus


def _check_whole(where: str, cut: Split) -> None:
    """Refuse what nothing can be learned from, or nothing judged on, before hours are spent on it."""
    if not cut.fit.labels:
        raise readers.DataError(f"{where}: no row has a label")
    for part in ("fit", "calibrate", "validate"):
        if not len(getattr(cut, part)):
            raise readers.DataError(f"{where}: too few rows or dialogues, none is left to {part}")


class _Phrases(msgspec.Struct, forbid_unknown_fields=True):
    """What each side says of an action."""

    customer: list[str]
    agent: list[str]


def read_catalogue(path: Path = CATALOGUE) -> Examples:
    """Read the service actions: each phrase is one row that shows exactly its action.

    Raises:
        DataError: If the file is no mapping of actions to phrases of known speakers.
    """
    try:
        catalogue = msgspec.convert(yaml.safe_load(path.read_text("utf-8")), dict[str, _Phrases])
    except (OSError, UnicodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise readers.DataError(f"{path}: {error}") from error
    rows = [
        (label, speaker, text)
        for label, phrases in catalogue.items()
        for speaker in SPEAKERS
        for text in getattr(phrases, speaker)
    ]
    lines = [readers.Line(text=text, speaker=speaker) for _, speaker, text in rows]
    task = next(task for task in TASKS if task.name == "actions")
    return readers.examples(task, lines, list(catalogue), [(label,) for label, _, _ in rows], "catalogue")


def _actions(catalogue: Split, evidence: Mapping[str, Split]) -> Split:
    """Add to each part of the catalogue what other tasks' labels say about actions."""
    parts = {}
    for part in ("fit", "calibrate", "validate"):
        own: Examples = getattr(catalogue, part)
        parts[part] = join([own, *(_as_actions(getattr(split, part), own) for split in evidence.values())])
    return Split(**parts)


def _as_actions(rows: Examples, catalogue: Examples) -> Examples:
    """Re-label rows of another task: known where its labels decide, unknown elsewhere."""
    targets = np.zeros((len(rows), len(catalogue.labels)), np.float32)
    mask = np.zeros_like(targets)
    for name, action in ACTION_EVIDENCE[rows.task.name].items():
        speaker, _, label = name.rpartition(":")
        if label not in rows.labels:
            continue
        said = np.array([not speaker or speaker == who for who in rows.speakers])
        column = catalogue.labels.index(action)
        targets[said, column] = np.maximum(targets[said, column], rows.targets[said, rows.labels.index(label)])
        mask[said, column] = 1
    return replace(rows, task=catalogue.task, labels=catalogue.labels, targets=targets, mask=mask)


def read_plain(folder: Path) -> tuple[str, ...]:
    """Read texts without a label of ours, which keep the embedding where it was: agents' turns of the USS set."""
    lines = readers.read_lines(folder / "sentiment/uss_sgd.jsonl", readers.TurnLine)
    return tuple(dict.fromkeys(line.text for line in lines if line.speaker == "agent"))


def _with_more(cut: Split) -> Split:
    return replace(cut, fit=join([cut.fit, cut.validate]))


def _with_fit(fit: Examples, held: Split) -> Split:
    return Split(fit=fit, calibrate=held.calibrate, validate=held.validate)


def _split_all(parts: list[Examples], seed: int) -> Split:
    cuts = [split(part, seed) for part in parts]
    return Split(
        fit=join([cut.fit for cut in cuts]),
        calibrate=join([cut.calibrate for cut in cuts]),
        validate=join([cut.validate for cut in cuts]),
    )


def labels_of(corpus: Corpus) -> dict[str, tuple[str, ...]]:
    """Name the labels of every task, in the order of its logits."""
    return {name: cut.fit.labels for name, cut in corpus.splits.items()}
