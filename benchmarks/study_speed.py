"""A whole study by the harness, compared with bare loops that do the same trainings and evaluations.

    python -m benchmarks.study_speed [--steps N] [--seeds 5] [--together N]

The harness: `harness ablate weighting --scale digits` with an empty results folder, from the command to the table, with
as many workers as cores, or eight on each GPU (`--together`). The bare loops: the same arms, seeds, steps, batches and
numbers of samples; the training loop of benchmarks/loops.py, a plain Euler loop at the same NFEs, and the same FID (the
harness's Judge); no checkpoints, logs, curves, pictures or table. The trials are divided among the bare processes in
advance. On a CPU, every split of the cores into processes and threads runs (on two cores: 1 process of 2 threads, which
is one training after another, and 2 processes of 1 thread). On a GPU, 1 process runs, and as many as the harness has
workers. The time runs from the start of the processes to the end of the last. All take turns of a few seconds, and only
one runs at a time, so a drift of the machine's speed affects all alike.

Prints the time of each, the ratio of the harness's time to it, and the mean FID at the largest NFE over all trials,
which shows that they did the same work, with different random numbers. Goals: within 5 % of the best split; on a GPU at
most a third of the time of one after another. Takes about half an hour on two cores; with `--steps 50 --seeds 1`, two
minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchmarks.loops import bare, fresh_results
from benchmarks.report import Row, publish
from benchmarks.turns import Contender, in_turns
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_study
from harness.data.base import Data, load
from harness.evaluation.judge import Judge, SampleBatch
from harness.flow.objective import Objective
from harness.runs.config import RunConfig

STUDY = "weighting"
SCALE = "digits"
CUDA = torch.cuda.is_available()
CORES = os.cpu_count() or 1
GOAL = 1.05
GOAL_CUDA = 0.33
TURN_S = 3.0
HARNESS = "harness"


def main() -> None:
    """Run the harness and every split in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="training steps instead of the scale's")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--together", type=int, default=8 if CUDA else CORES, help="the harness's trials at a time")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, nargs=3, metavar=("I", "OF", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    plan = plan_of(options)
    ways = splits(options.together)
    if options.share:
        print(json.dumps(share(plan, *options.share)))
        return
    command = [
        sys.executable,
        "-m",
        "benchmarks.study_speed",
        "--seeds",
        str(options.seeds),
        "--together",
        str(options.together),
    ]
    command += ["--steps", str(options.steps)] if options.steps else []
    if options.only:
        fids = ablation(options, plan) if options.only == HARNESS else split(command, *ways[options.only])
        print(json.dumps(statistics.fmean(fids)))
        return
    crew = in_turns({name: [*command, "--only", name] for name in [HARNESS, *ways]}, TURN_S)
    publish(
        "study_speed",
        f"Running time of `{STUDY}` on {SCALE}",
        [row(name, crew) for name in [*ways, HARNESS]],
        notes(plan, crew, ways),
    )


def splits(together: int) -> dict[str, tuple[int, int]]:
    """Return {name: (processes, threads)} of every split; the first is one trial after another."""
    ways = [(n, 1) for n in (1, together)] if CUDA else [(n, CORES // n) for n in range(1, CORES + 1) if CORES % n == 0]
    return {f"bare, {processes} x {threads} threads": (processes, threads) for processes, threads in ways}


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan of the study."""
    changes = {"train.steps": options.steps} if options.steps else {}
    return Plan.of(load_study(STUDY), SCALE, load_scale(SCALE), changes, options.seeds, [])


def ablation(options: argparse.Namespace, plan: Plan) -> list[float]:
    """Run the harness; return the FIDs."""
    changes = ["--set", f"train.steps={options.steps}"] if options.steps else []
    command = [
        sys.executable,
        "-m",
        "harness",
        "ablate",
        STUDY,
        "--scale",
        SCALE,
        "--seeds",
        str(options.seeds),
        *changes,
    ]
    with fresh_results():
        together = ["--trials-per-gpu" if CUDA else "--workers", str(options.together)]
        subprocess.run([*command, *together], check=True, stdout=subprocess.DEVNULL)
        values = [plan.run(arm, seed).evaluation(plan.protocol(arm))["values"]["fid"] for arm, seed in plan.trials()]
    return [found[max(found, key=int)] for found in values]


def split(command: list[str], processes: int, threads: int) -> list[float]:
    """Run bare loops side by side; return the FIDs."""
    with fresh_results():
        shares = [[*command, "--share", str(i), str(processes), str(threads)] for i in range(processes)]
        crew = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in shares]
        said = [worker.communicate()[0] for worker in crew]
    if any(worker.returncode for worker in crew):
        raise SystemExit("a bare loop failed")
    return [value for text in said for value in json.loads(text.splitlines()[-1])]


def share(plan: Plan, i: int, of: int, threads: int) -> list[float]:
    """Train and judge the trials of one process; return the FIDs at the largest NFE."""
    found = list[float]()
    base = plan.arms[plan.baseline]
    data = load(base.dataset)
    judge = Judge(base.evaluate, data, base.train.resolved_device())
    for config in (plan.config(arm, seed) for arm, seed in plan.trials()[i::of]):
        *_, network = bare(config, Objective(config, {}).weight, threads)
        found.append([judge(samples(network, config, data, nfe))["fid"] for nfe in sorted(config.evaluate.nfe)][-1])
    return found


@torch.no_grad()
def samples(network: nn.Module, config: RunConfig, data: Data, nfe: int) -> Iterator[SampleBatch]:
    """Sample as many as the evaluation needs, by Euler's method from t = 1 to 0."""
    number = config.evaluate.num_samples
    size = config.evaluate.batch_size
    device = config.train.resolved_device()
    for start in range(0, number, size):
        x: Tensor = torch.randn(min(size, number - start), *data.shape, device=device)
        for i in range(nfe):
            x = x - network(x, torch.full((len(x),), 1 - i / nfe, device=device)) / nfe
        yield SampleBatch(data.decode(x).cpu())


def row(name: str, crew: Mapping[str, Contender]) -> Row:
    """Return one row of the table."""
    return {
        "what": name,
        "seconds": crew[name].seconds,
        "harness over it": crew[HARNESS].seconds / crew[name].seconds,
        "mean FID": json.loads(crew[name].said().splitlines()[-1]),
    }


def notes(plan: Plan, crew: Mapping[str, Contender], ways: Mapping[str, tuple[int, int]]) -> list[str]:
    """Describe the work and how the harness compares."""
    best = min(ways, key=lambda name: crew[name].seconds)
    steps = plan.arms[plan.baseline].train.steps
    over_best, over_one = (crew[HARNESS].seconds / crew[name].seconds for name in (best, next(iter(ways))))
    return [
        f"{len(plan.arms)} arms x {len(plan.seeds)} seeds, {steps} steps each.",
        f"Best split: {best}; the harness takes {over_best:.3f} times as long. Goal on a CPU: {GOAL}.",
        f"One after another: {over_one:.3f}. Goal on a GPU: {GOAL_CUDA}.",
    ]


if __name__ == "__main__":
    main()
