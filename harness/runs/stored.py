"""Runs on disk: their list, state and values, without reading data or weights."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.core.checkpoint import checkpoints, step_of
from harness.core.config import digest
from harness.core.errors import UserError
from harness.core.files import read_json, read_json_if_there, runs_folder
from harness.core.reading import say_once
from harness.evaluation.protocol import EvaluateConfig, of_settings
from harness.runs.config import RunConfig
from harness.runs.contents import EVALUATED, WRITTEN_AGAIN, Environment, Evaluation, value_of
from harness.runs.folder import Run
from harness.runs.identity import FACTS, NUMERICS_VERSION, training_digest

State = Literal["finished", "running", "interrupted", "diverged", "pruned"]
MEASURED_AGAINST = ("weights", "resize", "reference")
"""The fields of a protocol that follow from the data and the extractor's weights, not from the settings."""
Facts = dict[str, Any]
"""Facts that a run's name covers besides its configuration, from its environment.json."""


def folders() -> list[Path]:
    """Return the directories of the runs that have started, sorted by name."""
    return sorted(path.parent for path in runs_folder().glob("*/environment.json"))


def facts_on_disk() -> list[Facts]:
    """Return every set of facts under which a run on disk was trained."""
    found: dict[str, Facts] = {}
    for folder in folders():
        try:
            facts = read_json_if_there(folder / "environment.json", Environment, WRITTEN_AGAIN)
        except UserError:  # damaged: the command that opens the run says so
            continue
        of_name = {name: facts[name] for name in FACTS if name in facts}
        found.setdefault(json.dumps(of_name, sort_keys=True), of_name)
    return [*found.values()]


def runs_of(config: RunConfig, seeds: Iterable[int], known: Sequence[Facts]) -> list[Run]:
    """Return the runs on disk of a configuration with each of the seeds, trained under any of the `known` facts.

    A seed without runs of the current numerics version gets its runs of earlier versions.
    """
    digests = _digests(config, known)
    found = []
    for seed in seeds:
        folders = {runs_folder() / f"{digest}-s{seed}": today for digest, today in digests.items()}
        there = {folder: today for folder, today in folders.items() if (folder / "environment.json").is_file()}
        of_today = [folder for folder, today in there.items() if today]
        found += [Run(dataclasses.replace(config, seed=seed), folder) for folder in of_today or there]
    return found


def _digests(config: RunConfig, known: Sequence[Facts]) -> dict[str, bool]:
    """Return {digest of the training under some of the facts: whether they have the current numerics version}."""
    teachers = _digests(config.parent, known) if config.parent else {}
    digests: dict[str, bool] = {}
    for facts in known:
        if config.parent and facts.get("teacher") not in teachers:  # facts of a run with another teacher, or without
            continue
        with contextlib.suppress(KeyError):  # facts of earlier code
            digests.setdefault(training_digest(config, facts), facts.get("numerics_version") == NUMERICS_VERSION)
    return digests


def state_of(run: Run) -> State:
    """Return the state of a run. It is `running` while a process trains or evaluates it."""
    if (run.folder / "lock").exists():
        with run.lock(wait=False) as free:
            if not free:
                return "running"
    for name in ("diverged", "pruned"):
        if (run.folder / f"{name}.json").exists():
            return name
    newest = checkpoints(run.folder / "checkpoints")[:1]
    return "finished" if newest and step_of(newest[0]) == run.config.train.steps else "interrupted"


class Score(NamedTuple):
    """A value, and the digest of the reference and weights that it was measured against; None if there is no value."""

    value: float | None = None
    against: str | None = None


def score(run: Run, judged: EvaluateConfig, metric: str, nfe: int) -> Score:
    """Return the newest value of a metric at an NFE among the evaluations of a run with the settings `judged`.

    Evaluations may use different references, since no data are read: compare scores only if `against` is the same.
    """
    asked = json.loads(json.dumps(of_settings(judged)))
    files = (run.folder / "evaluations").glob("*.json")
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            known = {"values": {}, "precise": {}, "protocol": {}, **read_json(path, Evaluation, EVALUATED)}
        except UserError as error:
            say_once(str(error))
            continue
        same = all(known["protocol"].get(name, {}) == setting for name, setting in asked.items())
        if same and (found := value_of(known, metric, nfe)) is not None:
            against = {name: known["protocol"].get(name) for name in MEASURED_AGAINST}
            against |= {"decoder": decoder} if (decoder := known["protocol"].get("decoder")) else {}
            return Score(found, digest(against))
    return Score()


class Elsewhere(NamedTuple):
    """A value that was measured with other settings than the run's own."""

    metric: str
    nfe: int
    value: float
    protocol: str
    """Digest of the protocol."""


def newest_value(run: Run) -> Elsewhere | None:
    """Return the first metric of the newest evaluation of a run at its largest NFE, with whatever settings."""
    files = (run.folder / "evaluations").glob("*.json")
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(UserError):  # damaged: `score` has said so
            for metric, values in read_json(path, Evaluation, EVALUATED).get("values", {}).items():
                nfe = max(values, key=int)
                return Elsewhere(metric, int(nfe), values[nfe], path.stem)
    return None


def same_training(runs: Sequence[Run]) -> RunConfig:
    """Return the configuration of runs that differ only in their seeds; `UserError` for other or moved runs."""
    for run in runs:
        if training_digest(run.config) != training_digest(runs[0].config):
            raise UserError(
                f"{run.name} and {runs[0].name} are different trainings. Take runs that differ only in their seeds."
            )
        run.require_home()
    return runs[0].config
