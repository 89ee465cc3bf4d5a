"""A study's results as tables of text."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.ablation.design import arm_settings
from harness.ablation.design.plan import Plan
from harness.ablation.report import crossed, numbers, readouts, verdicts
from harness.ablation.report.findings import Report
from harness.ablation.report.grid import Grid, capitalised, titled
from harness.ablation.report.outcomes import Seeds
from harness.ablation.report.power import MOST_SEEDS
from harness.core.registry import find


def grids(report: Report) -> list[Grid]:
    """Return all tables: each metric by NFE, the verdicts, the values read off the curves, and the seconds."""
    metrics = sorted(report.summary.rows.metric.unique(), key=lambda metric: metric != report.plan.metric)
    out = [by_nfe(report, metric) for metric in metrics]
    out += [of_verdicts(report), *crossed.grids(report)]
    out += [of_excess(report)] if report.floor and report.excess else []
    out += [of_power(report)] if report.summary.power else []
    out += [read_off(report)] if report.readouts else []
    out += [needed(report)] if report.plan.expected_nfe else []
    return [*out, of_seconds(report)] if report.spent else out


def of_settings(report: Report) -> Grid:
    """Return the table of the arms' settings."""
    plan = report.plan
    told = arm_settings.described(plan)
    all_settings = f"(all of {plan.baseline}'s in {plan.name}.json)"
    title = f"Settings of the arms, where they differ from {plan.baseline} {all_settings}"
    return Grid(title, ["arm", "settings"], [[arm, told[arm]] for arm in plan.arms])


def by_nfe(report: Report, metric: str) -> Grid:
    """Return the table of a metric's values by NFE."""
    plan = report.plan
    rows = report.summary.rows
    own: Any = rows[(rows.metric == metric) & rows.arm.isin(plan.arms)].set_index(["arm", "nfe"])
    nfes = sorted(own.index.unique("nfe"))
    lines = [[arm, *(mean_sd(own.loc[arm, nfe], len(plan.seeds)) for nfe in nfes)] for arm in plan.arms]
    header = ["arm", *(numbers.header(plan, nfe) for nfe in nfes)]
    if len(nfes) == 1 and metric != plan.metric:
        header += ["difference", "95 % interval"]
        sound = own.xs(nfes[0], level="nfe")[["diverged", "failed"]].sum(axis=1) == 0
        said = {arm: comparison(own.loc[arm, nfes[0]]) for arm, base in plan.bases.items() if sound[base]}
        lines = [[*line, *said.get(line[0], ["", ""])] for line in lines]
    fewer = ", or over the number in brackets" if ((own.n > 0) & (own.n < len(plan.seeds))).any() else ""
    return Grid(f"{capitalised(titled(metric))} by NFE, mean ± sd over {len(plan.seeds)} seeds{fewer}", header, lines)


def of_verdicts(report: Report) -> Grid:
    """Return the table of the verdicts; it has the arms' seeds where some have no value."""
    plan = report.plan
    rows = report.summary.rows
    main: Any = rows[rows.primary].set_index("arm")
    settled = report.summary.settled
    found = settled.seeds | {name: standing.seeds for name, standing in settled.standings.items()}
    found = {name: found[name] for name in main.index}
    whole = {arm: str(own.number) if own.asked else "-" for arm, own in found.items()}
    missing = {arm: own.missing for arm, own in found.items()}
    columns = ["difference", "interval", "at", *(["of a tie"] if (main.verdict == "tie").any() else [])]
    ranges = crossed.ranges(report)
    header = [plan.kind, *(["seeds"] if any(missing.values()) else []), "look", *columns, "verdict"]
    header[-1:-1] = ["over the combinations"] if ranges else []
    lines = []
    for arm in main.index:
        row = main.loc[arm]
        compared = row.verdict != verdicts.NOT_COMPARED
        said = [*comparison(row), _confidence(row), _of_a_tie(row)][: len(columns)] if compared else [""] * len(columns)
        seeds = [missing[arm] or whole[arm]] if "seeds" in header else []
        beside = [ranges.get(arm, "") if compared else ""] if ranges else []
        lines.append([arm, *seeds, _look(plan, row), *said, *beside, verdicts.worded(row)])
    return Grid(f"{capitalised(titled(plan.metric))} at NFE {plan.nfe} against {plan.against}", header, lines)


def _look(plan: Plan, row: pd.Series) -> str:
    """The look of a verdict, with its seeds."""
    return "" if pd.isna(row.look) else f"{row.look} ({plan.looks.seeds[row.look - 1]} seeds)"


def _confidence(row: pd.Series) -> str:
    """The confidence of a verdict's interval."""
    return "" if pd.isna(row.low) else f"{100 * (1 - row.level):.4g} %"


def _of_a_tie(row: pd.Series) -> str:
    """The interval on which a tie rests."""
    return f"{row.tie_low:+.1%} to {row.tie_high:+.1%}" if row.verdict == "tie" else ""


def of_excess(report: Report) -> Grid:
    """Return the table of the excesses, beside the differences of the verdicts."""
    plan = report.plan
    rows = report.summary.rows
    main: Any = rows[rows.primary].set_index("arm")
    lines = []
    for arm, found in report.excess.items():
        line = [arm, f"{found.excess:.3g}"]
        against = found.against
        if against is None or math.isnan(against.difference):
            lines.append([*line, "", "", "", ""])
            continue
        interval = "" if math.isnan(against.low) else f"{against.low:+.1%} to {against.high:+.1%}"
        ends = "-" if found.ends is None else " to ".join(f"{end:+.1%}" for end in found.ends)
        lines.append([*line, comparison(main.loc[arm])[0], f"{against.difference:+.1%}", interval, ends])
    header = ["arm", "excess", "difference", "of excesses", "95 % interval", "floor ± its standard error"]
    return Grid(
        f"Excess of {titled(plan.metric)} over its floor at NFE {plan.nfe}, against {plan.against}", header, lines
    )


def of_power(report: Report) -> Grid:
    """Return the table of the differences that the seeds of each contrast can find at its look."""
    plan = report.plan
    wanted = plan.smallest_difference
    lines = []
    for arm, power in report.summary.power.items():
        sizes = [
            f"{size:+.0%} ({least:+.0%} to {most:+.0%})"
            for size, least, most in zip(power.found, power.at_least, power.at_most, strict=True)
        ]
        needed = power.seeds_for(wanted)
        lines.append(
            [arm, str(power.n), f"{power.sd:.3f}", *sizes, f"{MOST_SEEDS:,}+" if needed is None else f"{needed:,}"]
        )
    title = (
        f"Differences in {titled(plan.metric)} that each {plan.kind}'s look finds with 80 % power (95 % interval of "
        "the sd), and the seeds that a single look would need"
    )
    header = [plan.kind, "pairs", "sd of log ratios", "a fall", "a rise", f"seeds for +{100 * wanted:g}%"]
    return Grid(title, header, lines)


def of_seconds(report: Report) -> Grid:
    """Return the table of the seconds of each arm's trials."""
    rows = []
    for arm, own in report.spent.items():
        seconds = ("-" if math.isnan(mean) else f"{mean:.3g}" for mean in (own.training, own.evaluation))
        rows.append([arm, str(own.trials), *seconds])
    return Grid("Seconds a trial, mean", ["arm", "trials", "training", "evaluation"], rows)


def needed(report: Report) -> Grid:
    """Return the table of the calls that each arm needs, beside the calls that the study expects."""
    plan = report.plan
    rows = []
    largest = max(plan.arms[plan.baseline].evaluate.nfe)
    lower = find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    cells = numbers.alike(plan, report.cells)
    for arm in plan.arms:
        expected = plan.expected_nfe.get(arm)
        row = [arm, "{} to {}".format(*expected) if expected else ""]
        for target in (arm, plan.baseline):
            found = readouts.needed(cells, plan.metric, arm, target, largest, lower)
            row += [str(found), found.verdict(expected) if expected else ""]
        rows.append(row)
    near = f"within {readouts.NEAR:.0%} of the value at NFE {largest}"
    title = f"NFE for {titled(plan.metric)} {near}, geometric mean over seeds (95 % interval)"
    header = ["arm", "expected", "near own value", "verdict", f"near {plan.baseline}'s value", "verdict"]
    return Grid(title, header, rows)


def read_off(report: Report) -> Grid:
    """Return the table of each arm's mean over its curve, the fewest NFE near a best, and their time."""
    plan = report.plan
    ends = next((found.ends for found in report.readouts.values() if found.ends), None)
    over = "mean over NFE" if ends is None else f"mean over NFE {ends[0]} to {ends[1]}"
    header = ["arm", over, "difference", "95 % interval", "NFE to its best", "NFE to the best", "ms a sample"]
    rows = []
    for arm, found in report.readouts.items():
        against = found.against
        interval = "" if against is None or math.isnan(against.low) else f"{against.low:+.1%} to {against.high:+.1%}"
        difference = "" if against is None or math.isnan(against.difference) else f"{against.difference:+.1%}"
        area = (
            "-"
            if math.isnan(found.area)
            else f"{found.area:.4g}{_of_all(found.seeds, len(plan.seeds_of(arm)), len(plan.seeds))}"
        )
        price = "" if math.isnan(found.seconds) else f"{1000 * found.seconds:.3g}"
        steps = [str(found.fewest or "-"), str(found.fewest_of_all or "-")]
        rows.append([arm, area, difference, interval, *steps, price])
    title = f"Read off {titled(plan.metric)} against NFE (fewest within {readouts.NEAR:.0%} of a best)"
    return Grid(title, header, rows)


def mean_sd(row: pd.Series, all_seeds: int) -> str:
    """Return `mean ± sd`, with the number of seeds where some lack a value; where all do, what became of them."""
    if row.n == 0:
        return Seeds.of(row).missing if row.diverged or row.failed else "-"
    of_all = _of_all(row.n, row.seeds, all_seeds)
    if row.n == 1:
        return figures(row["mean"], row["mean"]) + of_all
    return f"{figures(row['mean'], row.sd)} ± {figures(row.sd, row.sd)}{of_all}"


def _of_all(number: int, seeds: int, all_seeds: int) -> str:
    """Return a number of seeds in brackets, and the arm's seeds if they differ; empty if it is all of the plan's."""
    if number == all_seeds:
        return ""
    return f" ({number})" if number == seeds else f" ({number} of {seeds})"


def figures(value: float, scale: float) -> str:
    """Return `value` with two significant digits of `scale` after the point, at most four."""
    places = 1 - math.floor(math.log10(abs(scale))) if scale else 2
    return f"{value:.{min(max(places, 0), 4)}f}"


def comparison(row: pd.Series) -> list[str]:
    """Return the difference and the interval of a row as text; empty where there is none."""
    return [
        "" if pd.isna(row.difference) else f"{row.difference:+.1%}",
        "" if pd.isna(row.low) else f"{row.low:+.1%} to {row.high:+.1%}",
    ]
