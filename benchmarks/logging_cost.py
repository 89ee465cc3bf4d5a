"""The cost of one report every 50 steps, as a share of those steps: metrics.jsonl, MLflow on SQLite and on a server.

    python -m benchmarks.logging_cost [--reports 100]

Trains the digits scale for some steps with a report after each, and measures the time of a bare step. Then it replays
the reports: it writes a line of metrics.jsonl and updates MLflow, as the mirror's thread does during training. In a
real run, the thread sends every 30 s, several reports at once: these rows say "as sent". The other rows send each
report separately, which is the highest cost. Training does not wait for the thread: the wall time is the thread's. The
server is `mlflow server` on 127.0.0.1 and a free port, with a separate SQLite store.

Prints wall and CPU milliseconds per report (the server's CPU too), and both as a share of 50 bare steps. The progress
bar reads the run once a second; its share is of that second. Goal: under 1 %.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.loops import fresh_results, seconds_bare
from benchmarks.report import Row, publish
from harness.ablation.design.study import load_scale
from harness.core.config import override
from harness.runs.folder import Run
from harness.runs.mlflow_mirror import Mirror
from harness.runs.progress import LOOK_EVERY_S, SEND_EVERY_S, Followed
from harness.runs.train import train

EVERY = 50
"""Steps between two reports."""
Lines = list[dict[str, Any]]


def main() -> None:
    """Measure the metrics file, both stores and the progress bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=100)
    config = override(load_scale("digits"), {"train.steps": parser.parse_args().reports, "train.log_every": 1})
    with fresh_results() as folder:
        step = seconds_bare(config) / config.train.steps
        run = Run.of(config)
        train(run, print, lambda: False)
        trial = Followed(run.name, run, config.protocol(), {}, evaluated=False)
        lines = run.metrics()
        rows = [row("a line of metrics.jsonl", replay(run, lines, lambda: None), EVERY * step)]
        together = max(1, round(SEND_EVERY_S / (EVERY * step)))
        for many, how in ((1, ""), (together, ", as sent")):
            rows.append(
                row(f"MLflow, SQLite{how}", replay(run, lines, sender(trial, f"file{how}"), many), EVERY * step)
            )
        with server(folder / "server", free_port()) as (uri, process):
            os.environ["MLFLOW_TRACKING_URI"] = uri
            for many, how in ((1, ""), (together, ", as sent")):
                rows.append(
                    row(
                        f"MLflow, server{how}",
                        replay(run, lines, sender(trial, f"server{how}"), many, process),
                        EVERY * step,
                    )
                )
            del os.environ["MLFLOW_TRACKING_URI"]
        rows.append(row("progress, once a second", replay(run, lines, trial.progress), LOOK_EVERY_S))
    notes = [
        f"As sent: {together} reports at once, about every {SEND_EVERY_S:g} s.",
        f"A bare step of digits took {1000 * step:.1f} ms; {EVERY} steps took {EVERY * step:.2f} s.",
        "The MLflow rows include the line of metrics.jsonl. Goal: 1 %.",
    ]
    publish("logging_cost", f"Cost of a report every {EVERY} steps", rows, notes)


def replay(
    run: Run, lines: Lines, send: Callable[[], object], many: int = 1, server: int | None = None
) -> tuple[float, float, float]:
    """Write the lines again and send after every `many` lines.

    Returns seconds per line: wall, CPU of this process, CPU of the server.
    """
    path = run.folder / "metrics.jsonl"
    path.unlink()
    wall = time.perf_counter()
    own = time.process_time()
    others = cpu_seconds(server)
    for i, line in enumerate(lines, 1):
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
        if i % many == 0 or i == len(lines):
            send()
    spent = time.perf_counter() - wall, time.process_time() - own, cpu_seconds(server) - others
    return spent[0] / len(lines), spent[1] / len(lines), spent[2] / len(lines)


def sender(trial: Followed, experiment: str) -> Callable[[], None]:
    """Return a function that updates a run in the store of MLFLOW_TRACKING_URI; the record exists already."""
    record = Mirror(experiment).record(trial.run.folder, trial.title, trial.params, {})
    return lambda: record.send_run(trial.run, trial.protocol)


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[tuple[str, int]]:
    """Start an MLflow server; yields its address and process ID, and stops it at the end."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--default-artifact-root", folder.as_uri()]
    process = subprocess.Popen([*command, *stores], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen, patience_s: float = 180) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.5)
    raise SystemExit(f"mlflow server did not answer at {address}")


def cpu_seconds(process: int | None) -> float:
    """Return the CPU seconds of a process and its descendants; 0 for None."""
    total = 0.0
    waiting = [process] if process else []
    while waiting:
        place = Path("/proc") / str(waiting.pop())
        user, system = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
        total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        waiting += [
            int(child) for task in (place / "task").iterdir() for child in (task / "children").read_text().split()
        ]
    return total


def row(what: str, spent: tuple[float, float, float], of: float) -> Row:
    """Return the row of one kind of report; the shares are of `of` seconds."""
    wall, own, others = spent
    return {
        "report": what,
        "wall ms": 1000 * wall,
        "CPU ms": 1000 * own,
        "server's CPU ms": 1000 * others,
        "wall %": round(100 * wall / of, 3),
        "CPU %": round(100 * (own + others) / of, 3),
    }


if __name__ == "__main__":
    main()
