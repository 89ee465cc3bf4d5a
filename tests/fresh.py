"""Run code in interpreters without any import of the harness: a process with torch and SciPy forks for each piece."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORKING = """
import json, os, sys, traceback
import numpy, scipy.special, torch
answers = []
for code in json.load(sys.stdin):
    assert not any(name.partition(".")[0] == "harness" for name in sys.modules)
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        try:
            exec(code, {"__name__": "__main__"})
        except SystemExit as error:
            if error.code:
                print("exit code", error.code)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answers.append(file.read())
    os.waitpid(child, 0)
print(json.dumps(answers))
"""


def run_fresh(pieces: Sequence[str], folder: Path) -> list[str]:
    """Run pieces of code in `folder`; return the output of each, standard output and error together."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HARNESS_RESULTS": str(folder / "results")}
    result = subprocess.run(
        [sys.executable, "-c", FORKING],
        input=json.dumps(list(pieces)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answers: list[str] = json.loads(result.stdout.splitlines()[-1])
    return answers
