"""How long one waits before anything happens: imports and the command line.

    python -m benchmarks.startup [--repeat 9]

Each line is measured in processes of its own, in turns, the file cache warm. A command is timed from outside; an import
after another by the clock of the process that does both, since the time of torch itself varies by more than what is
asked. Prints the seconds of each (median, smallest to largest) and the goal.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks.report import Spread, publish

COMMANDS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "harness --help": ["-m", "harness", "--help"],
    "harness list": ["-m", "harness", "list"],
}
AFTER_TORCH = {"import harness, after torch": "harness", "import harness.runs.train, after torch": "harness.runs.train"}
"""{line: module}"""
GOALS = {"import harness, after torch": 0.1, "harness --help": 0.3}


def main() -> None:
    """Measure every line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    turns = [turn() for _ in range(parser.parse_args().repeat + 1)][1:]
    rows = [
        {"what": name, "seconds": Spread.of([turn[name] for turn in turns]), "goal": GOALS.get(name, "")}
        for name in turns[0]
    ]
    notes = [
        "`harness.runs.train` is all that training, sampling and evaluation in Python need: components, data, metrics."
    ]
    publish("startup", "Seconds before anything happens", rows, notes)


def turn() -> dict[str, float]:
    """Every line once."""
    outside = {name: seconds(arguments) for name, arguments in COMMANDS.items()}
    return outside | {name: seconds_of_import(module) for name, module in AFTER_TORCH.items()}


def seconds(arguments: list[str]) -> float:
    """Of a Python process from start to end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def seconds_of_import(module: str) -> float:
    """Of an import in a process that has torch."""
    code = f"import torch, time; started = time.perf_counter(); import {module}; print(time.perf_counter() - started)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
