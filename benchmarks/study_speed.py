"""A whole study by the harness, beside bare loops that do the same trainings and evaluations.

    python -m benchmarks.study_speed [--steps N] [--seeds 5] [--repeat 1]

The harness: `harness ablate weighting --scale digits` in empty results, from the command to the table, with one worker for
each core. The bare loops: the same arms, seeds, steps, batches and numbers of samples, trained as benchmarks/loops.py writes
it, sampled by a plain Euler loop at the same NFEs and judged by the same FID (the harness's Judge); no checkpoints, logs,
curves, pictures or table. Their processes share the trials out beforehand; every split of the cores into processes and
threads is tried (on two cores 1 process of 2 threads, which is one training after another, and 2 of 1). Everything begins
with its processes' start and ends when the last has ended.

Prints the wall time of each and the ratio of the harness's to it, and the mean FID at the largest NFE over all trials, which
says that the same work was done: the random numbers differ. Goal: within 5 % of the best split. On two cores about 8 minutes
each; with `--steps 50 --seeds 1` one minute.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.loops import bare, fresh_results
from benchmarks.report import Row, Spread, publish
from harness.ablation.plan import Plan
from harness.ablation.study import load_scale, load_study
from harness.data.base import Data, load
from harness.evaluation.judge import Batch, Judge
from harness.objective import Objective
from harness.runs import RunConfig

STUDY, SCALE = "weighting", "digits"
GOAL = 1.05


def main() -> None:
    """The harness and every split, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="instead of the scale's")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--share", type=int, nargs=3, metavar=("I", "OF", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    plan = plan_of(options)
    if options.share:
        print(json.dumps(share(plan, *options.share)))
        return
    cores = os.cpu_count() or 1
    names = {f"bare, {n} x {cores // n} threads": n for n in range(1, cores + 1) if cores % n == 0}
    contenders = {name: functools.partial(split, options, number, cores // number) for name, number in names.items()}
    contenders["harness"] = functools.partial(ablation, options, plan, cores)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(options.repeat):
        for name in sorted(contenders, reverse=turn % 2 == 1):
            taken[name].append(contenders[name]())
    publish("study_speed", f"Wall time of `{STUDY}` on {SCALE}", [row(name, taken) for name in contenders], notes(plan, taken))


def plan_of(options: argparse.Namespace) -> Plan:
    """The study as the harness would run it."""
    changes = {"train.steps": options.steps} if options.steps else {}
    return Plan.of(load_study(STUDY), SCALE, load_scale(SCALE), changes, options.seeds, [])


def ablation(options: argparse.Namespace, plan: Plan, workers: int) -> tuple[float, float]:
    """Seconds and mean FID of the harness."""
    changes = ["--set", f"train.steps={options.steps}"] if options.steps else []
    command = [sys.executable, "-m", "harness", "ablate", STUDY, "--scale", SCALE, "--seeds", str(options.seeds), *changes]
    with fresh_results():
        started = time.perf_counter()
        subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        values = [plan.run(arm, seed).evaluation(plan.protocol(arm))["values"]["fid"] for arm, seed in plan.trials()]
    return seconds, statistics.fmean(found[max(found, key=int)] for found in values)


def split(options: argparse.Namespace, processes: int, threads: int) -> tuple[float, float]:
    """Seconds and mean FID of bare loops side by side."""
    command = [sys.executable, "-m", "benchmarks.study_speed", "--seeds", str(options.seeds)]
    command += ["--steps", str(options.steps)] if options.steps else []
    with fresh_results():
        started = time.perf_counter()
        shares = [[*command, "--share", str(i), str(processes), str(threads)] for i in range(processes)]
        crew = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in shares]
        said = [worker.communicate()[0] for worker in crew]
        seconds = time.perf_counter() - started
    if any(worker.returncode for worker in crew):
        raise SystemExit("a bare loop failed")
    return seconds, statistics.fmean(value for text in said for value in json.loads(text.splitlines()[-1]))


def share(plan: Plan, i: int, of: int, threads: int) -> list[float]:
    """Train and judge every trial of one process; FID at the largest NFE."""
    found, base = [], plan.arms[plan.baseline]
    data = load(base.dataset)
    judge = Judge(base.evaluate, data, base.train.resolved_device())
    for config in (plan.config(arm, seed) for arm, seed in plan.trials()[i::of]):
        *_, network = bare(config, Objective(config, {}).weight, threads)
        found.append([judge(samples(network, config, data, nfe))["fid"] for nfe in sorted(config.evaluate.nfe)][-1])
    return found


@torch.no_grad()
def samples(network: nn.Module, config: RunConfig, data: Data, nfe: int) -> Iterator[Batch]:
    """As many as are judged, by Euler's method from t = 1 to 0."""
    number, size, device = config.evaluate.num_samples, config.evaluate.batch_size, config.train.resolved_device()
    for start in range(0, number, size):
        x: Tensor = torch.randn(min(size, number - start), *data.shape, device=device)
        for i in range(nfe):
            x = x - network(x, torch.full((len(x),), 1 - i / nfe, device=device)) / nfe
        yield Batch(data.decode(x).cpu())


def row(name: str, taken: dict[str, list[tuple[float, float]]]) -> Row:
    """One line of the table."""
    seconds = {key: [s for s, _ in values] for key, values in taken.items()}
    return {
        "what": name,
        "seconds": Spread.of(seconds[name]),
        "harness over it": Spread.of_ratios(seconds["harness"], seconds[name]),
        "mean FID": statistics.fmean(fid for _, fid in taken[name]),
    }


def notes(plan: Plan, taken: dict[str, list[tuple[float, float]]]) -> list[str]:
    """What was done, and which split was the best."""
    middle = {name: statistics.median(s for s, _ in values) for name, values in taken.items()}
    best = min((name for name in middle if name != "harness"), key=middle.__getitem__)
    steps = plan.arms[plan.baseline].train.steps
    return [
        f"{len(plan.arms)} arms x {len(plan.seeds)} seeds, {steps} steps each.",
        f"Best split: {best}; the harness takes {middle['harness'] / middle[best]:.3f} times as long. Goal: {GOAL}.",
    ]


if __name__ == "__main__":
    main()
