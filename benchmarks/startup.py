"""The time before anything happens: imports and the command line.

    python -m benchmarks.startup [--repeat 9]

Each row is measured in separate processes, in turns, with a warm file cache. A command is timed from outside. An import
"after torch" is timed inside a process that has already imported torch, because the time of torch itself varies by more
than the import takes. `from harness import *` imports every name that a notebook gets; without the star, they are
imported on first use. Prints the seconds of each (median, smallest to largest) and the goal.
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
AFTER_TORCH = ("import harness", "from harness import *", "import harness.runs.train")
GOALS = {"import harness, after torch": 0.1, "harness --help": 0.3}


def main() -> None:
    """Measure every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    turns = [turn() for _ in range(parser.parse_args().repeat + 1)][1:]
    rows = [
        {"what": name, "seconds": Spread.of([turn[name] for turn in turns]), "goal": GOALS.get(name, "")}
        for name in turns[0]
    ]
    needed = "all that training, sampling and evaluation from Python need: components, data, metrics"
    notes = [f"`harness.runs.train` imports {needed}."]
    publish("startup", "Seconds before anything happens", rows, notes)


def turn() -> dict[str, float]:
    """Measure every row once."""
    outside = {name: seconds(arguments) for name, arguments in COMMANDS.items()}
    return outside | {f"{statement}, after torch": seconds_of_import(statement) for statement in AFTER_TORCH}


def seconds(arguments: list[str]) -> float:
    """Return the seconds of a Python process from start to end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def seconds_of_import(statement: str) -> float:
    """Return the seconds of an import in a process that has imported torch."""
    code = f"import torch, time; started = time.perf_counter(); {statement}; print(time.perf_counter() - started)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
