"""Runs by what they are in a study, `STUDY/ARM/SEED`, as the plans in results/local/studies/ say.

STUDY is a study's name; where a study has several plans, the plan's name (`weighting-digits`); where a plan was
changed, the name of its folder (`weighting-digits-f397d7d91123`). An arm's name may hold spaces and slashes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.ablation.design.plan import Plan
from harness.core.errors import UserError, did_you_mean, listed
from harness.core.files import results_folder, runs_folder
from harness.runs import stored
from harness.runs.folder import Run
from harness.runs.stored import Facts

FORM = "STUDY/ARM/SEED"


class Place(NamedTuple):
    """A run with what it is in a study."""

    plan: Plan
    stored: str
    """The name of the plan's folder."""
    arm: str
    run: Run
    """Judged as the arm is."""

    @property
    def seed(self) -> int:
        return self.run.config.seed

    @property
    def address(self) -> str:
        """By the plan's name."""
        return f"{self.plan.name}/{self.arm}/{self.seed}"


@dataclass(frozen=True)
class StoredPlan:
    """A plan's file."""

    file: Path

    @property
    def folder(self) -> str:
        return self.file.parent.name

    @property
    def name(self) -> str:
        """`<study>-<scale>`, with a digest of the user's changes where there are some."""
        return self.folder.rpartition("-")[0]

    @property
    def study(self) -> str:
        return self.name.partition("-")[0]

    def read(self) -> Plan:
        """`UserError` where it is damaged, or holds components of a `--plugin` that was not named."""
        try:
            return Plan.read(self.file)
        except (UserError, KeyError, TypeError) as error:
            raise UserError(f"{self.file}: cannot be read ({error}). Does it need a --plugin FILE?") from None

    def places(self, facts: list[Facts]) -> Iterator[Place]:
        """Its runs that are on disk, under one of the `facts`; also those of seeds that it does not take now."""
        plan = self.read()
        seeds = range(max(plan.looks.last, len(plan.seeds)))
        for arm in plan.arms:
            for run in stored.runs_of(plan.arms[arm], seeds, facts):
                yield Place(plan, self.folder, arm, run)


def stored_plans(study: str | None = None) -> list[StoredPlan]:
    """Those on disk, of one study, plan or folder of a plan where one is named; `UserError` where there is none."""
    folder = results_folder() / "local" / "studies"
    plans = [StoredPlan(file) for file in sorted(folder.glob(f"*/{Plan.FILE}"))]
    if study is None:
        return plans
    if not (found := [plan for plan in plans if study in (plan.study, plan.name, plan.folder)]):
        known = {name for plan in plans for name in (plan.study, plan.name)}
        raise UserError(f"'{study}': {folder} holds no plan of that name. {did_you_mean(study, known)}")
    return found


def find_run(name: str) -> Run:
    """An existing run by its address, by its name, or by the path of its directory.

    One that is found by its address is judged as its arm is. `UserError` where there is none, or more than one.
    """
    if "/" not in name or name[0] in "./~" or Path(name).exists():
        return Run.find(name)
    study, _, rest = name.partition("/")
    arm, _, seed = rest.rpartition("/")
    if not (arm and seed.isdecimal()):
        raise UserError(f"{name}: is neither a folder nor {FORM}. `harness runs` lists the runs.")
    try:
        return _only(_named(study, arm, seed)).run
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _named(study: str, arm: str, seed: str) -> list[Place]:
    """The runs of an address; `UserError` where there is none."""
    plans = stored_plans(study)
    arms = {arm for plan in plans for arm in plan.read().arms}
    if arm not in arms:
        raise UserError(f"'{arm}' is not an arm of {study}. {did_you_mean(arm, arms)}")
    facts = stored.facts_on_disk()
    places = [place for plan in plans for place in plan.places(facts) if place.arm == arm]
    if found := [place for place in places if str(place.seed) == seed]:
        return found
    seeds = ", ".join(map(str, sorted({place.seed for place in places})))
    advice = f"Seeds of this arm on disk: {seeds}." if seeds else "Train it first."
    raise UserError(f"{runs_folder()} holds no run of this arm and seed. {advice}")


def _only(places: list[Place]) -> Place:
    """The one run among these; `UserError` with what to choose from where there are more."""
    if len({(place.run.folder, place.run.config) for place in places}) == 1:
        return places[0]
    by_plan = [place.address for place in places]
    by_folder = [f"{place.stored}/{place.arm}/{place.seed}" for place in places]
    by_run = [place.run.name for place in places]
    choices = next(names for names in (by_plan, by_folder, by_run) if len({*names}) > 1)
    raise UserError(f"this is more than one run. Choose: {listed(dict.fromkeys(choices))}.")
