"""Match the training budgets of arms: the cost of one step determines the number of steps of each arm.

An arm trains for steps_baseline x cost_baseline / cost_arm steps, rounded. The cost of a step is its samples, the
floating-point operations of the network, or its seconds. The operations are counted on networks without weights, for
one forward and one backward pass per sample: no objective calls the network a second time. Seconds depend on the
machine. They are measured once, before the first run, and kept in

    results/local/plans/<plan's name>-seconds.json

so that a continued study has the same steps, also on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveFloat
from typing_extensions import TypedDict

from harness.core.config import ConfigError, digest, override, to_dict
from harness.core.errors import UserError
from harness.core.files import read_json_if_there, results_folder, write_json
from harness.data.base import load
from harness.runs.config import RunConfig
from harness.training.footprint import weightless
from harness.training.hardware import training_flops

By = Literal["samples", "flops", "seconds"]
STEPS = "train.steps"


class Timed(TypedDict):
    """Measured times of an arm's step."""

    cost: PositiveFloat
    """Seconds of a step divided by seconds of a baseline step: the median of several rounds."""
    seconds: PositiveFloat
    """Median seconds of a step of the arm."""
    least: PositiveFloat
    most: PositiveFloat
    """Smallest (`least`) and largest `cost` of the rounds."""
    where: str
    """The processor or accelerator, the number of trials side by side, and their number of threads."""


@dataclass(frozen=True)
class Matching:
    """How the arms of a plan were matched."""

    by: By
    costs: dict[str, float]
    """{arm: cost of its step divided by the cost of a baseline step}"""
    errors: dict[str, float]
    """{arm: its total cost relative to the baseline's, minus 1}; not 0 because steps are whole numbers."""
    timed: dict[str, Timed]
    """{arm: measured times}, if arms are matched by seconds."""


def matched(arms: Mapping[str, RunConfig], baseline: str, by: By, plan: str) -> tuple[dict[str, RunConfig], Matching]:
    """Return the arms with matched numbers of steps, and the matching; `plan` is the name of the plan.

    `UserError` if the baseline's whole training costs less than half a step of an arm, or if an arm was not timed yet.
    """
    timed = _timed(arms, baseline, plan) if by == "seconds" else {}
    if by == "seconds":
        costs = {arm: timed[arm]["cost"] if arm in timed else 1.0 for arm in arms}
    else:
        costs = {arm: _cost(arm, config, by) for arm, config in arms.items()}
    wanted = arms[baseline].train.steps
    out = {}
    for arm, config in arms.items():
        if not (steps := round(wanted * costs[baseline] / costs[arm])):
            reason = f"{wanted} steps of {baseline} cost less than half a step of it, by {by}"
            raise ConfigError(f"arm '{arm}'", f"{reason}. Train longer, or leave it out.")
        out[arm] = override(config, {STEPS: steps})
    ratios = {arm: cost / costs[baseline] for arm, cost in costs.items()}
    errors = {arm: config.train.steps * ratios[arm] / wanted - 1 for arm, config in out.items()}
    return out, Matching(by, ratios, errors, timed)


def refuse_lengths(arms: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `ConfigError` for an arm that sets the steps, which matching sets."""
    for arm, settings in arms.items():
        if path := next((path for path in settings if path in (STEPS, "train")), None):
            reason = f"`matched` computes every arm's steps from the baseline's, but this arm sets {path}"
            raise ConfigError(f"arm '{arm}'", f"{reason}. Leave out one of the two.")


def step_flops(config: RunConfig) -> float:
    """Return the floating-point operations of the network in one training step, for the whole batch."""
    data = load(config.dataset)
    network = weightless(config.backbone, data.shape, data.num_classes if config.conditional else 0)
    try:
        flops = training_flops(network, data.shape, "meta", config.conditional)
    except Exception:  # a plugin's network may look at its values and raise anything
        flops = training_flops(config.build(data), data.shape, "cpu", config.conditional)
    return config.train.batch_size * flops


def untimed(arms: Mapping[str, RunConfig], baseline: str, plan: str) -> list[str]:
    """Return the arms that train differently from the baseline and have not been timed against it yet."""
    known = _known(plan)
    return [arm for arm in _others(arms, baseline) if _key(arms, arm, baseline) not in known]


def keep(arms: Mapping[str, RunConfig], baseline: str, plan: str, measured: Mapping[str, Timed]) -> None:
    """Write the measured times of some arms; keep the times of others."""
    write_json(_place(plan), {**_known(plan), **{_key(arms, arm, baseline): own for arm, own in measured.items()}})


def _cost(arm: str, config: RunConfig, by: By) -> float:
    if by == "samples":
        return config.train.batch_size
    if not (flops := step_flops(config)):
        raise ConfigError(f"arm '{arm}'", "torch counts no operations of its network. Match by samples or seconds.")
    return flops


def _timed(arms: Mapping[str, RunConfig], baseline: str, plan: str) -> dict[str, Timed]:
    """Return the measured times of the arms that train differently from the baseline; `UserError` if one is missing."""
    if missing := untimed(arms, baseline, plan):
        reason = f"arms are matched by seconds, but the steps of {', '.join(missing)} were not timed yet"
        raise UserError(f"{plan}: {reason}. Run `harness ablate` first.")
    known = _known(plan)
    return {arm: known[_key(arms, arm, baseline)] for arm in _others(arms, baseline)}


def _others(arms: Mapping[str, RunConfig], baseline: str) -> list[str]:
    """Return the arms that train differently from the baseline."""
    return [arm for arm, config in arms.items() if _trained(config) != _trained(arms[baseline])]


def _known(plan: str) -> dict[str, Timed]:
    remedy = "Remove it and `harness ablate` measures again; it trains arms again if their steps change."
    return read_json_if_there(_place(plan), dict[str, Timed], remedy)


def _key(arms: Mapping[str, RunConfig], arm: str, baseline: str) -> str:
    """Return a key for an arm and its baseline: a digest of both trainings, without the machine and its threads."""
    return digest({"arm": _trained(arms[arm]), "baseline": _trained(arms[baseline])})


def _trained(config: RunConfig) -> dict[str, Any]:
    plain = to_dict(override(config, {"train.threads": 1}), digested=True)
    return {name: value for name, value in plain.items() if name not in ("evaluate", "seed")}


def _place(plan: str) -> Path:
    return results_folder() / "local" / "plans" / f"{plan}-seconds.json"
