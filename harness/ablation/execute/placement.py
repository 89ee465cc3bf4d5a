"""Placement: how many trials share a machine, and on how many threads. It is measured once and kept; plans fix it.

    python -m harness.ablation.execute.placement PLAN FOLDER NUMBER

is one of NUMBER trials side by side: it trains the plan's baseline for a while once all are ready, and prints its
samples per second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import TypedDict

from harness.ablation.design.plan import Plan
from harness.ablation.design.shared import plugins_in
from harness.ablation.execute.side_by_side import side_by_side, wait_for_all
from harness.core.config import digest, to_dict
from harness.core.errors import Stopped, UserError
from harness.core.files import read_json_if_there, results_folder, write_json
from harness.core.provenance import machine
from harness.core.registry import load_plugins
from harness.core.signals import Say
from harness.data.base import load
from harness.flow.objective import Objective
from harness.runs.config import RunConfig
from harness.runs.threads import usable_cores
from harness.training.captured import WARM_UP
from harness.training.diagnostics import MEMORY
from harness.training.trainer import Callbacks, fit

SECONDS = 2.0
SETTLING_STEPS = 5
WORTH = 1.05
"""Minimum speed-up to prefer more threads, or more trials on a GPU, to fewer."""
TRIALS_PER_GPU = (1, 2, 4, 8)


class Chosen(TypedDict):
    """The fastest placement, as splits/<digest>.json holds it."""

    workers: PositiveInt
    threads: PositiveInt
    gpus: NonNegativeInt


class Measured(TypedDict):
    """Content of splits/<digest>.json, without the rates of all placements."""

    chosen: Chosen


@dataclass(frozen=True)
class Placement:
    """Numbers of workers, threads per worker and GPUs that share a machine."""

    workers: int
    threads: int
    gpus: int = 0

    def environment(self, worker: int) -> dict[str, str]:
        """Return the environment variables of a worker: GPUs in turn, and no imports from the working directory."""
        return {
            **os.environ,
            "PYTHONSAFEPATH": "1",
            **({"CUDA_VISIBLE_DEVICES": _visible()[worker % self.gpus]} if self.gpus else {}),
        }

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.workers} at a time on {f'{self.gpus} GPUs' if self.gpus else threads}"


def placements(cores: int, gpus: int) -> list[Placement]:
    """Return the placements to measure, the preferred one first."""
    if gpus:
        return [Placement(each * gpus, 1, gpus) for each in TRIALS_PER_GPU]
    threads = itertools.takewhile(lambda n: n <= cores, (2**i for i in itertools.count()))
    return [Placement(cores // n, n) for n in threads]


def given(plan: Plan, workers: int | None = None, trials_per_gpu: int | None = None) -> Placement:
    """Return the placement that the user asks for, with the plan's threads; by default, use all GPUs or all cores.

    `UserError` for `trials_per_gpu` without a GPU.
    """
    train = plan.arms[plan.baseline].train
    gpus = torch.cuda.device_count() if train.resolved_device() == "cuda" else 0
    if trials_per_gpu is not None:
        if not gpus:
            raise UserError("--trials-per-gpu: the study trains on the CPU. Use --workers N.")
        return Placement(trials_per_gpu * gpus, train.threads, gpus)
    fitting = gpus or max(1, usable_cores() // train.threads)
    chained = any(config.parent for config in plan.arms.values())  # the rounds of one seed wait for each other
    return Placement(workers or min(fitting, len(plan.seeds) if chained else len(plan.trials())), train.threads, gpus)


def choose(plan: Plan, say: Say) -> Placement:
    """Return the fastest placement for a plan's baseline; measure it if this machine has not yet.

    More arms or seeds do not change it, because results depend on the number of threads.
    """
    config = plan.arms[plan.baseline]
    gpus = torch.cuda.device_count() if config.train.resolved_device() == "cuda" else 0
    ways = placements(usable_cores(), gpus)
    place = _place(config)
    if known := _known(place):
        return Placement(**{name: known["chosen"][name] for name in Chosen.__annotations__})
    if len(ways) > 1:
        say("measuring how many trials to train side by side on this machine, once for these settings:")
    rates = [measure(plan.threaded(way.threads), way) for way in ways] if len(ways) > 1 else [1.0]
    chosen = ways[0]
    best = rates[0]
    for way, rate in zip(ways, rates, strict=True):
        say(f"{way}: {rate:,.0f} samples a second" if rate > 1 else str(way))
        if rate > WORTH * best:
            chosen = way
            best = rate
    measured = {str(way): rate for way, rate in zip(ways, rates, strict=True)} if len(ways) > 1 else {}
    write_json(place, {"chosen": vars(chosen), "machine": machine(), "samples_per_second": measured})
    return chosen


def remembered(plan: Plan) -> int:
    """Return the number of threads that `choose` found on this machine, or the configuration's if it never ran."""
    config = plan.arms[plan.baseline]
    known = _known(_place(config))
    return known["chosen"]["threads"] if known else config.train.threads


def rate_of(plan: Plan, placement: Placement) -> float | None:
    """Return the samples per second that `choose` measured for the plan's baseline; None if it did not."""
    return _known(_place(plan.arms[plan.baseline])).get("samples_per_second", {}).get(str(placement))


def _known(place: Path) -> dict[str, Any]:
    """Return the stored measurement of this machine; {} if there is none."""
    return read_json_if_there(
        place, Measured, "Remove it and the next `harness ablate` measures again; other threads mean other runs."
    )


def _place(config: RunConfig) -> Path:
    about = {"config": to_dict(dataclasses.replace(config, seed=0), digested=True), "machine": machine()}
    # keep this folder's name: the names of runs on disk depend on the threads stored there
    return results_folder() / "local" / "splits" / f"{digest(about)}.json"


def measure(plan: Plan, placement: Placement) -> float:
    """Return the samples per second of all trials together; 0 if one fails, perhaps because memory ran out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "harness.ablation.execute.placement"]
        command += [str(plan.write(Path(folder))), folder, str(placement.workers)]
        try:
            rates = side_by_side(command, [placement.environment(i) for i in range(placement.workers)])
        except subprocess.CalledProcessError:
            return 0.0
        return sum(map(float, rates))


def main() -> None:
    """Run one of the trials of a measurement."""
    path = Path(sys.argv[1])
    folder = Path(sys.argv[2])
    number = int(sys.argv[3])
    load_plugins(plugins_in(path))
    plan = Plan.read(path)
    config = plan.arms[plan.baseline]
    torch.set_num_threads(config.train.threads)
    data = load(config.dataset)
    device = config.train.resolved_device()
    network = config.build(data).to(device)
    objective = Objective(config, config.noise.learn(data), device=device)
    quiet = dataclasses.replace(config.train, log_every=10**9, sample_every=10**9, checkpoint_every=10**9)
    graphed = config.train.graph == "on"
    clock = _Clock(folder, number, MEMORY + WARM_UP + 2 if graphed else SETTLING_STEPS)  # a graph is recorded late
    callbacks = Callbacks(lambda line: None, lambda shown, step: {}, lambda text: None, clock)
    with contextlib.suppress(Stopped):
        fit(quiet, 0, network, objective, data, folder / str(os.getpid()), callbacks)
    print(config.train.batch_size * clock.rate)


class _Clock:
    """Stop condition called before every step: it skips a few steps, waits for the other trials, then times steps.

    It skips no further step after one that took as long as all timed steps should.
    """

    def __init__(self, folder: Path, number: int, settling: int = SETTLING_STEPS):
        self.folder = folder
        self.number = number
        self.steps = -settling - 1
        self.started = 0.0
        self.ended = math.inf

    @property
    def rate(self) -> float:
        """Steps per second; 0 if the training ended before any was timed."""
        return self.steps / (self.ended - self.started) if self.steps > 0 else 0.0

    def __call__(self) -> bool:
        self.steps += 1
        now = time.perf_counter()
        if self.steps < 0 and now - self.ended > SECONDS:
            self.steps = 0
        self.ended = now
        if self.steps == 0:
            _wait_for_gpu()
            wait_for_all(self.folder, self.number)
            self.started = time.perf_counter()
        if self.steps <= 0 or now - self.started <= SECONDS:
            return False
        _wait_for_gpu()
        self.ended = time.perf_counter()
        return True


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _visible() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else list(map(str, range(torch.cuda.device_count())))


if __name__ == "__main__":
    main()
