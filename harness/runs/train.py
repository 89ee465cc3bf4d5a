"""Train runs, after the flows that they learn from; an interrupted run continues."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from harness.core.appending import Lines
from harness.core.drawing import spared
from harness.core.errors import Diverged, Pruned, Unsolvable
from harness.core.fence import require_held
from harness.core.files import remove_leftovers, write_json
from harness.core.progress import told
from harness.core.provenance import commit, machine
from harness.core.rng import stream_seed
from harness.core.signals import Say, Stop
from harness.data.base import spaced
from harness.data.pictures import SHOWN
from harness.evaluation.flow_metrics import straightness
from harness.flow.objective import Objective
from harness.flow.sampling import Trained
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import facts_of
from harness.runs.judge import evaluate, judge_of, require_values
from harness.runs.reflow import fill_pairs, teacher_of
from harness.runs.sample import averaged, paths, picture, restore
from harness.training.advice import diagnoses
from harness.training.diagnostics import spread
from harness.training.distributed import ALONE, Ranks
from harness.training.hardware import device_use
from harness.training.trainer import Callbacks, fit

PATHS = 32
PATH_STEPS = 8
"""Number of paths, and of steps per path, for the straightness during training."""
SPREAD = 2000
"""Number of training samples; their spread is compared with the spread of generated samples."""
Look = Callable[[Trained, int], None]
"""Called with the averaged network and the step whenever a run is sampled during training; may raise `Pruned`."""


def ensure(config: RunConfig, say: Say, stop: Stop, look: Look | None = None, ranks: Ranks = ALONE) -> Run:
    """Train and evaluate the run of a configuration, as far as it is not done yet; return the run.

    Raises `NoValue` (a second call raises it without training or sampling again), `Stopped`, and `look`'s errors. With
    several ranks, the first evaluates.
    """
    run = Run.of(config)
    protocol = config.protocol()
    if ranks.any(ranks.first and not run.gave_up and run.settled(protocol) and run.described):
        require_values(run, protocol)
        return run
    train(run, say, stop, ranks, look)
    if ranks.first:
        evaluate(run, restore(run), judge_of(config, functools.partial(told, say=say), stop), stop)
    return run


def train(run: Run, say: Say, stop: Stop, ranks: Ranks = ALONE, look: Look | None = None) -> None:
    """Train a run from its last step, after the flows that it learns from; return immediately if it is finished.

    With several ranks, only the first writes.
    """
    config = run.config
    if run.parent and not ranks.any(ranks.first and run.finished):
        make_pairs(run, say, stop, ranks)
    torch.set_num_threads(config.train.threads)
    with run.lock() if ranks.first else nullcontext(), threadpool_limits(config.train.threads):
        if ranks.first:
            run.describe(say)
        if ranks.any(ranks.first and run.finished and run.described):  # only the first has waited for the lock
            return
        if error := run.gave_up:
            raise error.told(f"{error} (Remove {run.folder} to train it again.)")
        torch.manual_seed(stream_seed(config.seed, "initial weights"))
        network = config.build(run.data).to(config.train.usable_device())
        if run.parent and config.reflow.warm_start:
            network.load_state_dict(averaged(teacher_of(run)).network.state_dict())
        _fit(run, network, say, stop, ranks, look)
        if ranks.first:
            for line in diagnoses(run.metrics()):
                say(line)


def make_pairs(run: Run, say: Say, stop: Stop, ranks: Ranks = ALONE) -> None:
    """Make the pairs that a run learns, after training the flow that makes them; continues interrupted work."""
    if ranks.first:
        run.pairs.require_room()
    train(teacher_of(run), say, stop, ranks)
    fill_pairs(run, stop, ranks)


def _fit(run: Run, network: nn.Module, say: Say, stop: Stop, ranks: Ranks, look: Look | None) -> None:
    """Take the steps that are left, and write why they end early unless they can go on."""
    config = run.config.train
    objective = _objective(run)
    lines = _prepared(run, network, objective) if ranks.first else None
    with lines or nullcontext():
        callbacks = _callbacks(run, objective, say, stop, look, lines)
        try:
            fit(config, run.config.seed, network, objective, run.data, run.folder / "checkpoints", callbacks, ranks)
        except (Diverged, Pruned) as error:
            if ranks.first:
                callbacks.settle()
                write_json(run.folder / f"{type(error).__name__.lower()}.json", {"reason": str(error)})
            raise


def _prepared(run: Run, network: nn.Module, objective: Objective) -> Lines:
    """Remove leftovers of a kill, write environment.json, and return the metrics.jsonl of this attempt."""
    require_held()
    remove_leftovers(run.folder)
    (run.folder / "pruned.json").unlink(missing_ok=True)
    if run.steps_done < run.config.train.steps or not run.environment:
        _write_environment(run, network, objective)
    return Lines(run.folder / "metrics.jsonl")


def _objective(run: Run) -> Objective:
    """Return the objective of a run, on its data or on its parent's pairs."""
    config = run.config
    noise_state = run.config.noise.learn(run.data)
    device = config.train.resolved_device()
    if run.parent is None:
        return Objective(config, noise_state, device=device)
    learned = config.learned(run.pairs.folder)
    return Objective(learned, noise_state, 1.0 if config.reflow.distil else None, device, config.perceptual)


def _callbacks(
    run: Run, objective: Objective, say: Say, stop: Stop, look: Look | None, lines: Lines | None = None
) -> Callbacks:
    last = run.steps_done
    real = run.data.encode(run.data.train[spaced(SPREAD, len(run.data.train))])
    use = run.environment.get("device_use", {"flops_per_sample": 0.0, "peak_flops": 1.0})

    def log(line: dict[str, float]) -> None:
        nonlocal last
        if "learning_rate_factor" in line:  # training goes back, and the next lines are new
            last = -1
        if line["step"] <= last:  # a resumed run repeats the lines after its checkpoint
            return
        if "samples_per_second" in line:
            line["mfu"] = line["samples_per_second"] * use["flops_per_sample"] / use["peak_flops"]
        assert lines  # only the first rank logs
        lines.add(line)

    def seen(network: nn.Module, step: int) -> dict[str, float]:
        trained = Trained(network, run.config, objective.noise_state, run.config.train.resolved_device())
        number = min(SHOWN[run.data.kind] // 2, run.config.evaluate.batch_size)
        place = run.folder / "samples" / f"step-{step:07d}.png"
        try:
            with spared():
                picture(run, trained, max(run.config.evaluate.nfe), number, place)
        except Unsolvable as error:  # if it lasts, the evaluation reports it
            say(f"no picture of step {step}: {error}")
        if look:
            look(trained, step)
        path = paths(run, trained, 1 if run.config.reflow.distil else PATH_STEPS, PATHS)
        measured = straightness(path)
        if objective.path.alpha(torch.ones(())) < 0.5:  # on other paths, the noise is far too strong for even steps
            measured["sample_spread"] = spread(path[-1].cpu(), real)
        return measured

    def note(name: str, value: str) -> None:
        known = run.environment
        write_json(run.folder / "environment.json", {**known, name: sorted({*known.get(name, []), value})})

    return Callbacks(log, seen, say, stop, lines.sync if lines else lambda: None, note)


def _write_environment(run: Run, network: nn.Module, objective: Objective) -> None:
    earlier: dict[str, list[str]] = {name: run.environment.get(name, []) for name in ("commits", "graph")}
    config = run.config
    trains = commit() if not run.finished else "unknown"  # with the file, the commits of the training were removed
    data = run.data
    write_json(
        run.folder / "environment.json",
        {
            "name": run.name,
            "commits": sorted({*earlier["commits"], trains}),
            "graph": earlier["graph"],
            "machine": machine(),
            "parameters": sum(p.numel() for p in network.parameters()),
            "weight_mean": objective.weight_mean,
            "device_use": device_use(
                network, data.shape, config.train.resolved(), config.train.threads, config.conditional
            ),
            **facts_of(config),
        },
    )
