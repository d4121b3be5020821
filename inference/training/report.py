"""An evaluation as a page to read: targets first, then tables, then two plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from inference.training.evaluate import Evaluation, TaskReport

FLOORS: dict[tuple[str, str, str], float] = {
    ("intent", "clinc150_val", "accuracy"): 0.965,
    ("intent", "clinc150_val", "oos_recall_at_95"): 0.85,
    ("intent", "clinc150_val", "oos_auroc"): 0.97,
    ("intent_banking", "banking77", "accuracy"): 0.935,
    ("intent_modular", "nlupp_banking", "micro_f1"): 0.88,
    ("intent_modular", "nlupp_hotels", "micro_f1"): 0.88,
    ("sentiment", "tweeteval", "macro_recall"): 0.69,
    ("sentiment", "meld", "weighted_f1"): 0.66,
    ("dissatisfied", "uss_sgd", "ap_over_base"): 2.3,
    ("dissatisfied", "uss_mwoz", "ap_over_base"): 2.3,
    ("acts", "sgd", "micro_f1"): 0.86,
}
"""What each task should reach on a source, under the metric that is told for it."""
MAX_CALIBRATION_ERROR = 0.05
MAX_LOSS = 0.007
"""What a text may lose without case and marks."""


def write_report(evaluation: Evaluation, title: str, folder: Path) -> Path:
    """Write `report.md`, `scores.svg` and `calibration.svg`.

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
    page = folder / "report.md"
    page.write_text("\n".join(_lines(evaluation, title)) + "\n")
    return page


def _lines(evaluation: Evaluation, title: str) -> Iterable[str]:
    yield from (f"# {title}", "", "Rows that neither weights nor thresholds learned from.", "")
    yield from _summary(evaluation.tasks)
    if evaluation.word_errors is not None:
        yield from ("", f"Spoken over a telephone line and recognised: {evaluation.word_errors:.1%} of words wrong.")
    yield from ("", "![scores](scores.svg)", "", "![calibration](calibration.svg)", "")
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
        for place, (name, value) in enumerate(task.numbers.items()):
            floor = FLOORS.get((task.task, task.source, name))
            if name == "calibration_error":
                verdict = "yes" if value <= MAX_CALIBRATION_ERROR else "**no**"
                target = f"≤ {MAX_CALIBRATION_ERROR}"
            else:
                verdict = "" if floor is None else "yes" if value >= floor else "**no**"
                target = "" if floor is None else f"≥ {floor}"
            variants = ("", "", "")
            if place == 0:
                spoken = "" if task.spoken is None else f"{task.spoken[0]:.4f} of {task.spoken[1]:.4f} typed"
                variants = (_number(task.unmarked), _number(task.heard), spoken)
            rows.append((task.task, task.source, str(task.rows), name, _number(value), target, verdict, *variants))
    head = ("task", "source", "rows", "metric", "value", "target", "reached", "no case or marks", "as heard", "spoken")
    return _table(head, rows)


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
    # Average precision over the base rate is no share; it has its own row in the table.
    shown = [(name, task) for name, task in zip(names, tasks, strict=True) if "over_base" not in name]
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
