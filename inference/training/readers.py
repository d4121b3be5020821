"""Reads the data folder: JSON lines of several public sets into `Examples` of our tasks.

The folder is the operator's and is never copied into the repository. Expected files, each optional except for the
tasks it alone feeds: `intent/clinc150_{train,val}.jsonl`, `intent/banking77_train.jsonl`,
`intent/nlupp_{banking,hotels}_train.jsonl`, `dialogue_act/sgd_train.jsonl`, `sentiment/{meld_train,tweeteval}.jsonl`,
`sentiment/uss_{sgd,mwoz}.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np

from inference.training.tasks import SENTIMENTS, TASKS, Examples, Task

OUT_OF_SCOPE = "oos"
DISSATISFIED_BELOW = 3.0
"""A customer turn counts as dissatisfied when the mean of its 1-5 satisfaction marks is below this."""

_TASK = {task.name: task for task in TASKS}

Label = Annotated[str, msgspec.Meta(min_length=1)]


class DataError(Exception):
    """A data file is missing, or what it holds cannot be learned from; the message names file, line and field."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What the lines of all files have in common; each file's own kind has the fields that its tasks need."""

    text: str
    dialogue: str = ""
    speaker: str = ""
    before: str = ""
    """Text of the line before, where both are of one dialogue; files need not have it."""
    place: str = ""
    """File and number of the line, for messages; files need not have it."""


class IntentLine(Line, frozen=True, kw_only=True):
    """One intent an utterance."""

    intent: Label


class IntentsLine(Line, frozen=True, kw_only=True):
    """Any number of intents an utterance."""

    intents: tuple[Label, ...]


class SentimentLine(Line, frozen=True, kw_only=True):
    """One of `SENTIMENTS`."""

    sentiment: Literal["negative", "neutral", "positive"]


class SpokenSentimentLine(SentimentLine, frozen=True, kw_only=True):
    """The same, of a dialogue, which no cut may tear."""

    dialogue: Label


class TurnLine(Line, frozen=True, kw_only=True):
    """A turn of a dialogue."""

    dialogue: Label
    speaker: Literal["customer", "agent"]


class ActsLine(TurnLine, frozen=True, kw_only=True):
    """What a turn does."""

    acts: tuple[Label, ...]


class SatisfactionLine(TurnLine, frozen=True, kw_only=True):
    """How satisfied the customer is; null where nobody said."""

    satisfaction: Annotated[float, msgspec.Meta(ge=1, le=5)] | None


L = TypeVar("L", bound=Line)


def read_lines(path: Path, kind: type[L]) -> Iterator[L]:
    """Decode a JSON-lines file.

    Raises:
        DataError: If the file is missing or holds no line, or names the first bad line and what is wrong with it.
    """
    decoder = msgspec.json.Decoder(kind)
    is_empty = True
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    is_empty = False
                    yield _decode(decoder, raw, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if is_empty:
        raise DataError(f"{path}: holds no line")


def _decode(decoder: msgspec.json.Decoder[L], raw: bytes, place: str) -> L:
    try:
        return msgspec.structs.replace(decoder.decode(raw), place=place)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DataError(f"{place}: {error}") from error


def read_turns(path: Path, kind: type[L]) -> list[L]:
    """Read a file of dialogues, whose turns stand in their order, and tell each turn what was said before it.

    Raises:
        DataError: As `read_lines`.
    """
    lines = list(read_lines(path, kind))
    return [
        msgspec.structs.replace(line, before=last.text)
        if last is not None and line.dialogue and last.dialogue == line.dialogue
        else line
        for last, line in zip([None, *lines], lines, strict=False)
    ]


def examples(
    task: Task,
    lines: Sequence[Line],
    labels: Sequence[str],
    true_labels: Sequence[Iterable[str]],
    source: str,
) -> Examples:
    """Build examples.

    Raises:
        DataError: If a line carries a label that is not in `labels`; names the line.
    """
    index = {label: i for i, label in enumerate(labels)}
    targets = np.zeros((len(lines), len(labels)), np.float32)
    for row, (line, names) in enumerate(zip(lines, true_labels, strict=True)):
        for name in names:
            if name not in index:
                raise DataError(f"{line.place or source}: label {name!r} is unknown to {task.name}")
            targets[row, index[name]] = 1
    return Examples(
        task=task,
        labels=tuple(labels),
        texts=tuple(line.text for line in lines),
        targets=targets,
        mask=np.ones_like(targets),
        # Lines without a dialogue stand alone; the text as group keeps duplicates on one side of a split.
        groups=tuple(f"{source}:{line.dialogue or line.text.lower()}" for line in lines),
        sources=(source,) * len(lines),
        speakers=tuple(line.speaker for line in lines),
        before=tuple(line.before for line in lines),
    )


def read_intent(folder: Path, part: str) -> tuple[Examples, Examples]:
    """Read CLINC150.

    Args:
        folder: Data folder.
        part: `train` or `val`.

    Returns:
        In-scope examples, and those out of scope with all targets zero.
    """
    labels = sorted({x.intent for x in read_lines(folder / "intent/clinc150_train.jsonl", IntentLine)} - {OUT_OF_SCOPE})
    lines = list(read_lines(folder / f"intent/clinc150_{part}.jsonl", IntentLine))
    inside = [x for x in lines if x.intent != OUT_OF_SCOPE]
    outside = [x for x in lines if x.intent == OUT_OF_SCOPE]
    source, task = f"clinc150_{part}", _TASK["intent"]
    return (
        examples(task, inside, labels, [(x.intent,) for x in inside], source),
        examples(task, outside, labels, [()] * len(outside), source),
    )


def read_banking(folder: Path) -> Examples:
    """Read Banking77."""
    lines = list(read_lines(folder / "intent/banking77_train.jsonl", IntentLine))
    labels = sorted({x.intent for x in lines})
    return examples(_TASK["intent_banking"], lines, labels, [(x.intent,) for x in lines], "banking77")


def read_modular(folder: Path) -> list[Examples]:
    """Read NLU++, banking and hotels under the union of their labels."""
    domains = {
        name: list(read_lines(folder / f"intent/nlupp_{name}_train.jsonl", IntentsLine))
        for name in ("banking", "hotels")
    }
    labels = sorted({label for lines in domains.values() for x in lines for label in x.intents})
    task = _TASK["intent_modular"]
    return [
        examples(task, lines, labels, [x.intents for x in lines], f"nlupp_{name}") for name, lines in domains.items()
    ]


def read_sentiment(folder: Path) -> list[Examples]:
    """Read TweetEval and MELD."""
    parts = []
    files: tuple[tuple[str, str, type[SentimentLine]], ...] = (
        ("tweeteval", "tweeteval", SentimentLine),
        ("meld", "meld_train", SpokenSentimentLine),
    )
    for source, name, kind in files:
        lines = list(read_lines(folder / f"sentiment/{name}.jsonl", kind))
        parts.append(examples(_TASK["sentiment"], lines, SENTIMENTS, [(x.sentiment,) for x in lines], source))
    return parts


def read_dissatisfied(folder: Path) -> list[Examples]:
    """Read the customer turns of the user satisfaction sets."""
    parts = []
    for name in ("uss_sgd", "uss_mwoz"):
        turns = read_turns(folder / f"sentiment/{name}.jsonl", SatisfactionLine)
        lines = [x for x in turns if x.satisfaction is not None]
        marks = [("dissatisfied",) if (x.satisfaction or 0) < DISSATISFIED_BELOW else () for x in lines]
        parts.append(examples(_TASK["dissatisfied"], lines, ("dissatisfied",), marks, name))
    return parts


def read_acts(folder: Path) -> Examples:
    """Read the dialogue acts of both sides of the Schema-Guided Dialogues."""
    lines = read_turns(folder / "dialogue_act/sgd_train.jsonl", ActsLine)
    labels = sorted({act for x in lines for act in x.acts})
    return examples(_TASK["acts"], lines, labels, [x.acts for x in lines], "sgd")


def read_question(folder: Path) -> list[Examples]:
    """Read whether something is asked, off the question mark and the request act of written dialogue.

    The mark itself is the answer, so it is removed from the text along with all other punctuation at a sentence's end.
    """
    parts = []
    sources = {"sgd": "dialogue_act/sgd_train", "uss_mwoz": "sentiment/uss_mwoz", "meld": "sentiment/meld_train"}
    sources |= {"nlupp_banking": "intent/nlupp_banking_train", "nlupp_hotels": "intent/nlupp_hotels_train"}
    sources |= {"banking77": "intent/banking77_train"}
    for source, name in sources.items():
        # A writer who sets no marks at all does not tell whether this is a question.
        written = read_lines(folder / f"{name}.jsonl", Line)
        lines = [x for x in written if x.text.rstrip("\"') ").endswith(("?", ".", "!"))]
        asked = [("question",) if "?" in x.text else () for x in lines]
        bare = [
            msgspec.structs.replace(x, text=" ".join(x.text.translate(_STOPS).split()), dialogue=x.dialogue or x.text)
            for x in lines
        ]
        parts.append(examples(_TASK["question"], bare, ("question",), asked, source))
    return parts


_STOPS = str.maketrans(dict.fromkeys("?!.,;:…", " "))
