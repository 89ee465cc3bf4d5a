"""What MLflow's pages are told of a study: which arm is best and whether that is sure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.ablation.report import grids, verdicts
from harness.ablation.report.findings import Report
from harness.core.registry import find
from harness.runs.mlflow_pages import Told


def mirrored(report: Report, files: Sequence[Path]) -> Told:
    """A report's verdicts as metrics, a tag and a note, with its files."""
    settled = report.summary.settled
    numbers: dict[str, float] = {}
    for name, standing in settled.standings.items():
        numbers |= {f"difference/{name}": standing.comparison.difference, f"p/{name}": standing.comparison.p}
    answer = f"**{report.plan.question}** {best(report)}"
    return Told(
        files,
        {name: value for name, value in numbers.items() if math.isfinite(value)},
        {"verdict": in_words(report)},
        "\n\n".join([answer, grids.of_verdicts(report).markdown(), _rule(report)]),
        len(report.plan.seeds),
    )


def in_words(report: Report) -> str:
    """Every verdict, like `better: a, b; undecided: c`."""
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in by_verdict(report).items())


def by_verdict(report: Report) -> dict[str, list[str]]:
    """{verdict as a word: the contrasts that have it}, without baselines."""
    found: dict[str, list[str]] = {}
    for name, verdict in report.summary.settled.verdicts.items():
        if verdict.word != verdicts.BASELINE:
            found.setdefault(verdict.word, []).append(name)
    return found


def best(report: Report) -> str:
    """A sentence: which arm has the best mean of the primary metric, and how it stands against the baseline."""
    plan = report.plan
    rows: Any = report.summary.rows
    own = rows[(rows.metric == plan.metric) & (rows.nfe == plan.nfe) & rows.arm.isin(plan.arms)].dropna(subset="mean")
    if own.empty:
        return "No arm has a value yet."
    lower = find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    row = own.sort_values("mean", ascending=lower).iloc[0]
    mean = f"has the best mean, {row['mean']:.4g} over {row.n} seed{'' if row.n == 1 else 's'}"
    if row.verdict == verdicts.BASELINE:
        return f"`{row.arm}` {mean}: it is the baseline."
    if not row.primary or math.isnan(row.low):
        return f"`{row.arm}` {mean}: undecided."
    at = f"{100 * (1 - row.level):.4g} % interval {row.low:+.1%} to {row.high:+.1%}"
    return f"`{row.arm}` is {row.verdict}, {row.difference:+.1%} ({at}) against `{plan.bases[row.arm]}`. It {mean}."


def _rule(report: Report) -> str:
    """How to read the numbers."""
    return (
        f"Arms are compared with {report.plan.against}, not with each other. A difference is relative: -10 % means a "
        "value 10 % lower. The metric `p/<arm>` is the p-value of the paired t-test. The verdict is better or worse "
        "where it is below 1 minus the confidence of the interval."
    )
