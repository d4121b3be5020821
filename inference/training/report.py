"""An evaluation as a page to read: targets first, then tables, then two plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from inference.training.evaluate import ALL_SOURCES, Evaluation, TaskReport

FLOORS: dict[tuple[str, str, str], float] = {
    ("intent", "clinc150_val", "accuracy"): 0.965,
    ("intent", "clinc150_val", "oos_recall_at_95"): 0.85,
    ("intent", "clinc150_val", "oos_auroc"): 0.97,
    ("intent_banking", "banking77", "accuracy"): 0.935,
    ("intent_modular", "nlupp_banking", "micro_f1"): 0.88,
    ("intent_modular", "nlupp_hotels", "micro_f1"): 0.88,
    ("sentiment", "tweeteval", "macro_recall"): 0.69,
    ("sentiment", "meld", "weighted_f1"): 0.66,
    ("dissatisfied", ALL_SOURCES, "ap_over_base"): 2.3,
    ("acts", "sgd", "micro_f1"): 0.86,
}
"""What each task should reach on a source, under the metric that is told for it."""
SCORED = {
    "validate": "Rows that neither weights nor thresholds learned from.",
    "calibrate": "Rows that no weight learned from; the weights learned from all others, the validate rows among them. "
    "Temperatures and thresholds learned from these: their errors are flattered.",
}
"""What the rows of each part are worth."""
MAX_CALIBRATION_ERROR = 0.05
MAX_LOSS = 0.007
"""What a score from 0 to 1 may lose without case and marks."""
RATIO = "ap_over_base"
"""The one first number that is no share: of average precision to the base rate."""
MAX_CONFUSED = 18
"""Labels of a confusion plot: those with the most errors."""


def write_report(evaluation: Evaluation, title: str, folder: Path) -> Path:
    """Write `report.md`, `scores.svg`, `calibration.svg` and `confusion.svg`.

    Args:
        evaluation: What to show.
        title: Heading, such as the version judged.
        folder: Created where it is missing.

    Returns:
        The Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _plot_scores(evaluation.tasks, folder / "scores.svg")
    _plot_calibration(evaluation.tasks, folder / "calibration.svg")
    _plot_confusion(evaluation.tasks, folder / "confusion.svg")
    page = folder / "report.md"
    page.write_text("\n".join(_lines(evaluation, title)) + "\n")
    return page


def _lines(evaluation: Evaluation, title: str) -> Iterable[str]:
    yield from (f"# {title}", "", SCORED[evaluation.part], "")
    yield from _summary(evaluation.tasks)
    if evaluation.word_errors is not None:
        yield from ("", f"Spoken over a telephone line and recognised: {evaluation.word_errors:.1%} of words wrong.")
    yield from ("", "![scores](scores.svg)", "", "![calibration](calibration.svg)", "")
    yield from ("Labels with the most errors; a row is a true label, a column what was given.", "")
    yield from ("![confusion](confusion.svg)", "")
    if evaluation.retrieval:
        yield from ("## Retrieval", "")
        yield from _table(("measure", "value"), [(name, _number(v)) for name, v in evaluation.retrieval.items()])
        yield ""
    if evaluation.latency_ms:
        yield from ("## Latency", "", "One pass with every head, one thread, tokenising included.", "")
        rows = [
            (f"{rows} x {tokens}", f"{median:.2f}", f"{least:.2f}")
            for (rows, tokens), (median, least) in evaluation.latency_ms.items()
        ]
        yield from _table(("rows x tokens", "median ms", "least ms"), rows)
        yield ""
    for task in evaluation.tasks:
        yield from _details(task)


def _summary(tasks: Sequence[TaskReport]) -> Iterable[str]:
    rows = []
    for task in tasks:
        head = (task.task, task.source, str(task.rows))
        for place, (name, value) in enumerate(task.numbers.items()):
            variants = [""] * 5
            if place == 0:
                spoken = "" if task.spoken is None else f"{task.spoken[0]:.4f} of {task.spoken[1]:.4f} typed"
                exact = "" if task.exact is None else _number(task.exact)
                alone = "" if task.alone is None else _number(task.alone)
                variants = [alone, exact, _number(task.unmarked), _number(task.heard), spoken]
            rows.append((*head, name, _number(value), *_verdict(task, name, value), *variants))
            if place == 0 and name != RATIO:
                lost = value - task.unmarked
                verdict = "yes" if lost <= MAX_LOSS else "**no**"
                rows.append((*head, "loss without case or marks", _number(lost), f"≤ {MAX_LOSS}", verdict, *[""] * 5))
    given = ("task", "source", "rows", "metric", "value", "target", "reached")
    return _table((*given, "turn alone", "fp32", "no case or marks", "as heard", "spoken"), rows)


def _verdict(task: TaskReport, name: str, value: float) -> tuple[str, str]:
    """Name the target of a number, if it has one, and say whether it is reached."""
    if name == "calibration_error":
        if value <= MAX_CALIBRATION_ERROR:
            return f"≤ {MAX_CALIBRATION_ERROR}", "yes"
        # A dozen claims cannot show a small error, however right the scores are.
        return f"≤ {MAX_CALIBRATION_ERROR}", "too few rows" if value <= task.reliability.chance else "**no**"
    floor = FLOORS.get((task.task, task.source, name))
    return ("", "") if floor is None else (f"≥ {floor}", "yes" if value >= floor else "**no**")


def _details(task: TaskReport) -> Iterable[str]:
    yield from (f"## {task.task} on {task.source}", "")
    labels = sorted(task.labels, key=lambda row: row.f1)
    rows = [(x.label, f"{x.precision:.3f}", f"{x.recall:.3f}", f"{x.f1:.3f}", str(x.rows)) for x in labels]
    yield from _table(("label", "precision", "recall", "F1", "rows"), rows)
    yield ""
    if task.confusions:
        yield from ("Most frequent errors:", "")
        yield from _table(("true", "given", "rows"), [(was, given, str(n)) for was, given, n in task.confusions])
        yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _plot_scores(tasks: Sequence[TaskReport], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = [f"{task.task}\n{task.source}\n{next(iter(task.numbers))}" for task in tasks]
    shown = [(name, task) for name, task in zip(names, tasks, strict=True) if next(iter(task.numbers)) != RATIO]
    figure, axes = pyplot.subplots(figsize=(1.2 * len(shown) + 2, 4.5), layout="constrained")
    series = {
        "typed": [next(iter(task.numbers.values())) for _, task in shown],
        "no case or marks": [task.unmarked for _, task in shown],
        "as heard": [task.heard for _, task in shown],
    }
    for shift, (label, values) in enumerate(series.items()):
        axes.bar([place + 0.27 * (shift - 1) for place in range(len(shown))], values, 0.25, label=label)
    axes.set_xticks(range(len(shown)), [name for name, _ in shown], fontsize=7)
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right")
    figure.savefig(path)
    pyplot.close(figure)


def _plot_calibration(tasks: Sequence[TaskReport], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    columns = 5
    rows = -(-len(tasks) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(2.2 * columns, 2.3 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(tasks) :]:
        axes.axis("off")
    for axes, task in zip(grid.flat, tasks, strict=False):
        bins = task.reliability
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        axes.plot(bins.confidence, bins.accuracy, marker="o", markersize=3)
        axes.set_title(f"{task.task}, {task.source}\nerror {bins.error:.3f}", fontsize=7)
        axes.tick_params(labelsize=6)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
    figure.savefig(path)
    pyplot.close(figure)


def _plot_confusion(tasks: Sequence[TaskReport], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    shown = [(task, task.matrix) for task in tasks if task.matrix is not None and task.source != ALL_SOURCES]
    figure, grid = pyplot.subplots(1, len(shown), figsize=(5.2 * len(shown), 5), layout="constrained", squeeze=False)
    for axes, (task, matrix) in zip(grid.flat, shown, strict=True):
        wrong = matrix.sum(0) + matrix.sum(1) - 2 * np.diagonal(matrix)
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:MAX_CONFUSED])
        part = matrix[np.ix_(chosen, chosen)]
        axes.imshow(part / np.maximum(matrix[chosen].sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (row, column), number in np.ndenumerate(part):
            if number:
                axes.text(column, row, str(number), ha="center", va="center", fontsize=5)
        names = [task.names[label] for label in chosen]
        axes.set_xticks(range(len(names)), names, fontsize=5, rotation=90)
        axes.set_yticks(range(len(names)), names, fontsize=5)
        axes.set_title(f"{task.task}, {task.source}", fontsize=7)
    figure.savefig(path)
    pyplot.close(figure)
