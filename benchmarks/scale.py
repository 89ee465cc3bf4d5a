"""The time and the memory of the commands that read a study of thousands of finished runs.

    python -m benchmarks.scale [--seeds 2000] [--repeat 3]

Five arms are trained for a few steps with one seed, by `harness ablate`. The folder of each run is then copied under
the names of the other seeds, with its seed and slightly other values; the copies share checkpoints and pictures (hard
links). The journal and MLflow's SQLite file get the copies' entries too, so that every run looks trained, evaluated and
mirrored. Each command of `COMMANDS` then runs by itself, from start to end, on 10 runs and on all of them.

Prints seconds (median, smallest to largest), peak memory, and how much more the many runs take. Goal: at most 5 s more.
Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.loops import fresh_results
from benchmarks.report import Row, Spread, publish
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_study
from harness.core.config import digest, parse_assignments
from harness.runs.folder import Run
from harness.runs.mlflow_record import marks

COMMANDS = {"harness table": ["table"], "harness ablate, again": ["ablate"], "harness status": ["status"]}
"""{name: words before the study} of the measured commands."""
FEW = 2
GOAL_S = 5.0
MB = 1e6
SCALE = "points"
CHANGES = ["train.steps=8", "train.log_every=1", "evaluate.num_samples=200", "evaluate.nfe=[2,4,8]", "train.threads=1"]
STUDY = '''"""Five trainings that differ in their learning rate."""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Which learning rate gives the best samples?",
    baseline="rate_1",
    arms={{f"rate_{{i}}": {{"train.learning_rate": i * 1e-3}} for i in range(1, 6)}},
    nfe=8,
    looks=({looks},),
)
'''


def main() -> None:
    """Measure few and many runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    few, many = (measured(seeds, options.repeat) for seeds in (FEW, options.seeds))
    runs = 5 * (options.seeds - FEW)
    rows = [row(name, few[name], many[name], runs) for name in COMMANDS]
    notes = [f"Few: 5 arms x {FEW} seeds. Many: 5 arms x {options.seeds:,} seeds.", f"Goal: {GOAL_S:g} s more."]
    publish("scale", "Commands on studies with few and many finished runs", rows, notes)


class Taken(NamedTuple):
    """What the runs of a command took."""

    seconds: Spread
    peak: float
    """Largest resident memory of a process, in bytes."""


def row(name: str, few: Taken, many: Taken, runs: int) -> Row:
    """Return one row of the table; `runs` is the number of further runs."""
    return {
        "command": name,
        "few, s": few.seconds,
        "many, s": many.seconds,
        "more, s": many.seconds.median - few.seconds.median,
        "few, peak MB": few.peak / MB,
        "many, peak MB": many.peak / MB,
        "more bytes a run": (many.peak - few.peak) / runs,
    }


def measured(seeds: int, repeat: int) -> dict[str, Taken]:
    """Return what each command takes on a study of this number of finished seeds."""
    with fresh_results() as folder:
        study = made(folder, seeds)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
        for _ in range(repeat):
            for name, words in COMMANDS.items():
                found[name].append(taken(command(words, study, seeds)))
    return {
        name: Taken(Spread.of([seconds for seconds, _ in each]), max(peak for _, peak in each))
        for name, each in found.items()
    }


def command(words: list[str], study: Path, seeds: int) -> list[str]:
    """Return the words of a command of the harness on the study."""
    changes = [word for change in CHANGES for word in ("--set", change)]
    return [sys.executable, "-m", "harness", *words, str(study), "--scale", SCALE, "--seeds", str(seeds), *changes]


def taken(words: list[str]) -> tuple[float, float]:
    """Return the seconds and the peak memory, in bytes, of a process with its children."""
    started = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return time.perf_counter() - started, usage.ru_maxrss * 1024.0


def made(folder: Path, seeds: int) -> Path:
    """Fill a results folder with a study of finished runs; return the study's file."""
    path = folder / "rates.py"
    path.write_text(STUDY.format(looks=max(seeds, 3)))
    subprocess.run(command(["ablate"], path, 1), check=True, stdout=subprocess.DEVNULL)
    plan = Plan.of(load_study(str(path)), SCALE, load_scale(SCALE), parse_assignments(CHANGES), seeds, [])
    ids = {arm: [record_of(plan, arm)["run_id"]] for arm in plan.arms}
    for arm, own in ids.items():
        own += [copied(plan, arm, seed) for seed in range(1, seeds)]
    add_trials(plan)
    add_records(folder / "local" / "mlflow.db", ids)
    return path


def record_of(plan: Plan, arm: str) -> dict[str, Any]:
    """Return the tracking file of an arm's first run."""
    (path,) = plan.run(arm, 0).folder.glob("tracking/*.json")
    return json.loads(path.read_text())


def copied(plan: Plan, arm: str, seed: int) -> str:
    """Copy the first run of an arm under the name of another seed; return the id of its MLflow run."""
    first, run = (plan.run(arm, each) for each in (0, seed))
    drawn = random.Random(f"{arm} {seed}")

    def evaluation(known: dict[str, Any]) -> dict[str, Any]:
        values = {
            name: {nfe: value * drawn.lognormvariate(0, 0.1) for nfe, value in by_nfe.items()}
            for name, by_nfe in known["values"].items()
        }
        return {**known, "run": run.name, "values": values}

    changed: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "config.json": lambda config: {**config, "seed": seed},
        "environment.json": lambda known: {**known, "name": run.name},
        f"evaluations/{plan.protocol(arm).digest}.json": evaluation,
    }
    for name in tree(first):
        target = run.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if change := changed.get(name):
            target.write_text(json.dumps(change(json.loads((first.folder / name).read_text())), indent=1) + "\n")
        else:
            target.hardlink_to(first.folder / name)
    return tracked(plan, arm, run, f"{drawn.getrandbits(128):032x}")


def tree(run: Run) -> Iterator[str]:
    """Yield the files of a run that its copies have too."""
    found = (str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file())
    yield from (name for name in found if name != "lock" and not name.startswith("tracking/"))


def tracked(plan: Plan, arm: str, run: Run, run_id: str) -> str:
    """Write the tracking file of a copy; return the id of its MLflow run."""
    seed = str(run.config.seed)
    state = record_of(plan, arm)
    state |= {
        "closed": marks(run, plan.protocol(arm)),
        "run_id": run_id,
        "name": f"{arm} seed {seed}",
        "tags": {**state["tags"], "run": run.name, "seed": seed},
    }
    key = plan.protocol(arm).digest + plan.name
    place = digest({"uri": state["uri"], "experiment": plan.name, "folder": run.name, "key": key})
    path = run.folder / "tracking" / f"{place}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(state, indent=1) + "\n")
    return run_id


def add_trials(plan: Plan) -> None:
    """Add the lines of the copies' trials to the journal, as those of the first trials are."""
    journal = plan.folder / "journal.log"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    begun = [line for line in lines if line["op_code"] == 4]
    later = {i: [line for line in lines if line.get("trial_id") == i] for i in range(len(begun))}
    new = list[dict[str, Any]]()
    for number, (i, seed) in enumerate(((i, seed) for seed in plan.seeds[1:] for i in later), len(begun)):
        arm = begun[i]["user_attrs"]["arm"]
        new.append({**begun[i], "user_attrs": {"arm": arm, "seed": seed}})
        for line in later[i]:
            named = {"user_attr": {"run": plan.run(arm, seed).name}} if "run" in line.get("user_attr", ()) else {}
            new.append({**line, "trial_id": number, **named})
    with open(journal, "a") as file:
        file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in new)


def add_records(store: Path, ids: dict[str, list[str]]) -> None:
    """Copy the MLflow run of each arm under the ids of the arm's other seeds."""
    with sqlite3.connect(store) as data:
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            columns = [column for _, column, *_ in data.execute(f"pragma table_info({table})")]
            chosen = ", ".join("?" if column == "run_uuid" else column for column in columns)
            copy = f"insert into {table} ({', '.join(columns)}) select {chosen} from {table} where run_uuid = ?"
            for first, *others in ids.values():
                data.executemany(copy, [(other, first) for other in others])


if __name__ == "__main__":
    main()
