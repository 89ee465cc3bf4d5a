"""From the run directories of a plan to the table people read: long frame, summary, text, files with provenance."""

from __future__ import annotations

import datetime
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from harness.ablation import figures, readouts, statistics
from harness.ablation.plan import Plan
from harness.ablation.readouts import Readout
from harness.environment import machine
from harness.evaluation.flow import FlowMetric
from harness.evaluation.judge import Judge
from harness.evaluation.protocol import EVALUATION_VERSION, Protocol
from harness.files import read_json, results_folder, write_atomic, write_json
from harness.registry import find
from harness.runs import NUMERICS_VERSION

COLUMNS = [
    "study", "scale", "arm", "metric", "nfe", "n", "mean", "sd", "min",
    "difference", "low", "high", "p_value", "primary", "verdict",
]  # fmt: skip
SAMPLING = ("solver", "time_grid", "guidance", "network")
"""Fields of a protocol that arms of one training may be asked about."""
VERSIONS = {"numerics_version": NUMERICS_VERSION, "evaluation_version": EVALUATION_VERSION}
"""Of the code that makes a table: another version gives other numbers."""


@dataclass
class Report:
    """A study's results and what must be said beside them."""

    plan: Plan
    values: pd.DataFrame
    """One row per arm, seed, metric and nfe: value, and calls, which are nfe but for an adaptive solver's 0."""
    summary: pd.DataFrame
    """`COLUMNS`, one row per arm, metric and nfe."""
    references: dict[str, dict[str, float]]
    """{"resampled" | "held_out" | "gaussian": {metric: value}} under the baseline's protocol."""
    notes: list[str]
    """What a reader must know to trust the table."""
    commits: list[str]
    sd: float
    """Of paired log ratios at the primary metric and NFE, pooled over arms."""
    detectable: float
    """Relative difference that these seeds find with 80 % power."""
    readouts: dict[str, Readout]
    """{arm: what is read off its curve}"""


def report(plan: Plan, references: dict[str, dict[str, float]]) -> Report:
    """Everything that the finished runs of a plan say."""
    values, commits = _collect(plan)
    summary, sds = _summarise(plan, values)
    lower = find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    read = readouts.read(values, plan.metric, plan.baseline, lower, _sampling_seconds(plan))
    sd = math.sqrt(sum(s * s for s in sds) / len(sds)) if sds else math.nan
    detectable = statistics.detectable_difference(sd, len(plan.seeds), len(plan.arms) - 1)
    return Report(plan, values, summary, references, _notes(plan, values, commits), commits, sd, detectable, read)


def judge_references(judge: Judge) -> dict[str, dict[str, float]]:
    """What real samples and Gaussian noise score under a judge's protocol; computed once and kept."""
    path = results_folder() / "local" / "references" / f"{judge.protocol.digest}.json"
    known = read_json(path) if path.exists() else {}
    if not all(m.name in known.get("gaussian", {}) for m in judge.metrics):
        sets = {"resampled": judge.resampled(), "held_out": judge.held_out(), "gaussian": judge.gaussian()}
        known = {kind: judge(batches) for kind, batches in sets.items() if batches is not None}
        write_json(path, known)
    return known


def _collect(plan: Plan) -> tuple[pd.DataFrame, list[str]]:
    rows, commits = [], set()
    for arm, seed in plan.trials():
        run, protocol = plan.run(arm, seed), plan.protocol(arm)
        known, wanted = run.evaluation(protocol), run.config.evaluate
        commits |= {*known["commits"], *run.environment.get("commits", [])}
        for metric in wanted.metrics:
            by_nfe = known["values"].get(metric.name, {})
            points = (metric.nfe,) if isinstance(metric, FlowMetric) else wanted.nfe
            known_at = [nfe for nfe in points if str(nfe) in by_nfe]
            calls = {nfe: known["calls"].get(str(nfe), {}).get("mean", nfe) for nfe in known_at}
            rows += [(arm, seed, metric.name, nfe, by_nfe[str(nfe)], calls[nfe]) for nfe in known_at]
    return pd.DataFrame(rows, columns=["arm", "seed", "metric", "nfe", "value", "calls"]), sorted(commits)


def _sampling_seconds(plan: Plan) -> dict[tuple[str, int], float]:
    """Seconds of sampling for each sample by arm and NFE, mean over seeds, where they are known."""
    spent: dict[tuple[str, int], list[float]] = {}
    for arm, seed in plan.trials():
        known = plan.run(arm, seed).evaluation(plan.protocol(arm))
        for nfe, seconds in known["sampling_seconds"].items():
            spent.setdefault((arm, int(nfe)), []).append(seconds / plan.arms[arm].evaluate.num_samples)
    return {key: sum(seconds) / len(seconds) for key, seconds in spent.items()}


def _summarise(plan: Plan, values: pd.DataFrame) -> tuple[pd.DataFrame, list[float]]:
    """The summary, and the sds of the arms' paired log ratios at the primary metric and NFE."""
    cells = values.pivot_table(index="seed", columns=["metric", "nfe", "arm"], values="value")
    wanted = dict.fromkeys([*zip(values.metric, values.nfe, strict=True), (plan.metric, plan.nfe)])
    rows, primary = [], {}
    for metric, nfe in sorted(wanted):
        for arm in plan.arms:
            is_primary = (metric, nfe) == (plan.metric, plan.nfe)
            own = cells[metric, nfe, arm].dropna() if (metric, nfe, arm) in cells else pd.Series(dtype=float)
            row: dict[str, Any] = {"study": plan.study, "scale": plan.scale, "arm": arm, "metric": metric, "nfe": nfe}
            row |= {"n": len(own), "mean": own.mean(), "sd": own.std(), "min": own.min(), "primary": is_primary}
            if arm == plan.baseline:
                row["verdict"] = "baseline"
            elif (metric, nfe, plan.baseline) in cells:
                pairs = pd.concat([own, cells[metric, nfe, plan.baseline]], axis=1, join="inner").dropna()
                found = statistics.compare(pairs.iloc[:, 0].tolist(), pairs.iloc[:, 1].tolist())
                row |= {"difference": found.difference, "low": found.low, "high": found.high}
                if is_primary:
                    primary[arm] = found
            rows.append(row)
    _settle(plan, rows, primary)
    return pd.DataFrame(rows, columns=COLUMNS), [c.sd for c in primary.values() if not math.isnan(c.sd)]


def _settle(plan: Plan, rows: list[dict[str, Any]], primary: dict[str, statistics.Comparison]) -> None:
    """Add Holm-adjusted p-values and verdicts to the primary rows."""
    tested = [arm for arm, found in primary.items() if not math.isnan(found.p_value)]
    adjusted = dict(zip(tested, statistics.holm([primary[arm].p_value for arm in tested]), strict=True))
    lower = find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    for row in rows:
        if row["primary"] and row["arm"] != plan.baseline:
            p = row["p_value"] = adjusted.get(row["arm"], math.nan)
            found = primary.get(row["arm"])
            row["verdict"] = statistics.verdict(found, p, plan.smallest_difference, lower) if found else "undecided"


def _notes(plan: Plan, values: pd.DataFrame, commits: list[str]) -> list[str]:
    notes = []
    if values[(values.metric == plan.metric) & (values.nfe == plan.nfe)].empty:
        notes.append(f"Undecided: {plan.metric} at NFE {plan.nfe}, on which the verdicts rest, was not measured.")
    if (values[values.metric == plan.metric].value <= 0).any():
        notes.append(f"Undecided: some values of {plan.metric} are not positive, and ratios are what is compared.")
    if len(plan.seeds) < statistics.MIN_SEEDS:
        notes.append(
            f"Undecided: {len(plan.seeds)} seed(s) cannot tell a difference from luck; verdicts take {statistics.MIN_SEEDS} or more."
        )
    for arm, seed in plan.trials():
        if (reason := plan.run(arm, seed).failure(plan.protocol(arm))) is not None:
            notes.append(f"{arm} seed {seed} has no value: {reason}")
    protocols = {arm: plan.protocol(arm) for arm in plan.arms}
    differing = {arm: _differing(protocol, protocols[plan.baseline]) for arm, protocol in protocols.items()}
    asked = {field for names in differing.values() for field in names if plan.one_training and field in SAMPLING}
    if asked:
        notes.append(f"The arms are the same trainings, sampled with another {', '.join(sorted(asked))}: that is the question.")
    for arm, names in differing.items():
        if others := [name for name in names if name not in asked]:
            notes.append(f"Protocols differ: {arm} and {plan.baseline} are judged with another {', '.join(others)}.")
    if warning := plan.arms[plan.baseline].evaluate.short_of_samples:
        notes.append(warning)
    if len(commits) > 1:
        notes.append(f"Trials come from {len(commits)} commits: {', '.join(commits)}.")
    return notes


def _differing(one: Protocol, other: Protocol) -> list[str]:
    return [key for key, value in vars(one).items() if value != vars(other)[key]]


@dataclass(frozen=True)
class Grid:
    """A table as text, before it is laid out for the terminal or for Markdown."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def rich(self) -> Table:
        """For the terminal; a row that ends in a verdict has its colour."""
        colours = {"better": "green", "worse": "red", "tie": "cyan", "undecided": "yellow"}
        table = Table(title=self.title)
        for i, name in enumerate(self.header):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in self.rows:
            table.add_row(*row, style=colours.get(row[-1]))
        return table

    def markdown(self) -> str:
        """For a file."""
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *self.rows]
        return f"{self.title}:\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def grids(report: Report, timed: bool = False) -> list[Grid]:
    """Each metric against NFE, the comparison that the verdicts rest on, and what is read off; `timed` adds what no two runs share."""
    plan, out = report.plan, []
    for metric in sorted(report.summary.metric.unique()):
        own: Any = report.summary[report.summary.metric == metric].set_index(["arm", "nfe"])
        nfes = sorted(own.index.unique("nfe"))
        rows = [[arm, *(_mean_sd(own.loc[arm, nfe]) for nfe in nfes)] for arm in plan.arms]
        header = ["arm", *(str(nfe) if nfe else "calls of its own" for nfe in nfes)]
        if len(nfes) == 1 and metric != plan.metric:
            header += ["difference", "95 % interval"]
            rows = [[*row, *_comparison(own.loc[row[0], nfes[0]])[:2]] for row in rows]
        out.append(Grid(f"{titled(metric)} by NFE, mean ± sd over {len(plan.seeds)} seeds", header, rows))
    main: Any = report.summary[report.summary.primary].set_index("arm")
    title = f"{titled(plan.metric)} at NFE {plan.nfe} against {plan.baseline}"
    rows = [[arm, *_comparison(main.loc[arm]), main.loc[arm].verdict] for arm in plan.arms]
    out.append(Grid(title, ["arm", "difference", "95 % interval", "p (Holm)", "verdict"], rows))
    out += [_read_off(report, timed)] if report.readouts else []
    return [*out, _needed(report)] if plan.expected_nfe else out


def _needed(report: Report) -> Grid:
    """The calls that each arm needs against what is said of it."""
    plan, rows = report.plan, []
    largest, lower = max(plan.arms[plan.baseline].evaluate.nfe), find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    for arm in plan.arms:
        expected = plan.expected_nfe.get(arm)
        row = [arm, "{} to {}".format(*expected) if expected else ""]
        for target in (arm, plan.baseline):
            found = readouts.needed(report.values, plan.metric, arm, target, largest, lower)
            row += [str(found), found.verdict(expected) if expected else ""]
        rows.append(row)
    title = f"NFE for {titled(plan.metric)} within {readouts.NEAR:.0%} of that at NFE {largest}, geometric mean over seeds (95 % interval)"
    return Grid(title, ["arm", "expected", "of its own", "verdict", f"of {plan.baseline}'s", "verdict"], rows)


def _read_off(report: Report, timed: bool) -> Grid:
    """The area under each arm's curve, the fewest steps that will do, and what they cost."""
    plan = report.plan
    header = [
        "arm",
        "mean over NFE",
        "difference",
        "95 % interval",
        "NFE to its best",
        "NFE to the best",
        *(["ms a sample"] if timed else []),
    ]
    rows = []
    for arm, found in report.readouts.items():
        against = found.against
        interval = "" if against is None or math.isnan(against.low) else f"{against.low:+.1%} to {against.high:+.1%}"
        difference = "" if against is None or math.isnan(against.difference) else f"{against.difference:+.1%}"
        area = "-" if math.isnan(found.area) else f"{found.area:.4g}"
        price = "" if math.isnan(found.seconds) else f"{1000 * found.seconds:.3g}"
        rows.append(
            [arm, area, difference, interval, str(found.fewest or "-"), str(found.fewest_of_all or "-"), *([price] if timed else [])]
        )
    return Grid(f"Read off {titled(plan.metric)} against NFE (fewest within {readouts.NEAR:.0%} of a best)", header, rows)


def titled(metric: str) -> str:
    """A metric's name with the direction in which it is better."""
    lower = find("metric", metric).lower_is_better  # type: ignore[attr-defined]
    return f"{metric.upper()} {'↓' if lower else '↑'}"


def remarks(report: Report) -> list[str]:
    """The sentences under a table."""
    plan = report.plan
    named = {"resampled": "training samples drawn with replacement", "held_out": "held-out samples", "gaussian": "Gaussian noise"}
    lines = [
        f"{titled(metric)} of {named[kind]}, as many as the samples: {value:.4g}."
        for kind, by_metric in report.references.items()
        for metric, value in by_metric.items()
    ]
    lines.append(
        f"Verdicts: {titled(plan.metric)} at NFE {plan.nfe}, paired t on logs over seeds, Holm-adjusted; intervals are 95 %, unadjusted; "
        f"smallest difference of interest {plan.smallest_difference:.0%}."
    )
    if not math.isnan(report.detectable):
        lines.append(
            f"The sd of paired log ratios is {report.sd:.3f}: "
            f"{len(plan.seeds)} seeds find a difference of {report.detectable:.1%} with 80 % power."
        )
    return lines + report.notes


def show(report: Report, console: Console) -> None:
    """Print the tables and what stands under them."""
    for grid in grids(report, timed=True):
        console.print(grid.rich())
    for line in remarks(report):
        console.print(f"- {line}", highlight=False, markup=False)


def write(report: Report, folder: Path, command: str) -> list[Path]:
    """`<folder>/tables/<study>-<scale>.{md,csv,json}` and `<folder>/figures/<study>-<scale>.png`; returns the paths."""
    plan = report.plan
    paths = [folder / "tables" / f"{plan.name}.{ending}" for ending in ("md", "csv", "json")]
    figure = folder / "figures" / f"{plan.name}.png"
    write_atomic(paths[0], _markdown(report, command))
    write_atomic(paths[1], report.summary.to_csv(index=False))
    write_json(paths[2], _about(report, command))
    write_atomic(figure, figures.draw(plan, report.values, report.summary, report.references))
    return [*paths, figure]


def _markdown(report: Report, command: str) -> str:
    plan, parts = report.plan, [f"# {report.plan.question}"]
    parts += [grid.markdown() for grid in grids(report)]
    parts.append(f"![{plan.name}](../figures/{plan.name}.png)")
    parts.append("\n".join(f"- {line}" for line in remarks(report)))
    here = machine()
    parts.append(
        f"Made by `{command}` at commit {', '.join(report.commits) or 'none'} on {here['processor']}, {here['cores']} cores, "
        f"accelerator {here['accelerator']}, torch {here['torch']}. Plan {plan.digest}; more in {plan.name}.json."
    )
    return "\n\n".join(parts) + "\n"


def provenance(question: str, command: str, commits: list[str]) -> dict[str, Any]:
    """Where a table comes from: what every table's JSON begins with."""
    return {
        "question": question,
        "command": command,
        "commits": commits,
        **VERSIONS,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }


def _about(report: Report, command: str) -> dict[str, Any]:
    plan = report.plan
    return {
        **provenance(plan.question, command, report.commits),
        "plan": plan.digest,
        "primary": {"metric": plan.metric, "nfe": plan.nfe, "smallest_difference": plan.smallest_difference},
        "protocols": {arm: asdict(plan.protocol(arm)) for arm in plan.arms},
        "references": report.references,
        "paired_sd": None if math.isnan(report.sd) else report.sd,
        "detectable_difference": None if math.isnan(report.detectable) else report.detectable,
        "runs": {arm: [plan.run(arm, seed).name for seed in plan.seeds] for arm in plan.arms},
        "evaluation_seconds": {
            arm: sum(sum(plan.run(arm, seed).evaluation(plan.protocol(arm))["seconds"].values()) for seed in plan.seeds)
            for arm in plan.arms
        },
        "sampling_ms": {arm: {nfe: 1000 * s for (of, nfe), s in _sampling_seconds(plan).items() if of == arm} for arm in plan.arms},
        "notes": report.notes,
    }


def _mean_sd(row: pd.Series) -> str:
    if row.n == 0:
        return "-"
    return _figures(row["mean"], row["mean"]) if row.n == 1 else f"{_figures(row['mean'], row.sd)} ± {_figures(row.sd, row.sd)}"


def _figures(value: float, scale: float) -> str:
    """`value` with two significant digits of `scale` after the point, at most four."""
    places = 1 - math.floor(math.log10(abs(scale))) if scale else 2
    return f"{value:.{min(max(places, 0), 4)}f}"


def _comparison(row: pd.Series) -> list[str]:
    """Difference, interval and p-value; empty where there is none."""
    return [
        "" if pd.isna(row.difference) else f"{row.difference:+.1%}",
        "" if pd.isna(row.low) else f"{row.low:+.1%} to {row.high:+.1%}",
        "" if pd.isna(row.p_value) else f"{row.p_value:.2g}",
    ]
