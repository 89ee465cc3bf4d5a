"""Forecast the time and disk space of a plan, from small trainings and evaluations that run side by side like trials.

    python -m harness.ablation.execute.forecast PLAN FOLDER NUMBER

is one of NUMBER processes: it tries every arm of the plan, and prints the measured costs. Its results go to a temporary
folder.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.ablation.design.plan import Plan
from harness.ablation.design.shared import plugins_in
from harness.ablation.execute.placement import Placement
from harness.ablation.execute.side_by_side import side_by_side, wait_for_all
from harness.core.errors import NoValue, UserError
from harness.core.files import results_folder
from harness.core.registry import load_plugins
from harness.runs.estimate import Spent, judging_times, training_times
from harness.runs.folder import Run
from harness.runs.identity import training_digest


@dataclass(frozen=True)
class Forecast:
    """Forecast costs of each part of a plan."""

    trainings: dict[str, Spent] = field(default_factory=dict)
    """{training digest: cost}, including the pairs that it learns from; each earlier flow has its own digest."""
    evaluations: dict[str, Spent] = field(default_factory=dict)
    """{arm: cost}"""
    failures: dict[str, str] = field(default_factory=dict)
    """{arm: reason why it could not be tried}"""


def forecast(plan: Plan, placement: Placement, arms: Collection[str]) -> Forecast:
    """Return the forecast for these arms, with as many processes as trials side by side; `UserError` if one fails."""
    tried = dataclasses.replace(plan, arms={arm: plan.arms[arm] for arm in arms})
    number = min(placement.workers, len(tried.trials()))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command = [sys.executable, "-m", "harness.ablation.execute.forecast", str(tried.write(folder)), place]
        environments = []
        for i in range(number):
            own = folder / str(i)
            if (hashes := results_folder() / "local" / "hashes").is_dir():  # slow to compute again
                shutil.copytree(hashes, own / "local" / "hashes")
            environments.append({**placement.environment(i), "HARNESS_RESULTS": str(own)})
        try:
            said = side_by_side([*command, str(number)], environments)
        except subprocess.CalledProcessError as error:
            raise UserError(_lost(error)) from None
    return _mean([_read(text) for text in said])


def _lost(error: subprocess.CalledProcessError) -> str:
    """Return why a process ended early: the signal, or the last line of its error output."""
    if error.returncode < 0:
        return (
            f"a small trial was killed by signal {-error.returncode} (did memory run out?). Take fewer workers or "
            "smaller batches."
        )
    lines = error.stderr.strip().splitlines() or [f"it ended with exit code {error.returncode}"]
    return f"a small trial failed: {lines[-1].removeprefix('error: ')}"


def _read(text: str) -> Forecast:
    said = json.loads(text)
    parts = {name: {key: Spent(*value) for key, value in said[name].items()} for name in ("trainings", "evaluations")}
    return Forecast(**parts, failures=said["failures"])


def _mean(found: Sequence[Forecast]) -> Forecast:
    """Return the mean over processes that tried the same arms."""
    failures = {arm: reason for each in found for arm, reason in each.failures.items()}
    return Forecast(
        _averaged([each.trainings for each in found]), _averaged([each.evaluations for each in found]), failures
    )


def _averaged(found: Sequence[Mapping[str, Spent]]) -> dict[str, Spent]:
    keys = [key for key in found[0] if all(key in each for each in found)]
    return {
        key: Spent(*(statistics.fmean(column) for column in zip(*(each[key] for each in found), strict=True)))
        for key in keys
    }


def main() -> None:
    """Run one of the processes."""
    path = Path(sys.argv[1])
    together = functools.partial(wait_for_all, Path(sys.argv[2]), int(sys.argv[3]))
    load_plugins(plugins_in(path))
    found = Forecast()
    small: dict[str, Run] = {}
    for i, (arm, config) in enumerate(Plan.read(path).arms.items()):
        together(str(i))
        try:
            for flow in config.flows:
                if (digest := training_digest(flow)) not in small:
                    times, small[digest] = training_times(flow)
                    found.trainings[digest] = Spent(times.seconds(flow), times.bytes(flow))
            judged = judging_times(config, small[training_digest(config)])
            found.evaluations[arm] = Spent(judged.seconds(config.evaluate), judged.bytes(config.evaluate))
        except NoValue as error:
            found.failures[arm] = str(error)
    print(json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    main()
