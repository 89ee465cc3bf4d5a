"""The sentences beside a study's table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from harness.ablation.design.looks import LEVEL
from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import unplanned
from harness.ablation.report import excess, looks, matching, numbers, tuned, verdicts
from harness.ablation.report.findings import REFERENCES, Report
from harness.ablation.report.grid import capitalised, titled
from harness.ablation.report.records import Records
from harness.ablation.report.statistics import SKEWED
from harness.ablation.report.summary import Summary
from harness.core.errors import listed
from harness.core.provenance import named
from harness.data.base import load
from harness.evaluation.doubts import short_of_samples
from harness.evaluation.protocol import Protocol

SAMPLING = ("solver", "time_grid", "guidance", "network")
"""Fields of a protocol that may be the question of a study whose arms share one training."""


def notes(plan: Plan, summary: Summary, told: Records) -> list[str]:
    """Return the sentences that a reader needs to trust a table."""
    baseline = plan.arms[plan.baseline]
    return [
        *unplanned(plan),
        *_about_crossing(plan),
        *looks.about(plan, summary.settled),
        *_about_verdicts(plan, summary),
        *_about_looks(plan, summary),
        *matching.about(plan),
        *tuned.about(plan),
        *_about_seeds(plan),
        *_about_protocols(plan),
        *numbers.notes(plan),
        *filter(None, [short_of_samples(baseline.evaluate, load(baseline.dataset))]),
        *_about_code(told.commits),
        *_about_hardware(told.hardware),
    ]


def _about_code(states: Sequence[str]) -> list[str]:
    """Return the sentence about trainings by several versions of the code."""
    return [f"Trials come from {len(states)} versions of the code: {named(states)}."] if len(states) > 1 else []


def _about_hardware(found: Mapping[int, set[str]]) -> list[str]:
    """Return the sentence about trainings on several types of hardware, which round differently."""
    types = sorted(set().union(*found.values()))
    if len(types) < 2:
        return []
    mixed = [str(seed) for seed, kinds in sorted(found.items()) if len(kinds) > 1]
    apart = (
        f"the arms of seed {listed(mixed)} are not on one type" if mixed else "the arms of each seed are on one type"
    )
    return [f"Trials ran on {listed(types)}, which round differently; {apart}."]


def _about_verdicts(plan: Plan, summary: Summary) -> list[str]:
    """Return the reasons for verdicts that the numbers do not show."""
    alike: dict[tuple[str, str], list[str]] = {}
    for arm, found in summary.settled.verdicts.items():
        if found.reason:
            alike.setdefault((found.word, found.reason), []).append(arm)
    lines = [f"{word.capitalize()}: {listed(arms)} ({reason})." for (word, reason), arms in alike.items()]
    if any(found.word == verdicts.UNSTABLE for found in summary.settled.verdicts.values()):
        lines.append(
            "An unstable arm is neither better nor a tie: its differences are over the seeds that did not diverge."
        )
    for arm in dict.fromkeys(arm for of in plan.contrasts.values() for arm in of.against):
        if unfinished := summary.settled.seeds[arm].unfinished:
            seeds = f"{unfinished} of {len(plan.seeds)} seeds of {arm}"
            lines.append(f"Unfinished: {seeds} have no value yet, so they form no pairs.")
    return lines


def _about_looks(plan: Plan, summary: Summary) -> list[str]:
    """Return the warnings about early decisions and about skewed log ratios."""
    lines = []
    last = len(plan.looks.seeds)
    early = [arm for arm, v in summary.settled.verdicts.items() if v.word in ("better", "worse") and v.look < last]
    if early:
        lines.append(
            f"Decided before the last look: {listed(early)}. A difference that is found early tends to be "
            "exaggerated: its estimate is biased away from zero."
        )
    skewed = {arm: c.skewness for arm, c in summary.settled.tested.items() if abs(c.skewness) > SKEWED}
    if skewed:
        told = listed([f"{arm} {skewness:+.1f}" for arm, skewness in skewed.items()])
        lines.append(
            f"The log ratios are skewed ({told}): the paired t test assumes normal log ratios. It errs more often than "
            "its level where the skewness is real."
        )
    return lines


def _about_crossing(plan: Plan) -> list[str]:
    """Return the sentences about arms that combine the levels of axes."""
    if plan.crossing is None:
        return []
    if plan.crossing.swept:
        said = (
            "If an arm has one verdict at every setting, its error probability is not divided over the settings: the "
            "finding must hold at the worst of them (intersection-union, Berger 1982)."
        )
    else:
        said = (
            "A main effect is an average over the levels of the other axes. Where the effect differs much "
            "over their combinations, it may hold at none of them: read the interactions."
        )
    return [*plan.crossing.told(), said]


def _about_seeds(plan: Plan) -> list[str]:
    """Return the reason of each seed without a value."""
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
            f"The arms share their trainings and differ in {', '.join(sorted(asked))}: that is the study's question."
        )
    for arm, names in differing.items():
        if others := [name for name in names if name not in asked]:
            lines.append(f"Protocols differ: {arm} and {plan.baseline} are judged with another {', '.join(others)}.")
    return lines


def _differing(one: Protocol, other: Protocol) -> list[str]:
    return [key for key, value in one.plain.items() if value != other.plain[key]]


def _beside(report: Report, metrics: Collection[str]) -> list[str]:
    """Return the scores of real samples and noise, for the numbers of samples at the primary NFE and elsewhere."""
    usual = f" at other NFE than {report.plan.nfe}" if report.at_primary else ""
    return [
        f"{capitalised(titled(metric))} of {REFERENCES[kind].words}, as many as generated samples{where}: {value:.4g}."
        for where, scores in ((usual, report.references), (f" at NFE {report.plan.nfe}", report.at_primary))
        for kind, by_metric in scores.items()
        for metric, value in by_metric.items()
        if metric in metrics
    ]


def remarks(report: Report, metrics: Collection[str] | None = None) -> list[str]:
    """Return the sentences below a table. `metrics` limits the scores of real samples and noise; None means all."""
    plan = report.plan
    above = excess.remarks(plan, report.floor, report.excess) if report.floor else []
    named = set(report.summary.rows.metric) if metrics is None else metrics
    return [*_beside(report, named), _rule(plan), *above, *report.notes]


def _rule(plan: Plan) -> str:
    """Return how the verdicts were made, in two sentences."""
    numbers = ", ".join(map(str, plan.looks.seeds))
    over = "the arms"
    if plan.crossing:
        over = "the arms and their settings" if plan.crossing.swept else "the main effects"
    if len(plan.looks.seeds) > 1:
        equal = plan.looks.spending == "equal"
        over += f", and over the looks {'in equal parts' if equal else 'in proportion to the seeds that each adds'}"
    return (
        f"Verdicts: {titled(plan.metric)} at NFE {plan.nfe}, paired t on logs, with looks at {numbers} seeds; the "
        f"chance of a wrong verdict in the study, {LEVEL:.0%} at most, is divided over {over}; smallest difference of "
        f"interest {100 * plan.smallest_difference:g}%. Intervals of other values are 95 %, unadjusted."
    )
