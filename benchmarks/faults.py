"""What a fault costs: each fault really happens, to processes started as a user starts them.

    python -m benchmarks.faults [--kills 20] [--only FAULT ...]

A training on points runs once undisturbed. Then the same command meets each fault and is repeated until the training is
done. Its run is compared with the undisturbed run: the last checkpoint bit for bit (weights, averages, optimizer,
meters), the lines of metrics.jsonl except times and speeds, the pictures byte for byte. "seen" quotes the terminal.

The small disk is a tmpfs (Linux, `unshare`). The tracker is `mlflow server` on 127.0.0.1. It is stopped for a minute
and started again on the same store; later it is suspended for a minute (SIGSTOP), so that it answers no request.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from benchmarks.disturbed import SETTINGS, Harness, Lab, results_in, status, whole_lines
from benchmarks.logging_cost import free_port, server
from benchmarks.report import Row, publish
from harness.ablation.design.study import load_scale
from harness.core.checkpoint import checkpoints, read_checkpoint, step_of
from harness.core.config import override
from harness.core.errors import Diverged
from harness.flow.objective import Objective, Task
from harness.runs.folder import Run
from harness.runs.train import train

OUTAGE_S = 60.0
SMALL_DISK = "30m"
"""Room for some of the training's checkpoints."""


def main() -> None:
    """Test every chosen fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=list(FAULTS), choices=FAULTS)
    parser.add_argument("--on-small-disk", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.on_small_disk:
        sys.exit(on_small_disk(options.on_small_disk))
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), options.kills)
        rows = []
        for name in options.only:
            print(f"{name} ...", flush=True)
            row = FAULTS[name](lab)
            rows.append({"fault": name, **row, "seen": row["seen"].replace(folder, "...")})
    notes = ["Lost: the difference from an undisturbed run, after the same command was repeated."]
    publish("faults", "What faults cost", rows, notes)


def killed(lab: Lab) -> Row:
    """Send kill -9 at random times, again and again."""
    drawn = random.Random(0)
    results = lab.fresh("killed")
    steps = list[int]()
    for _ in range(lab.kills):
        at_work = Harness(results)
        if drawn.random() < 0.75:  # otherwise the kill hits the start of the process
            at_work.wait_for(at_work.steps() + 1)
        time.sleep(drawn.uniform(0, 1.5))
        at_work.signal(signal.SIGKILL)
        steps.append(at_work.steps())
    last = Harness(results)
    last.end()
    return {
        "tries": lab.kills,
        "lost": lab.lost(results),
        "seen": f"killed at steps {sorted(set(steps))}; {last.saw('continues')}",
    }


def terminated(lab: Lab) -> Row:
    """Send SIGTERM, as a cluster does before it takes the machine away."""
    results = lab.fresh("terminated")
    took = list[float]()
    states = set[str]()
    for i in range(3):
        at_work = Harness(results)
        at_work.wait_for(300 * (i + 1) + 7)
        took.append(at_work.signal(signal.SIGTERM))
        states.add(status(results))
    said = at_work.saw()
    Harness(results).end()
    seen = f"{said} (exit {at_work.process.returncode}, after at most {max(took):.1f} s; MLflow: {', '.join(states)})"
    return {"tries": 3, "lost": lab.lost(results), "seen": seen}


def small_disk(lab: Lab) -> Row:
    """Fill the disk during training; then repeat the command on a disk with room."""
    results = lab.fresh("small")
    results.mkdir()
    inside = ["unshare", "-rm", sys.executable, "-m", "benchmarks.faults", "--on-small-disk", str(results)]
    code = subprocess.run(inside, check=False).returncode
    said = results.with_suffix(".log").read_text().strip().splitlines()
    kept = [step_of(path) for run in results.glob("local/runs/*/checkpoints") for path in checkpoints(run)]
    Harness(results).end()
    return {
        "tries": 1,
        "lost": lab.lost(results),
        "seen": f"{said[-1]} (exit {code}; kept checkpoints of steps {kept})",
    }


def on_small_disk(results: Path) -> int:
    """Train on a small tmpfs at `results`, in a separate mount namespace; then copy the files to the real `results`."""
    kept = results.with_name("kept")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "none", str(results)], check=True)
    at_work = Harness(results, "train.keep_checkpoints=30", uri=f"sqlite:///{results.parent}/small.db")
    code = at_work.process.wait()
    shutil.copytree(results, kept)
    subprocess.run(["umount", str(results)], check=True)
    shutil.copytree(kept, results, dirs_exist_ok=True)
    return code


def damaged(lab: Lab) -> Row:
    """Flip one bit of the newest checkpoint."""
    results = lab.fresh("damaged")
    at_work = Harness(results)
    at_work.wait_for(500)
    at_work.signal(signal.SIGTERM)
    newest = max(next(results.glob("local/runs/*/checkpoints")).glob("*.safetensors"), key=step_of)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again = Harness(results)
    again.end()
    seen = again.saw("is damaged", "continues").replace(str(newest.parent) + "/", ".../")
    return {"tries": 1, "lost": lab.lost(results), "seen": seen}


def not_a_number(lab: Lab) -> Row:
    """Make one target NaN at step 617, the first time only, once for each reaction to divergence."""
    seen = []
    for reaction in ("stop", "restore_and_lower_lr"):
        with results_in(lab.fresh("nan")):
            run = Run.of(override(load_scale("points"), {**SETTINGS, "train.on_divergence": reaction}))
            heard = list[str]()
            original = Objective.task
            injected = list[int]()

            def poisoned(
                self: Objective,
                *a: object,
                original: Callable = original,
                injected: list[int] = injected,
                **named: bool,
            ) -> Task:
                task = original(self, *a, **named)
                if a[2] == 617 and not injected:
                    injected.append(1)
                    task.target[0] = torch.nan
                return task

            Objective.task = poisoned  # type: ignore[method-assign, assignment]
            try:
                train(run, heard.append, lambda: False)
            except Diverged as error:
                heard.append(str(error))
            finally:
                Objective.task = original  # type: ignore[method-assign]
            _, tensors, _ = read_checkpoint(run.folder / "checkpoints", "cpu")
            finite = all(value.isfinite().all() for name, value in tensors.items() if not name.startswith("trainer/"))
            kept = f"checkpoint of step {step_of(max(checkpoints(run.folder / 'checkpoints')))}, all finite: {finite}"
            seen.append(f"{reaction}: {heard[0]} ({kept})")
    return {
        "tries": 2,
        "lost": "no bad step taken" if "False" not in " ".join(seen) else "weights",
        "seen": " | ".join(seen),
    }


def tracker(lab: Lab) -> Row:
    """Stop MLflow's server for a minute, and later suspend it for a minute."""
    results = lab.fresh("tracked")
    port = free_port()
    steps = 16_000
    folder = lab.fresh("server")
    with server(folder, port) as (uri, _):
        at_work = Harness(
            results, f"train.steps={steps}", "train.log_every=100", "train.checkpoint_every=1000", uri=uri
        )
        at_work.wait_for(2000)
    away = at_work.steps()
    time.sleep(OUTAGE_S)
    back = at_work.steps()
    with server(folder, port) as (uri, process):
        at_work.wait_for(back + 1500)
        halted = at_work.steps()
        os.kill(process, signal.SIGSTOP)
        time.sleep(OUTAGE_S)
        os.kill(process, signal.SIGCONT)
        answers = at_work.steps()
        at_work.end()
        path = next(results.glob("local/runs/*/metrics.jsonl"))
        logged = [json.loads(line) for line in whole_lines(path)]
        missing = unlike(uri, logged)
    outages = (away, back), (halted, answers)
    usual = speed(line for line in logged if not any(low < line["step"] <= high for low, high in outages))
    speeds = [speed(line for line in logged if low < line["step"] <= high) / usual for low, high in outages]
    seen = f"{at_work.saw('MLflow')} (meanwhile, training ran at {speeds[0]:.2f} and {speeds[1]:.2f} of its speed)"
    return {"tries": 2, "lost": missing, "seen": seen}


def speed(lines: Iterable[dict[str, float]]) -> float:
    """Return the median of samples per second."""
    return statistics.median(line["samples_per_second"] for line in lines)


def unlike(uri: str, logged: list[dict[str, float]]) -> str:
    """Compare the curves in MLflow with metrics.jsonl: "nothing" if every point came once and in order."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("train")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    for key in ("loss", "grad_norm", "held_out_loss"):
        found = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        expected = [(line["step"], line[key]) for line in logged if key in line]
        if found != expected:
            return f"{key}: {len(found)} points of {len(expected)}"
    return "nothing" if run.info.status == "FINISHED" else f"status {run.info.status}"


def rank(lab: Lab) -> Row:
    """Send kill -9 to one of two ranks under torchrun."""
    results = lab.fresh("ranks")
    at_work = Harness(results, ranks=2)
    at_work.wait_for(400)
    children = (
        (Path("/proc") / str(at_work.process.pid) / "task" / str(at_work.process.pid) / "children").read_text().split()
    )
    os.kill(int(children[-1]), signal.SIGKILL)
    started = time.perf_counter()
    code = at_work.process.wait()
    took = time.perf_counter() - started
    said = at_work.saw("error: ")
    again = Harness(results, ranks=2)
    again.end()
    seen = f"exit {code} after {took:.1f} s, {said}; again: {again.saw('continues')}"
    return {"tries": 1, "lost": lab.lost(results, ranks=2), "seen": seen}


FAULTS: dict[str, Callable[[Lab], Row]] = {
    "kill -9": killed,
    "SIGTERM": terminated,
    "disk full": small_disk,
    "damaged checkpoint": damaged,
    "NaN injected": not_a_number,
    "tracker gone a minute, halted a minute": tracker,
    "rank lost": rank,
}


if __name__ == "__main__":
    main()
