"""Tune arms before they are compared: each by a search with the same budget, on a seed that no verdict uses.

An arm that is compared at the baseline's learning rate may lose only because of the rate. The best settings of each
search are kept in

    results/local/plans/<plan's name>-tuned.json

from which every command reads the arms. The searches are in the same folder as those of `harness tune`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from typing_extensions import TypedDict

from harness.ablation.design.declared import require_types
from harness.ablation.design.looks import Looks
from harness.ablation.design.space import paths_of, require_ranges
from harness.core.config import ConfigError, Count, Index, digest, override, to_dict
from harness.core.errors import UserError, did_you_mean
from harness.core.files import read_json_if_there, results_folder, write_json
from harness.core.registry import sources
from harness.data.base import load
from harness.runs.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Search that tunes every arm of a study, for the study's metric at its NFE."""

    spaces: Mapping[str, Mapping[str, Any]]
    """{scale: {path: range to draw from}}"""
    trials: Count = 24
    rungs: Count = 4
    """The pruner looks at a trial after each of this many equal parts of its steps."""
    samples: Count = 5000
    """Largest number of samples to judge a trial."""
    seed: Index = 1000
    """Training seed of every trial, and seed of Optuna; it must not be a reporting seed."""

    def __post_init__(self) -> None:
        require_types(self)
        require_ranges(self.spaces)

    @property
    def drawn(self) -> set[str]:
        """The paths that the searches draw, at all scales together."""
        return {path for space in self.spaces.values() for name in space for path in paths_of(name)}

    def budget(self, scale: str) -> dict[str, Any]:
        """Return the budget and space of each arm's search as a JSON object; `UserError` if the scale has no space."""
        if scale not in self.spaces:
            raise UserError(f"tuned: there is no space for {scale}. {did_you_mean(scale, self.spaces)}")
        space = {name: distribution_to_json(drawn) for name, drawn in self.spaces[scale].items()}
        return {**vars(self), "spaces": {scale: space}}

    def refuse_reported(self, looks: Looks) -> None:
        """Raise `UserError` if a look would judge the arms on the seed of the tuning."""
        if self.seed < looks.last:
            taken = f"0 to {looks.last - 1}"
            raise UserError(f"tuned: seed {self.seed} is one of the reporting seeds, {taken}. Take another, like 1000.")

    def refuse_drawn(self, arms: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise `ConfigError` for an arm that sets a path that its search draws."""
        for arm, settings in arms.items():
            if path := drawn_of(settings, self.drawn):
                reason = f"`tuned` draws {path} for every arm, but this arm sets it"
                raise ConfigError(f"arm '{arm}'", f"{reason}. Leave out one of the two.")


class Found(TypedDict):
    """Best settings of an arm's search."""

    settings: dict[str, Any]
    """{path: value}"""
    value: float
    trials: dict[str, int]
    """{state: number of trials that ended in it}"""
    search: str
    """Digest of the search."""


@dataclass(frozen=True)
class Tuning:
    """How the arms of a plan were tuned."""

    budget: dict[str, Any]
    found: dict[str, Found]
    """{arm: best settings of its search}; empty before the searches."""


def drawn_of(settings: Mapping[str, Any], drawn: Iterable[str]) -> str | None:
    """Return the first drawn path that `settings` set: itself, a part of it, or a whole around it; None without one."""
    for path in drawn:
        for own, value in settings.items():
            inside = path.removeprefix(f"{own}.")
            if own == path or own.startswith(f"{path}.") or (isinstance(value, Mapping) and inside in value):
                return path
    return None


def untuned(arms: Mapping[str, RunConfig], tuned: Tuned, scale: str, plan: str) -> list[str]:
    """Return the arms whose search has no stored result yet; `plan` is the name of the plan."""
    known = _known(plan)
    return [arm for arm, config in arms.items() if _key(config, tuned.budget(scale)) not in known]


def keep(config: RunConfig, tuned: Tuned, scale: str, plan: str, found: Found) -> None:
    """Write the best settings of an arm's search; `config` is the arm before tuning."""
    write_json(_place(plan), {**_known(plan), _key(config, tuned.budget(scale)): found})


def tuned_arms(
    arms: Mapping[str, RunConfig], tuned: Tuned, scale: str, plan: str
) -> tuple[dict[str, RunConfig], Tuning]:
    """Return the arms at the best settings of their searches, and the tuning; `UserError` if a search has not ended."""
    if missing := untuned(arms, tuned, scale, plan):
        reason = f"arms are tuned before they are compared, but the search of {', '.join(missing)} has not ended"
        raise UserError(f"{plan}: {reason}. Run `harness ablate` first.")
    known = _known(plan)
    found = {arm: known[_key(config, tuned.budget(scale))] for arm, config in arms.items()}
    best = {arm: override(config, found[arm]["settings"]) for arm, config in arms.items()}
    return best, Tuning(tuned.budget(scale), found)


def _known(plan: str) -> dict[str, Found]:
    remedy = "Remove it and `harness ablate` writes it again from the searches, which stay."
    return read_json_if_there(_place(plan), dict[str, Found], remedy)


def _key(config: RunConfig, budget: Mapping[str, Any]) -> str:
    """Return the key of an arm's search, which does not depend on threads and seed."""
    plain = to_dict(override(config, {"train.threads": 1, "seed": 0}), digested=True)
    return digest(
        {"arm": plain, "budget": budget, "data": load(config.dataset).fingerprint, "sources": sources(config)}
    )


def _place(plan: str) -> Path:
    return results_folder() / "local" / "plans" / f"{plan}-tuned.json"
