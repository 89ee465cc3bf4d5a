"""Tables of a study with axes: whether a finding holds at every setting, and interactions."""

from __future__ import annotations

import math

from harness.ablation.report import outcomes, verdicts
from harness.ablation.report.findings import Report
from harness.ablation.report.grid import Grid, titled
from harness.ablation.report.statistics import compare


def grids(report: Report) -> list[Grid]:
    """Return the tables that a study with axes has beside its verdicts; an empty list for other studies."""
    if report.plan.crossing is None:
        return []
    if report.plan.crossing.swept:
        return [_in_all(report)]
    found = report.interactions
    return [*([_pairs(report)] if found and found.pairs else []), *([_terms(report)] if found and found.terms else [])]


def ranges(report: Report) -> dict[str, str]:
    """Return {effect: its smallest and largest difference over the levels of the other axes}.

    Only a full product has them: in a fraction, no two arms differ in one axis only.
    """
    plan = report.plan
    if plan.crossing is None or plan.crossing.swept or plan.crossing.equations:
        return {}
    groups = outcomes.by_arm(report.cells)
    own = {arm: groups.get((arm, plan.metric, plan.nfe)) for arm in plan.arms}
    out = {}
    for name, contrast in plan.contrasts.items():
        pairs = zip(contrast.arms, contrast.against, strict=True)
        found = [compare(*outcomes.paired(own[arm], own[base], plan.seeds)).difference for arm, base in pairs]
        out[name] = "" if any(map(math.isnan, found)) else f"{min(found):+.1%} to {max(found):+.1%}"
    return out


def _in_all(report: Report) -> Grid:
    """Return each arm's verdict at every setting, and whether all agree."""
    plan = report.plan
    assert plan.crossing
    settled = report.summary.settled
    axes = list(plan.crossing.levels)
    settings = list(dict.fromkeys(own[1:] for own in plan.crossing.arms.values()))
    arms = {own: arm for arm, own in plan.crossing.arms.items()}
    lines = []
    for family, found in verdicts.in_all(plan, settled).items():
        line = [family]
        for setting in settings:
            name = arms.get((family, *setting), "")
            difference = settled.standings[name].comparison.difference if name in settled.standings else math.nan
            word = settled.verdicts[name].word if name in settled.verdicts else "-"
            known = not math.isnan(difference) and word != verdicts.NOT_COMPARED
            line.append(f"{word} ({difference:+.1%})" if known else word)
        lines.append([*line, found.word])
    settings_of = " and ".join(axes[1:])
    title = f"Whether a finding on {titled(plan.metric)} at NFE {plan.nfe} holds at every setting of {settings_of}"
    return Grid(title, ["arm", *(", ".join(setting) for setting in settings), "in all"], lines)


def _pairs(report: Report) -> Grid:
    """Return the ratio of ratios of every pair of levels."""
    assert report.interactions
    lines = [
        [name, f"{of.difference:+.1%}", "" if math.isnan(of.low) else f"{of.low:+.1%} to {of.high:+.1%}"]
        for name, of in report.interactions.pairs.items()
    ]
    plan = report.plan
    title = (
        f"Interactions in {titled(plan.metric)} at NFE {plan.nfe}, exploratory: the effect of one level at the other "
        "level, relative to its effect at the first level of the other axis"
    )
    return Grid(title, ["interaction", "ratio of ratios", "95 % interval"], lines)


def _terms(report: Report) -> Grid:
    """Return the analysis of variance."""
    assert report.interactions
    lines = []
    for term in report.interactions.terms:
        tested = [f"{term.f:.3g}", f"{term.p:.2g}"] if term.is_effect else ["", ""]
        lines.append([term.name, str(term.df), f"{term.share:.1%}", *tested])
    plan = report.plan
    seeds = len(report.interactions.logs)
    title = f"Where the variance of log {titled(plan.metric)} at NFE {plan.nfe} lies, over {seeds} seeds"
    return Grid(title, ["source", "df", "share", "F", "p"], lines)
