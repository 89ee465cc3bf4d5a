"""The split of a study's variance as tables, sentences, and files with their provenance."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.ablation.report import resampled_figure
from harness.ablation.report.budget import Way
from harness.ablation.report.grid import Grid, titled
from harness.ablation.report.origin import made_by, provenance
from harness.ablation.report.power import MOST_SEEDS
from harness.ablation.report.resampled import Found
from harness.core.drawing import spared, write_picture
from harness.core.files import write_atomic, write_json
from harness.core.progress import duration


def show(found: Found, console: Console) -> None:
    """Print the tables and the sentences below them."""
    for grid in grids(found):
        grid.show(console)
    for line in remarks(found):
        console.print(f"- {line}", soft_wrap=True)


def write(found: Found, folder: Path, command: str) -> list[Path]:
    """Write `<folder>/tables/<study>-<scale>-variance.{md,json}` and `<folder>/figures/...png`; return the paths."""
    name = f"{found.design.plan.name}-variance"
    paths = [folder / "tables" / f"{name}.{ending}" for ending in ("md", "json")]
    figure = folder / "figures" / f"{name}.png"
    paragraphs = [f"# {question(found)}", *(grid.markdown() for grid in grids(found))]
    paragraphs.append(f"![{name}](../figures/{name}.png)")
    paragraphs.append("\n".join(f"- {line}" for line in remarks(found)))
    paragraphs.append(made_by(command, found.commits, f"All values are in {name}.json."))
    write_atomic(paths[0], "\n\n".join(paragraphs) + "\n")
    write_json(paths[1], about(found, command))
    with spared():
        write_picture(figure, lambda: resampled_figure.draw(found))
        paths.append(figure)
    return paths


def question(found: Found) -> str:
    """Return the question, which is the title of the page."""
    plan = found.design.plan
    return f"How many seeds and samples does {plan.name} need?"


def grids(found: Found) -> list[Grid]:
    """Return the table of the variances, and the table of the costs of finding the smallest difference."""
    return [_variances(found), _costs(found)]


def _variances(found: Found) -> Grid:
    plan = found.design.plan
    rows = []
    for arm, splits in found.splits.items():
        for own in splits:
            parts = [f"{math.sqrt(variance):.3g}" for variance in (own.training, own.sampling)]
            ends = "" if math.isnan(own.low) else f" ({own.low:.3g} to {own.high:.3g})"
            whole = f"{own.sd:.3g}{ends}"
            difference = f"{math.expm1(own.mean):+.1%}"
            rows.append([arm, f"{own.samples:,}", difference, *parts, whole, f"{own.share:.0%}"])
    title = (
        f"Sds of log ratios to {plan.baseline}, {titled(plan.metric)} at NFE {plan.nfe} (with 95 % interval for a pair)"
    )
    header = ["arm", "samples", "difference", "by training seed", "by sampling seed", "of a pair", "sampling's share"]
    return Grid(title, header, rows)


def _costs(found: Found) -> Grid:
    """Return the table of seeds and time by number of samples; a star marks the cheapest number of a row."""
    header = [
        "arm",
        *(f"{way.samples:,} ({way.rise:+.1%}{'' if way.measured else ', by the law'})" for way in found.ways),
    ]
    rows = []
    for arm in found.splits:
        cheapest = found.cheapest_of(arm)
        told = [f"{_seeds(way, arm)}, {_cost(way.seconds[arm])}{_star(way, cheapest)}" for way in found.ways]
        rows.append([arm, *told])
    rows.append([found.together, *(f"{_cost(way.total)}{_star(way, found.cheapest)}" for way in found.ways)])
    title = (
        f"Seeds and time that find {found.wanted} with 80 % power, by number of samples at NFE "
        f"{found.design.plan.nfe} (with the rise at that number; * marks the cheapest of a row)"
    )
    return Grid(title, header, rows)


def _star(way: Way, cheapest: int | None) -> str:
    return " *" if way.samples == cheapest else ""


def _seeds(way: Way, arm: str) -> str:
    number = way.seeds[arm]
    return f"over {MOST_SEEDS:,} seeds" if number is None else f"{number:,} seeds"


def _cost(seconds: float) -> str:
    return duration(seconds) if math.isfinite(seconds) else "no estimate"


def remarks(found: Found) -> list[str]:
    """Return the sentences below the tables."""
    return [*_advice(found), *(_about(found, arm) for arm in found.splits), *_method(found), *found.notes]


def _advice(found: Found) -> list[str]:
    """Return the sentences on the cheapest number of samples, and on how to ask for it."""
    plan = found.design.plan
    config = plan.arms[plan.baseline].evaluate
    if found.cheapest is None:
        return [f"No number of samples finds {found.wanted} in {found.together} with {MOST_SEEDS:,} seeds or fewer."]
    best = next(way for way in found.ways if way.samples == found.cheapest)
    beyond = "" if best.measured else " (by the law, beyond the measured numbers)"
    ends = "" if math.isnan(best.low) else f" ({_cost(best.low)} to {_cost(best.high)} by the intervals of the sds)"
    similar = "Numbers with a similar total may be as cheap."
    lines = [
        f"Cheapest way to find {found.wanted} in {found.together}: {best.samples:,} samples at NFE {plan.nfe}{beyond}, "
        f"{duration(best.total)} in all{ends}, with the seeds of its column. {similar}"
    ]
    if best.samples >= found.design.numbers[-1]:
        lines.append("More may be cheaper still: ask for that many, and this command tries twice the number.")
    if found.together == "open arms":
        settled = ", ".join(found.settled)
        lines.append(f"Not in the sum: {settled}, with a difference that is already larger (95 % interval over seeds).")
    if best.samples > config.num_samples:
        setting = f'evaluate.more_samples=[{{"nfe":{plan.nfe},"num_samples":{best.samples}}}]'
        lines.append(f"Ask for it by --set '{setting}'; other NFEs keep their {config.num_samples:,}.")
    elif best.samples < config.num_samples:
        lines.append(f"Ask for it by --set evaluate.num_samples={best.samples}, which holds for every NFE.")
    return lines


def _about(found: Found, arm: str) -> str:
    """Return the sentences about the splits of an arm."""
    first, *_, last = found.splits[arm]
    law = found.laws[arm]
    share = found.common[arm]
    slope = "" if math.isnan(law.slope) else f" That variance is proportional to n^{law.slope:.2f}, with n samples."
    verb = "removes {:.0%} of it" if share >= 0 else "adds {:.0%} to it"
    noise = "" if math.isnan(share) else f" Sharing the noise with the baseline {verb.format(abs(share))}."
    zero = [f"{own.samples:,}" for own in found.splits[arm] if own.below_zero]
    cut = f" With {', '.join(zero)} samples, the estimated variance between training seeds is below 0 and counts as 0."
    return (
        f"{arm}: sampling makes {first.share:.0%} of the variance of a log ratio with {first.samples:,} samples and "
        f"{last.share:.0%} with {last.samples:,}.{slope}{noise}{cut if zero else ''}"
    )


def _method(found: Found) -> list[str]:
    """Return the sentences on the method and its assumptions."""
    design = found.design
    plan = design.plan
    base = found.costs[plan.baseline]
    seeds = sorted({len(design.seeds[arm]) for arm in found.splits})
    told = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    most = design.numbers[-1]
    elsewhere = (
        f"{duration(base.elsewhere)} to judge elsewhere" if base.elsewhere else "no known time to judge elsewhere"
    )
    return [
        f"Balanced analysis of variance of log ratios: {told} training seeds, {design.sampling_seeds} sampling seeds "
        "for each. All arms share the noise of a sampling seed; smaller numbers of samples are their first part.",
        "The same change of a flow is a smaller ratio where the value has a larger floor, as with few samples. So the "
        "rise to find depends on their number. Beyond the measured numbers, the value of the last one is used.",
        f"A run of {plan.baseline} took {duration(base.training)} to train, {elsewhere}, "
        f"and {duration(base.judging[most])} to draw and score {most:,} samples at NFE {plan.nfe}; more are "
        "counted in proportion. The time of a run's teachers is left out.",
    ]


def about(found: Found, command: str) -> dict[str, Any]:
    """Return the contents of the JSON."""
    design = found.design
    plan = design.plan
    judged = design.run(plan.baseline, design.seeds[plan.baseline][0], 0).config.protocol()
    plain = {
        "plan": plan.digest,
        "primary": {"metric": plan.metric, "nfe": plan.nfe, "smallest_difference": plan.smallest_difference},
        "baseline": plan.baseline,
        "protocol": asdict(judged),
        "numbers": design.numbers,
        "sampling_seeds": design.sampling_seeds,
        "seeds": {arm: list(seeds) for arm, seeds in design.seeds.items()},
        "splits": {arm: [asdict(own) | {"sd": own.sd} for own in splits] for arm, splits in found.splits.items()},
        "laws": {arm: asdict(law) for arm, law in found.laws.items()},
        "taken_off_by_shared_noise": found.common,
        "settled": found.settled,
        "seconds": {arm: asdict(cost) for arm, cost in found.costs.items()},
        "ways": [_plain_way(way) for way in found.ways],
        "cheapest": {found.together: found.cheapest, **{arm: found.cheapest_of(arm) for arm in found.splits}},
        "values": found.values,
        "notes": remarks(found),
    }
    return {**provenance(question(found), command, found.commits), **_finite(plain)}


def _plain_way(way: Way) -> dict[str, Any]:
    sds = {arm: own.sd for arm, own in way.splits.items()}
    return {**vars(way), "splits": sds}


def _finite(value: Any) -> Any:
    """Return a value for JSON, with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _finite(own) for name, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
