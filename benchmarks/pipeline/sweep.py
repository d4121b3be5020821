"""The highest rate that holds a promise of latency, found by load runs. Pure but for the measuring function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.pipeline.load import LoadResult

Measure = Callable[[float], Awaitable[LoadResult]]
"""One load run at a rate, updates a second."""

GROWTH = 1.4
"""From one rate to the next while all promises hold."""
LEAST_PER_S = 5.0
"""Below this no limit is looked for."""
PRECISION = 1.06
"""The search ends when the lowest rate that failed is within this factor of the highest that held."""


def holds(result: LoadResult, limit_ms: float) -> bool:
    """Everything was answered, and 99 of 100 in time."""
    return result.answered == result.sent and result.percentile(99) <= limit_ms


async def sweep(measure: Measure, limits_ms: Sequence[float], start_per_s: float) -> list[LoadResult]:
    """Raise the rate until the loosest promise breaks, then halve the interval around each promise's limit.

    Where the first rate breaks a promise, its limit is looked for below.

    A run that fails is tried once more, since whatever else the machine does only ever adds.

    Args:
        measure: Runs the load.
        limits_ms: Promised p99 latencies.
        start_per_s: First rate.

    Returns:
        The better run of each rate, ascending.
    """
    runs: dict[float, LoadResult] = {}

    async def at(rate_per_s: float, limit_ms: float) -> bool:
        if rate_per_s not in runs:
            runs[rate_per_s] = await measure(rate_per_s)
        if not holds(runs[rate_per_s], limit_ms):
            again = await measure(rate_per_s)
            runs[rate_per_s] = min(
                runs[rate_per_s], again, key=lambda run: (run.sent - run.answered, run.percentile(99))
            )
        return holds(runs[rate_per_s], limit_ms)

    rate_per_s = start_per_s
    while await at(rate_per_s, max(limits_ms)):
        rate_per_s = float(round(rate_per_s * GROWTH))
    for limit_ms in sorted(limits_ms, reverse=True):
        held = highest(list(runs.values()), limit_ms)
        failed = min((rate for rate, run in runs.items() if rate > held), default=rate_per_s)
        # It was measured once, and kept if that was good enough for a looser promise.
        if held and max(limits_ms) > limit_ms and await at(failed, limit_ms):
            held = highest(list(runs.values()), limit_ms)
            failed = min((rate for rate, run in runs.items() if rate > held), default=rate_per_s)
        while not held and failed > LEAST_PER_S:  # the first rate was too high already
            lower = max(float(round(failed / GROWTH)), LEAST_PER_S)
            if await at(lower, limit_ms):
                held = lower
            else:
                failed = lower
        while held and failed > held * PRECISION:
            middle = float(round((held * failed) ** 0.5))
            if middle in (held, failed):
                break
            if await at(middle, limit_ms):
                held = middle
            else:
                failed = middle
    return [runs[rate] for rate in sorted(runs)]


def highest(runs: Sequence[LoadResult], limit_ms: float) -> float:
    """Highest rate that held a promise, 0 if none did."""
    return max((run.rate_per_s for run in runs if holds(run, limit_ms)), default=0.0)


def write_report(
    folder: Path,
    subject: str,
    runs: Sequence[LoadResult],
    limits_ms: Sequence[float],
    bare_rows_per_s: Mapping[float, float],
    lone_ms: float,
    bare_lone_ms: float,
    others: str,
) -> None:
    """Write `report.md` and `latency.svg`.

    Args:
        folder: Made if missing.
        subject: What was measured, in words.
        runs: Ascending rates.
        limits_ms: Promised p99 latencies.
        bare_rows_per_s: What bare onnxruntime does with the same texts on the same cores, nothing else running, beside
            the run at the highest rate: by promised latency.
        lone_ms: p50 of an update that finds the server idle.
        bare_lone_ms: p50 of tokenising and running a text, nothing around it.
        others: Who else used the machine, in words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"# Load on {subject}",
        "",
        "Open loop: updates leave on a fixed schedule, latency runs from the due time to the last annotation. The "
        "seconds in which the calls begin do not count. Texts never repeat. Generator, readers and server share the "
        f"machine; besides, {others}.",
        "",
        f"A lone update: p50 {lone_ms:.1f} ms; its text tokenised and run, nothing around it: {bare_lone_ms:.1f} ms.",
        "",
        "| p99 promised | highest rate | bare onnxruntime, perfect batches of the same texts | share |",
        "|---|---|---|---|",
        *(
            f"| {limit_ms:g} ms | {rate:.0f}/s | {bare_rows_per_s[limit_ms]:.0f}/s "
            f"| {rate / bare_rows_per_s[limit_ms]:.2f} |"
            for limit_ms in limits_ms
            for rate in [highest(runs, limit_ms)]
        ),
        "",
        "![latency over rate](latency.svg)",
        "",
        "| rate | sent | answered | p50 ms | p95 ms | p99 ms | max ms |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {run.rate_per_s:.0f}/s | {run.sent} | {run.answered} | "
            + " | ".join(f"{run.percentile(share):.1f}" for share in (50, 95, 99, 100))
            + " |"
            for run in runs
        ),
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    _plot(folder / "latency.svg", runs, limits_ms)


def _plot(path: Path, runs: Sequence[LoadResult], limits_ms: Sequence[float]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for share, style in ((99, "-o"), (95, "--"), (50, ":")):
        axes.plot([run.rate_per_s for run in runs], [run.percentile(share) for run in runs], style, label=f"p{share}")
    for limit_ms in limits_ms:
        axes.axhline(limit_ms, color="0.7", linewidth=0.8)
    axes.set(xlabel="updates a second", ylabel="ms", yscale="log")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
