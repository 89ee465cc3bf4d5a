"""Plan of a sweep: finished runs are sampled and judged in several ways, and nothing is trained."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.ablation.design.configured import nfe_of
from harness.ablation.design.crossing import level_name
from harness.ablation.design.looks import Looks
from harness.ablation.design.plan import Plan
from harness.core.config import Typed, override
from harness.core.errors import ConfigError, UserError
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.stored import same_training
from harness.runs.validate import check

Axes = dict[str, list[Typed]]
"""{path below `evaluate`: its values}"""


def axes_of(words: Sequence[str]) -> Axes:
    """Parse axes like `["solver=euler,heun", "time_grid=uniform,shifted"]`; `UserError` for a word of another form."""
    axes: Axes = {}
    for word in words:
        path, equals, values = word.partition("=")
        path = path.removeprefix("evaluate.")
        if not (path and equals and values):
            raise UserError(f"--sweep: '{word}' is not path=value,value. Write it like solver=euler,heun.")
        if path in ("nfe", "metrics"):
            raise UserError(
                f"--sweep: {path} is not an axis: every arm uses the whole list. Use --set evaluate.{path}=[...]."
            )
        axes[path] = [Typed(text) for text in _split(values)]
    return axes


def plan_of(runs: Sequence[Run], axes: Axes, plugins: Sequence[Path] = ()) -> Plan:
    """Return a plan with every combination of the axes as an arm, on finished runs that differ only in their seeds.

    The first combination is the baseline. An arm is judged at every entry of `evaluate.nfe` that its solver can use
    exactly; an adaptive solver chooses its NFE. `UserError` if the runs do not fit or there is only one combination.
    """
    base = same_training(runs)
    for run in runs:
        run.require_finished()
    arms = {}
    for values in itertools.product(*axes.values()):
        changes = {f"evaluate.{path}": value for path, value in zip(axes, values, strict=True)}
        arms[", ".join(level_name(value.read()) for value in values)] = _spendable(base, changes)
    if len(arms) < 2:
        raise UserError("--sweep: a sweep needs two combinations. Name two values or more, like solver=euler,heun.")
    metric = base.evaluate.metrics[0].name
    of = runs[0].name.partition("-")[0]
    return Plan(
        f"sweep-{'-'.join(axes)}".replace(".", "_"), of, f"How is {of} best sampled?", next(iter(arms)), arms,
        Looks((len(runs),)), tuple(run.config.seed for run in runs), metric,
        nfe_of(metric, base, max(base.evaluate.nfe)), 0.05, tuple(str(path.absolute()) for path in plugins),
    )  # fmt: skip


def _spendable(base: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """Return the configuration at the NFEs that its solver can use; raise the last error if there is none."""
    possible = []
    error = None
    for nfe in dict.fromkeys((*base.evaluate.nfe, 0)):
        try:
            config = override(base, {**changes, "evaluate.nfe": [nfe]})
            check(config)
        except ConfigError as found:
            error = error if nfe == 0 and error else found
        else:
            possible.append(nfe)
    if not possible and error:
        raise error
    return override(base, {**changes, "evaluate.nfe": possible})


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts = [""]
    depth = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
