"""The table people read of a plan's run directories: what is found, the sentences below it, files with provenance."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.ablation.design import arm_settings
from harness.ablation.design.plan import Plan
from harness.ablation.report import figures, grids, outcomes, readouts, verdicts
from harness.ablation.report.findings import REFERENCES, Report
from harness.ablation.report.grids import titled
from harness.ablation.report.origin import provenance
from harness.ablation.report.summary import Summary, summarise
from harness.core.drawing import spared, write_picture
from harness.core.files import write_atomic, write_json
from harness.core.provenance import machine
from harness.core.registry import find
from harness.data.base import load
from harness.evaluation.doubts import short_of_samples
from harness.evaluation.protocol import Protocol

SAMPLING = ("solver", "time_grid", "guidance", "network")
"""Fields of a protocol that arms of one training may be asked about."""


def report(plan: Plan, references: dict[str, dict[str, float]]) -> Report:
    """Everything that the runs of a plan say."""
    cells, commits = outcomes.collect(plan)
    summary = summarise(plan, cells)
    lower = find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    unstable = {*cells[(cells.metric == plan.metric) & (cells.state == outcomes.DIVERGED)].arm}
    read = readouts.read(cells, plan.metric, plan.baseline, lower, _sampling_seconds(plan), unstable)
    return Report(plan, cells, summary, references, _notes(plan, summary, commits), commits, read)


def _sampling_seconds(plan: Plan) -> dict[tuple[str, int], float]:
    """Seconds of sampling for each sample by arm and NFE, mean over seeds, where they are known."""
    spent: dict[tuple[str, int], list[float]] = {}
    for arm, seed in plan.trials():
        known = plan.run(arm, seed).evaluation(plan.protocol(arm))
        for nfe, seconds in known["sampling_seconds"].items():
            spent.setdefault((arm, int(nfe)), []).append(seconds / plan.arms[arm].evaluate.num_samples)
    return {key: sum(seconds) / len(seconds) for key, seconds in spent.items()}


def _notes(plan: Plan, summary: Summary, commits: list[str]) -> list[str]:
    baseline = plan.arms[plan.baseline]
    return [
        *_about_verdicts(plan, summary),
        *_about_seeds(plan),
        *_about_protocols(plan),
        *filter(None, [short_of_samples(baseline.evaluate, load(baseline.dataset))]),
        *([f"Trials come from {len(commits)} commits: {', '.join(commits)}."] if len(commits) > 1 else []),
    ]


def _about_verdicts(plan: Plan, summary: Summary) -> list[str]:
    """Why arms have the verdicts that they have, where the numbers do not say."""
    alike: dict[tuple[str, str], list[str]] = {}
    for arm, found in summary.verdicts.items():
        if found.reason:
            alike.setdefault((found.word, found.reason), []).append(arm)
    lines = [f"{word.capitalize()}: {', '.join(arms)} ({reason})." for (word, reason), arms in alike.items()]
    if any(found.word == verdicts.UNSTABLE for found in summary.verdicts.values()):
        lines.append(
            "An unstable arm is neither better nor a tie: its differences are those of the seeds that did not diverge."
        )
    if unfinished := summary.standings[plan.baseline].seeds.unfinished:
        lines.append(
            f"Unfinished: {unfinished} of {len(plan.seeds)} seeds of {plan.baseline} have no value yet, and no pair."
        )
    return lines


def _about_seeds(plan: Plan) -> list[str]:
    """Why seeds have no value."""
    lines = []
    for arm, seed in plan.trials():
        run = plan.run(arm, seed)
        if error := run.failure(plan.protocol(arm)):
            colon = ":" if run.gave_up or not str(error).startswith("at NFE") else ""
            lines.append(f"{arm} seed {seed} has no value{colon} {error}")
    return lines


def _about_protocols(plan: Plan) -> list[str]:
    lines = []
    protocols = {arm: plan.protocol(arm) for arm in plan.arms}
    differing = {arm: _differing(protocol, protocols[plan.baseline]) for arm, protocol in protocols.items()}
    asked = {field for names in differing.values() for field in names if plan.one_training and field in SAMPLING}
    if asked:
        lines.append(
            f"The arms are the same trainings, sampled with another {', '.join(sorted(asked))}: that is the question."
        )
    for arm, names in differing.items():
        if others := [name for name in names if name not in asked]:
            lines.append(f"Protocols differ: {arm} and {plan.baseline} are judged with another {', '.join(others)}.")
    return lines


def _differing(one: Protocol, other: Protocol) -> list[str]:
    return [key for key, value in vars(one).items() if value != vars(other)[key]]


def remarks(report: Report) -> list[str]:
    """The sentences under a table."""
    plan = report.plan
    lines = [
        f"{titled(metric)} of {REFERENCES[kind].words}, as many as the samples: {value:.4g}."
        for kind, by_metric in report.references.items()
        for metric, value in by_metric.items()
    ]
    lines.append(
        f"Verdicts: {titled(plan.metric)} at NFE {plan.nfe}, paired t on logs over seeds, Holm-adjusted; "
        "intervals are 95 %, unadjusted; "
        f"smallest difference of interest {plan.smallest_difference:.0%}."
    )
    return [*lines, *report.notes]


def show(report: Report, console: Console) -> None:
    """Print the tables and what stands under them."""
    for grid in grids.grids(report, timed=True):
        console.print(grid.rich())
    for line in remarks(report):
        console.print(f"- {line}")


def write(report: Report, folder: Path, command: str) -> list[Path]:
    """`<folder>/tables/<study>-<scale>.{md,csv,json}` and `<folder>/figures/<study>-<scale>.png`; returns the paths."""
    plan = report.plan
    paths = [folder / "tables" / f"{plan.name}.{ending}" for ending in ("md", "csv", "json")]
    figure = folder / "figures" / f"{plan.name}.png"
    write_atomic(paths[0], _markdown(report, command))
    write_atomic(paths[1], report.summary.rows.to_csv(index=False))
    write_json(paths[2], _about(report, command))
    with spared():
        write_picture(figure, lambda: figures.draw(plan, report.cells, report.summary.rows, report.references))
        paths.append(figure)
    return paths


def _markdown(report: Report, command: str) -> str:
    plan = report.plan
    paragraphs = [f"# {plan.question}"]
    paragraphs += [grid.markdown() for grid in (*grids.grids(report), grids.of_settings(report))]
    paragraphs.append(f"![{plan.name}](../figures/{plan.name}.png)")
    paragraphs.append("\n".join(f"- {line}" for line in remarks(report)))
    here = machine()
    paragraphs.append(
        f"Made by `{command}` at commit {', '.join(report.commits) or 'none'} "
        f"on {here['processor']}, {here['cores']} cores, "
        f"accelerator {here['accelerator']}, torch {here['torch']}. Plan {plan.digest}; more in {plan.name}.json."
    )
    return "\n\n".join(paragraphs) + "\n"


def _about(report: Report, command: str) -> dict[str, Any]:
    plan = report.plan
    summary = report.summary
    return {
        **provenance(plan.question, command, report.commits),
        "plan": plan.digest,
        "primary": {"metric": plan.metric, "nfe": plan.nfe, "smallest_difference": plan.smallest_difference},
        "baseline": {"arm": plan.baseline, "configuration": arm_settings.configuration(plan.arms[plan.baseline])},
        "settings": arm_settings.differing(plan),
        "seeds": list(plan.seeds),
        "outcomes": {arm: {**vars(s.seeds), "unfinished": s.seeds.unfinished} for arm, s in summary.standings.items()},
        "verdicts": {arm: {"verdict": found.word, "reason": found.reason} for arm, found in summary.verdicts.items()},
        "protocols": {arm: asdict(plan.protocol(arm)) for arm in plan.arms},
        "references": report.references,
        "pairs": {arm: comparison.n for arm, comparison in summary.tested.items()},
        "power": {arm: power.plain(plan.smallest_difference) for arm, power in summary.power.items()},
        "runs": {arm: [plan.run(arm, seed).name for seed in plan.seeds] for arm in plan.arms},
        "evaluation_seconds": {
            arm: sum(sum(plan.run(arm, seed).evaluation(plan.protocol(arm))["seconds"].values()) for seed in plan.seeds)
            for arm in plan.arms
        },
        "sampling_ms": {
            arm: {nfe: 1000 * s for (of, nfe), s in _sampling_seconds(plan).items() if of == arm} for arm in plan.arms
        },
        "notes": report.notes,
    }
