"""A GPU in a few minutes: what a training step costs as written, compiled and as one CUDA graph, and whether all agree.

    python -m benchmarks.gpu_check 1     # the network of CIFAR-10, in less than 8 minutes
    python -m benchmarks.gpu_check 2     # the digits, and several trials at a time, in less than 4 minutes

Each variant is a separate process with a time limit, so that one which fails or hangs costs only its row, and a part
begins no row late. A variant takes the first steps, which libraries and compilation use, then is timed for some
seconds. `away` is the distance of its weights after these first steps in fp32 from those of the steps as written, as a
share of their norm; the row "as written, again" shows how far rounding alone goes, since a GPU adds in any order. The
file with the numbers is written after every row.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.loops import at_hand, now
from benchmarks.report import publish
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_study
from harness.ablation.execute.placement import Placement, measure
from harness.core.config import override
from harness.core.errors import Stopped
from harness.data.base import load
from harness.flow.objective import Objective
from harness.flow.sampling import SamplingConfig, Trained, generate
from harness.runs.config import RunConfig
from harness.training.captured import WARM_UP
from harness.training.diagnostics import MEMORY
from harness.training.hardware import device_use, laid_out, matmul_precision
from harness.training.inference import Inference, in_precision
from harness.training.trainer import Callbacks, fit

FIRST = MEMORY + WARM_UP + 10
"""Steps before the timing; a graph is recorded among them."""
QUIET: dict[str, Any] = {f"train.{name}_every": 10**8 for name in ("log", "sample", "checkpoint")}
QUIET |= {"train.steps": 10**8, "train.compile": "off"}
VARIANTS: dict[str, dict[str, Any]] = {
    "as written": {},
    "graph": {"train.graph": "on"},
    "compiled": {"train.compile": "default"},
    "compiled, graph": {"train.compile": "default", "train.graph": "on"},
    "as written, row major": {"train.channels_last": False},
    "graph, row major": {"train.channels_last": False, "train.graph": "on"},
    "graph, cudnn.benchmark": {"train.graph": "on"},
    "compiled, graph, cudnn.benchmark": {"train.compile": "default", "train.graph": "on"},
    "graph, optimal transport drawn ahead": {"train.graph": "on", "coupling": "exact_ot"},
    **{
        f"sampling, {precision}{graph}": {"train.graph": graph[2:] or "off", "evaluate.precision": precision}
        for precision in ("fp32", "tf32", "bf16")
        for graph in ("", ", on")
    },
}
"""{name: changes}. A variant named after cudnn.benchmark sets it too; one named `sampling` draws samples."""
FEW = ("as written", "graph", "compiled", "compiled, graph")
"""The variants of part 2."""
AGREEING = ("as written", "as written, again", "graph", "compiled, graph")
PARTS = {1: ("cifar10", 8.0, 75.0, 450.0), 2: ("digits", 3.0, 25.0, 220.0)}
"""{part: scale, seconds that a variant is timed, that its process may take, and after which none begins}"""
SIDE_BY_SIDE = (1, 4, 8)
EMPTY = {"ms a step": "", "samples/s": "", "MFU": "", "peak GB": "", "away": ""}


def main() -> None:
    """Measure a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", type=int, choices=PARTS)
    parser.add_argument("--scale", help="another scale, to try the benchmark")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    scale, seconds, limit, budget = PARTS[options.part]
    scale = options.scale or scale
    if options.only:
        (changes,) = (own for name, own in VARIANTS.items() if name == options.only.removesuffix(", again"))
        config = override(at_hand(load_scale(scale)), {**QUIET, **changes})
        first = options.only == "as written"
        torch.backends.cudnn.benchmark = "cudnn.benchmark" in options.only
        if options.only.startswith("sampling"):
            print(json.dumps(sampled(config, seconds)))
        else:
            print(json.dumps(agreed(config, options.weights, first) if options.weights else timed(config, seconds)))
        return
    command = [sys.executable, "-m", "benchmarks.gpu_check", str(options.part), "--scale", scale]
    ends = time.monotonic() + budget
    report(options.part, scale, command, lambda: max(1.0, min(limit, ends - time.monotonic())))


def report(part: int, scale: str, command: list[str], limit: Callable[[], float]) -> None:
    """Measure every row within a limit of seconds, and write the table after each."""
    rows = list[dict[str, Any]]()
    notes = list[str]()
    tell = functools.partial(publish, f"gpu_check-{part}", f"Training steps of {scale}", rows, notes)
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys((*(VARIANTS if part == 1 else FEW), *AGREEING)):
            if limit() <= 1:
                break
            found = {} if name.endswith("again") else said([*command, "--only", name], limit())
            notes += [f"{name}: {line}" for line in [found.pop("said", "")] if line]
            if name in AGREEING:
                found |= said([*command, "--only", name, "--weights", f"{folder}/weights.pt"], limit())
            notes += [f"{name}, weights: {line}" for line in [found.pop("said", "")] if line]
            rows.append({"variant": name, **EMPTY, **found})
            tell()
    for number in SIDE_BY_SIDE if part == 2 and torch.cuda.is_available() else ():
        for graph in ("off", "on") if limit() > 1 else ():
            plan = Plan.of(
                load_study("weighting"), scale, override(load_scale(scale), {"train.graph": graph}), {}, 1, []
            )
            rate = measure(plan, Placement(number, 1, 1))
            rows.append({"variant": f"{number} trials, graph {graph}", **EMPTY, "samples/s": round(rate)})
            tell()


def said(command: list[str], limit: float) -> dict[str, Any]:
    """Return what a process prints as JSON, or why it printed nothing."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"said": f"nothing within {limit:g} s"}
    if ended.returncode:
        return {"said": (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1][:200]}
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def timed(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Train until the steps after the first have taken some seconds; return their time and the device's use."""
    marks = list[tuple[int, float]]()
    taken = -1

    def stop() -> bool:
        nonlocal taken
        taken += 1
        if taken == FIRST:
            marks.append((taken, now()))
        if taken > FIRST and taken % 10 == 0:
            marks.append((taken, now()))
            return marks[-1][1] - marks[0][1] > seconds
        return False

    lines, use = trained(config, stop)
    first, began = marks[0]
    last, ended = marks[-1]
    rate = config.train.batch_size * (last - first) / (ended - began)
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    return {
        "ms a step": 1000 * (ended - began) / (last - first), "samples/s": rate,
        "MFU": rate * use["flops_per_sample"] / use["peak_flops"], "peak GB": peak, "said": " ".join(lines),
    }  # fmt: skip


def sampled(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Draw batches from an untrained network by 10 calls of Euler's method for some seconds; return the rate."""
    torch.manual_seed(0)
    data = load(config.dataset)
    device = config.train.resolved_device()
    how = config.evaluate.precision
    network: nn.Module = laid_out(config.build(data).to(device), data.shape, config.train.channels_last)
    network = in_precision(Inference(network, device == "cuda" and config.train.graph == "on"), how, device)
    trained = Trained(network, config, config.noise.learn(data), device)
    sampling = SamplingConfig(batch_size=config.evaluate.batch_size)
    done = 0
    with matmul_precision("fp32"):
        for batch in generate(trained, sampling, 10, data.shape, 10**9, (0, "samples")):
            if not done:  # the first batch chooses kernels and records graphs
                began = now()
            elif now() - began > seconds:
                break
            done += len(batch.x)
        rate = done / (now() - began)  # the last batch is timed and not counted, the first one counted and not timed
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    return {"ms a step": 1000 * sampling.batch_size / rate, "samples/s": rate, "peak GB": peak}


def agreed(config: RunConfig, kept: Path, first: bool) -> dict[str, Any]:
    """Take the first steps in fp32; keep the weights of the `first` variant, else return the distance from these."""
    calls = iter(range(FIRST + 20))
    weights = list[Tensor]()
    trained(override(config, {"train.precision": "fp32"}), lambda: next(calls, None) is None, weights.append)
    if first:
        torch.save(weights[0], kept)
        return {"away": 0.0}
    if not kept.exists():
        return {"said": "there are no weights of the steps as written to compare with"}
    before = torch.load(kept, weights_only=True)
    return {"away": ((weights[0] - before).norm() / before.norm()).item()}


def trained(
    config: RunConfig, stop: Callable[[], bool], ended: Callable[[Tensor], None] = lambda weights: None
) -> tuple[list[str], dict[str, float]]:
    """Train until `stop`; return what training said and the device's use, and call `ended` with all weights."""
    torch.set_num_threads(config.train.threads)
    torch.manual_seed(0)
    data = load(config.dataset)
    chosen = config.train.resolved()
    network = config.build(data).to(chosen["device"])
    use = device_use(network, data.shape, chosen, config.train.threads, config.conditional)
    objective = Objective(config, config.noise.learn(data), device=chosen["device"])
    lines = list[str]()
    callbacks = Callbacks(lambda line: None, lambda shown, step: {}, lines.append, stop)
    rate = dataclasses.replace(config.train, learning_rate=1e-4, warmup_steps=0)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Stopped):
        fit(rate, 0, network, objective, data, Path(folder), callbacks)
    ended(torch.cat([weight.detach().float().flatten().cpu() for weight in network.parameters()]))
    return lines, use


if __name__ == "__main__":
    main()
