"""What is done with a run: it is trained, restored, sampled and judged; each continues where it stands."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from harness.checkpoint import checkpoints, combine, part, read_checkpoint, step_of
from harness.components.solvers import Euler
from harness.components.time_grids import UniformGrid
from harness.config import override, to_dict
from harness.data.base import load, spaced
from harness.data.pictures import SHOWN, draw
from harness.environment import commit, machine
from harness.errors import Diverged, NoValue, Pruned, Stopped, Unsolvable, UserError
from harness.evaluation.flow import SMALL_SET, Flow, straightness
from harness.evaluation.judge import Batch, Judge, Parts
from harness.evaluation.protocol import Protocol
from harness.files import drop_torn_line, remove_leftovers, write_json
from harness.identity import facts_of
from harness.objective import Objective
from harness.rng import stream_seed
from harness.runs import Run, RunConfig
from harness.sampling import Generated, NetworkField, generate
from harness.training.advice import diagnoses
from harness.training.diagnostics import spread
from harness.training.distributed import ALONE, Ranks
from harness.training.hardware import compiled, device_use, laid_out, products
from harness.training.trainer import Callbacks, fit

PATHS, PATH_STEPS = 32, 8
"""The paths whose straightness is measured during training."""
SPREAD = 2000
"""Training samples with whose spread that of the samples is compared."""

Say = Callable[[str], None]
Stop = Callable[[], bool]


@dataclass
class Trained:
    """A trained network with what sampling needs beside it."""

    network: nn.Module
    noise_state: Mapping[str, Tensor]


Look = Callable[[Trained, int], None]
"""Takes the averaged network and the step wherever a run is sampled while it trains; may raise `Pruned`."""


def ensure(config: RunConfig, say: Say, stop: Stop, look: Look | None = None) -> Run:
    """The run of a configuration, trained and evaluated: what is done is kept, what was begun continues.

    Raises `NoValue` (a second time without training or sampling again), `Stopped` and what `look` raises.
    """
    run, data = Run.of(config), load(config.dataset)
    protocol = Protocol.of(config.evaluate, data)
    if not run.gave_up and run.settled(protocol):
        _require_values(run, protocol)
        return run
    train(run, say, stop, look=look)
    evaluate(run, restore(run), Judge(config.evaluate, data, config.train.resolved_device(), stop=stop), stop)
    return run


def train(run: Run, say: Say, stop: Stop, ranks: Ranks = ALONE, look: Look | None = None) -> None:
    """Train a run from where it stands, and before it what it learns from; at once when it is finished.

    Of several ranks, the first alone writes.
    """
    config, data, device = run.config, load(run.config.dataset), run.config.train.resolved_device()
    if run.parent and not ranks.any(ranks.first and run.finished):
        make_pairs(run, say, stop, ranks)
    torch.set_num_threads(config.train.threads)
    with run.lock() if ranks.first else nullcontext(), threadpool_limits(config.train.threads):
        if ranks.first and not (run.folder / "config.json").exists():
            write_json(run.folder / "config.json", to_dict(run.config))
        if ranks.any(ranks.first and run.finished):  # the first alone has waited for who was here before
            return
        if error := run.gave_up:
            raise error.told(f"{error} (Remove {run.folder} to train it again.)")
        torch.manual_seed(stream_seed(config.seed, "initial weights"))
        network = config.build(data).to(device)
        if run.parent and config.reflow.warm_start:
            network.load_state_dict(_averaged(_teacher(run))[0].state_dict())
        objective = _objective(run)
        if ranks.first:
            _prepare(run, network, objective)
        callbacks = _callbacks(run, objective, say, stop, look)
        try:
            fit(config.train, config.seed, network, objective, data, run.folder / "checkpoints", callbacks, ranks)
        except (Diverged, Pruned) as error:
            if ranks.first:
                write_json(run.folder / f"{type(error).__name__.lower()}.json", {"reason": str(error)})
            raise
        if ranks.first:
            for line in diagnoses(run.metrics()):
                say(line)


def _prepare(run: Run, network: nn.Module, objective: Objective) -> None:
    """Clear away what a kill left, and note where the run comes from."""
    remove_leftovers(run.folder)
    (run.folder / "pruned.json").unlink(missing_ok=True)
    drop_torn_line(run.folder / "metrics.jsonl")
    if run.steps_done < run.config.train.steps:
        _write_environment(run, network, objective)


def make_pairs(run: Run, say: Say, stop: Stop, ranks: Ranks = ALONE) -> None:
    """Make the pairs that a run learns, after training the flow that makes them; what is there is kept, what was begun continues.

    All ranks train, and the first makes the pairs.
    """
    pairs, teacher = run.pairs, _teacher(run)
    if ranks.first:
        pairs.require_room()
    made = _made(run, teacher)
    train(teacher, say, stop, ranks)
    if ranks.first:
        with pairs.lock():
            if not (pairs.about or pairs.failed):
                try:
                    _fill(run, teacher, made, stop)
                except NoValue as error:
                    pairs.fail(error.told(f"no pairs can be made of {teacher.name}: {error}"))
    while not (pairs.about or pairs.failed):  # another rank's, which may take hours
        if stop():
            raise Stopped("stopped while the first rank makes pairs")
        time.sleep(1.0)
    if failed := pairs.failed:
        raise failed
    pairs.check(made)


def _teacher(run: Run) -> Run:
    """The parent of a run, with the average of its weights that makes the pairs."""
    assert run.parent is not None
    return Run.of(override(run.parent.config, {"evaluate.average": run.config.reflow.average, "evaluate.checkpoint": "last"}))


def _made(run: Run, teacher: Run) -> dict[str, Any]:
    """What pairs.json says of who made the pairs of a run, and how."""
    settings = to_dict(dataclasses.replace(run.config.reflow, teacher=None, guidance=run.config.pairs_guidance))
    names = ("solver", "time_grid", "nfe", "guidance", "average", "batch_size")
    return {"teacher": teacher.name, "made": {name: settings[name] for name in names}}


def _fill(run: Run, teacher: Run, made: Mapping[str, Any], stop: Stop) -> None:
    """Make the pairs that are missing."""
    reflow, config, data, trained = run.config.reflow, teacher.config, load(run.config.dataset), restore(teacher)
    writer = run.pairs.writer(reflow.batch_size)
    begun, calls, started = writer.done, 0, time.perf_counter()
    with threadpool_limits(config.train.threads), products("fp32"):
        torch.set_num_threads(config.train.threads)
        for batch in generate(
            trained.network, config, trained.noise_state, reflow.solver, reflow.time_grid, reflow.nfe, data.shape,
            reflow.number, reflow.batch_size, (config.seed, "pairs", config.rectified + 1), config.train.resolved_device(),
            data.classes if config.conditional else None, run.config.pairs_guidance, first=begun // reflow.batch_size,
        ):  # fmt: skip
            if not batch.x.isfinite().all():
                raise Diverged(f"its samples at NFE {reflow.nfe} are not finite.")
            writer.add(
                {"x0": batch.x.cpu().numpy(), "x1": batch.noise.cpu().numpy()} | ({} if batch.y is None else {"y": batch.y.cpu().numpy()})
            )
            calls += batch.calls * len(batch.x)
            if stop():
                raise Stopped(f"stopped after {writer.done} of {reflow.number} pairs")
    new = writer.done - begun
    rate = new / (time.perf_counter() - started)
    writer.finish({**made, "calls": calls / new, "pairs_per_second": rate, "commit": commit(), "machine": machine()})


def _objective(run: Run) -> Objective:
    """What a run minimises: on its data, or on the pairs that its parent made."""
    config, noise_state = run.config, run.config.noise.learn(load(run.config.dataset))
    device = config.train.resolved_device()
    if run.parent is None:
        return Objective(config, noise_state, device=device)
    return Objective(config.learned(run.pairs.folder), noise_state, 1.0 if config.reflow.distil else None, device)


def restore(run: Run) -> Trained:
    """The network of a finished run as its `evaluate` says, from its checkpoints."""
    network, noise_state = _averaged(run)
    return Trained(compiled(network.eval(), run.config.train.resolved()["compile"]), noise_state)


def _averaged(run: Run) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The network and the noise's state of a finished run."""
    config, data, device, folder = run.config, load(run.config.dataset), run.config.train.resolved_device(), run.folder / "checkpoints"
    step, saved, _ = read_checkpoint(folder, device)
    if step < config.train.steps:
        raise UserError(f"{run.name}: trained for {step} of {config.train.steps} steps. Run `harness train` with its settings first.")
    for name, value in part(saved, "data").items():
        if not torch.equal(value.cpu(), data.statistics.get(name, torch.empty(0))):
            raise UserError(f"{run.name}: the data's {name} is not what it was trained with. Bring the same data back, or train again.")
    if config.evaluate.checkpoint == "best":
        _, saved, _ = read_checkpoint(folder / "best", device)
        if not saved:
            raise UserError(f"{run.name}: its best checkpoint is missing or damaged. Set evaluate.checkpoint=last.")
    network = laid_out(config.build(data).to(device), data.shape, config.train.channels_last)
    network.load_state_dict(part(saved, "network"))
    steps = sorted(map(step_of, checkpoints(folder / "snapshots")))
    terms = config.evaluate.average.terms(config.train.decays, steps)
    network.load_state_dict(combine(saved, folder / "snapshots", terms), strict=False)
    return network, part(saved, "noise")


def evaluate(run: Run, trained: Trained, judge: Judge, stop: Stop) -> None:
    """Add to the run what `judge` says at every NFE that it has not been judged at; each is written when it is known.

    Raises `NoValue` at the end where something has no value; what has one is kept.
    """
    torch.set_num_threads(run.config.train.threads)
    with run.lock(), threadpool_limits(run.config.train.threads), products("fp32"):
        for nfe in run.missing(judge.protocol):
            _evaluate_at(run, trained, judge, nfe, stop)
        _evaluate_flow(run, trained, judge.protocol)
    _require_values(run, judge.protocol)


def _require_values(run: Run, protocol: Protocol) -> None:
    """`NoValue` where something that the run's configuration asks for failed."""
    if error := run.failure(protocol):
        raise error.told(f"{error} (Remove {run.evaluation_file(protocol)} to try again.)")


def _evaluate_at(run: Run, trained: Trained, judge: Judge, nfe: int, stop: Stop) -> None:
    """What the samples at one NFE are judged to be; continues where it was cut short."""
    place, started = run.parts(judge.protocol, nfe), time.perf_counter()
    parts = Parts(place)
    batches = samples(run, trained, nfe, run.config.evaluate.num_samples, first=parts.batches)
    try:
        found, rows = judge.estimates(_timed(batches, stop), parts, SHOWN[judge.data.kind])
    except NoValue as error:
        run.note_failure(judge.protocol, str(nfe), error)
        return parts.clear()
    draw(judge.data, rows["shown"][: SHOWN[judge.data.kind]], run.folder / "samples" / f"{judge.protocol.digest}-nfe-{nfe:04d}.png")
    known, text, calls = run.evaluation(judge.protocol), str(nfe), rows["calls"].double()
    for metric, estimate in found.items():
        known["values"].setdefault(metric, {})[text] = estimate.value
        if estimate.interval:
            known["intervals"].setdefault(metric, {})[text] = estimate.interval
    known["seconds"][text], known["sampling_seconds"][text] = time.perf_counter() - started, rows["seconds"].sum().item()
    known["time"][text], known["calls"][text] = time.time(), {"mean": calls.mean().item(), "sd": calls.std(correction=0).item()}
    run.write_evaluation(judge.protocol, known)
    parts.clear()


def _evaluate_flow(run: Run, trained: Trained, protocol: Protocol) -> None:
    """What the flow itself is measured to be."""
    if not (missing := run.flow_missing(protocol)):
        return

    @torch.no_grad()
    def field(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return NetworkField(trained.network, run.config, trained.noise_state, y)(x, t)

    path = functools.cache(functools.partial(paths, run, trained))
    variance = run.config.noise.variance(trained.noise_state)
    flow = Flow(path, field, run.config, variance, functools.cache(functools.partial(_real, run)), run.config.seed)
    for metric in missing:
        if not math.isfinite(value := metric.measure(flow)):
            run.note_failure(protocol, metric.name, Diverged(f"{metric.name} is {value}."))
            continue
        known = run.evaluation(protocol)
        known["values"].setdefault(metric.name, {})[str(metric.nfe)] = value
        known["time"].setdefault(str(metric.nfe), time.time())
        run.write_evaluation(protocol, known)


def _real(run: Run) -> tuple[Tensor, Tensor | None]:
    """Encoded training samples on the device, at most `SMALL_SET`, and their classes where the network is told some."""
    data, device = load(run.config.dataset), run.config.train.resolved_device()
    rows = spaced(SMALL_SET, len(data.train))
    classes = data.classes[rows].to(device) if run.config.conditional and data.classes is not None else None
    return data.encode(data.train[rows]).to(device), classes


def samples(
    run: Run, trained: Trained, nfe: int, number: int, label: int | None = None, visited: list[Tensor] | None = None, first: int = 0
) -> Iterator[Generated]:
    """Batches of decoded samples, on the device; the noise depends on the run's seed alone.

    Classes come as often as in training, or are all `label`. `visited` collects x, encoded, wherever the network is called.
    `first` batches are left out.
    """
    config, data, device = run.config, load(run.config.dataset), run.config.train.resolved_device()
    classes = data.classes if config.conditional else None
    batches = generate(
        trained.network, config, trained.noise_state, config.evaluate.solver, config.evaluate.time_grid, nfe, data.shape,
        number, config.evaluate.batch_size, (config.seed, "evaluation"), device,
        classes if label is None else torch.tensor([label]), config.evaluate.guidance, visited, first,
    )  # fmt: skip
    return (batch._replace(x=data.decode(batch.x)) for batch in batches)


def picture(run: Run, trained: Trained, nfe: int, number: int, path: Path, label: int | None = None) -> None:
    """Draw samples as their kind of data is drawn: points with the way that they came."""
    data, visited = load(run.config.dataset), list[Tensor]()
    shown = [batch.x for batch in samples(run, trained, nfe, number, label, visited if load(run.config.dataset).kind == "points" else None)]
    whole = [x for x in visited if len(x) == len(shown[0])][: len(visited) // len(shown)]
    draw(data, torch.cat(shown).cpu(), path, trajectories=whole)


def _callbacks(run: Run, objective: Objective, say: Say, stop: Stop, look: Look | None) -> Callbacks:
    last, path, data = run.steps_done, run.folder / "metrics.jsonl", load(run.config.dataset)
    real = data.encode(data.train[spaced(SPREAD, len(data.train))])
    use = run.environment.get("device_use", {"flops_per_sample": 0.0, "peak_flops": 1.0})

    def log(line: dict[str, float]) -> None:
        nonlocal last
        if "learning_rate_factor" in line:  # training goes back, and what follows is new
            last = -1
        if line["step"] <= last:  # a resumed run repeats what it had logged after its checkpoint
            return
        if "samples_per_second" in line:
            line["mfu"] = line["samples_per_second"] * use["flops_per_sample"] / use["peak_flops"]
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def seen(network: nn.Module, step: int) -> dict[str, float]:
        trained, number = Trained(network, objective.noise_state), min(SHOWN[data.kind] // 2, run.config.evaluate.batch_size)
        try:
            picture(run, trained, max(run.config.evaluate.nfe), number, run.folder / "samples" / f"step-{step:07d}.png")
        except Unsolvable as error:  # at the end, if it stays so, the evaluation says it
            say(f"no picture of step {step}: {error}")
        if look:
            look(trained, step)
        path = paths(run, trained, 1 if run.config.reflow.distil else PATH_STEPS, PATHS)
        return straightness(path) | {"sample_spread": spread(path[-1].cpu(), real)}

    return Callbacks(log, seen, say, stop)


def paths(run: Run, trained: Trained, steps: int, number: int) -> list[Tensor]:
    """Where `number` samples are on their way by Euler's method, without guidance, in equal steps; classes come as in `samples`."""
    visited, data, device = list[Tensor](), load(run.config.dataset), run.config.train.resolved_device()
    at_once = min(number, run.config.evaluate.batch_size)
    ends = generate(
        trained.network, run.config, trained.noise_state, Euler(), UniformGrid(), steps, data.shape, number, at_once,
        (run.config.seed, "paths"), device, data.classes if run.config.conditional else None, visited=visited,
    )  # fmt: skip
    end = torch.cat([batch.x for batch in ends])
    return [*(torch.cat(visited[i::steps]) for i in range(steps)), end]


def _write_environment(run: Run, network: nn.Module, objective: Objective) -> None:
    earlier, config, data = run.environment.get("commits", []), run.config, load(run.config.dataset)
    write_json(
        run.folder / "environment.json",
        {
            "name": run.name,
            "commits": sorted({*earlier, commit()}),
            "machine": machine(),
            "parameters": sum(p.numel() for p in network.parameters()),
            "weight_mean": objective.weight_mean,
            "device_use": device_use(network, data.shape, config.train.resolved(), config.train.threads, config.conditional),
            **facts_of(config),
        },
    )


def _timed(batches: Iterable[Generated], stop: Stop) -> Iterator[Batch]:
    """The same batches for a judge, with the seconds that they took."""
    started = time.perf_counter()
    for x, y, calls, _ in batches:
        if x.is_cuda:
            torch.cuda.current_stream().synchronize()
        if stop():
            raise Stopped("stopped while evaluating")
        yield Batch(x, y, calls, time.perf_counter() - started)
        started = time.perf_counter()
