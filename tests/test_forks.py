"""Worker processes: what they inherit from their launcher, and when they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.core.config import override
from harness.core.files import results_folder
from harness.runs.config import RunConfig

SCRIPT = """
import os, sys, time
from pathlib import Path
from harness.ablation.execute import forks
sys.path.insert(0, "")
process = forks.start(Path(sys.argv[1]), Path(sys.argv[2]), {**os.environ, "GIVEN": "1"})
print(process.pid, flush=True)
time.sleep(600)
"""
"""A program that starts a worker when it is imported too, as many notebooks and scripts do."""
PLUGIN = """
import json, os, signal, sys
from dataclasses import dataclass
from pathlib import Path
from harness.components.weightings import Weighting
@dataclass(frozen=True, kw_only=True)
class Mine(Weighting, name="mine"):
    def weight(self, t, interpolant):
        return 1 - t
facts = {
    "folder": os.getcwd(), "given": os.environ["GIVEN"], "path": sys.path, "encoding": sys.stdout.encoding,
    "main": hasattr(sys.modules["__main__"], "forks"), "imported": "torch._dynamo" in sys.modules,
    "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
}
Path("facts.part").write_text(json.dumps(facts))
Path("facts.part").rename("facts.json")
print("\u2193")
"""
FACTS = {"given": "1", "encoding": "utf-8", "main": False, "imported": True, "blocked": 0}
"""What the plugin finds in a worker, besides the launcher's current folder."""
ASKED = """
import sys, torch
def asked(): raise RuntimeError("CUDA starts")
torch._C._cuda_getDeviceCount = torch._C._cuda_init = asked
from harness.ablation.execute.forks import IMPORTED
for name in IMPORTED: __import__(name)
assert not torch.cuda.is_initialized()
"""


def parent(process: int) -> int:
    """Return the process that forked a process."""
    return psutil.Process(process).ppid()


def ended(process: int, seconds: float) -> bool:
    """Wait until a process that is no child of this one has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_worker_starts_in_the_launchers_place_and_ends_with_it(tiny: RunConfig, tmp_path: Path) -> None:
    (plugin := tmp_path / "plugin.py").write_text(PLUGIN)
    endless = override(tiny, {"train.steps": 10**6})
    arms = {"a": {"weighting": "uniform"}, "b": {"weighting": "data_end"}}
    study = Study(name="toy", question="Which?", baseline="a", arms=arms, looks=(3,), nfe=2)
    plan = Plan.of(study, "digits", endless, {}, 1, [plugin])
    (script := tmp_path / "script.py").write_text(SCRIPT)
    log = tmp_path / "worker-0.log"
    command = [sys.executable, str(script), str(plan.write()), str(log)]
    environment = {**os.environ, "HARNESS_RESULTS": str(results_folder()), "PYTHONIOENCODING": "latin-1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as launcher:
        try:
            assert launcher.stdout is not None
            worker = int(launcher.stdout.readline())
            forking = parent(worker)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(forking, number)
            deadline = time.monotonic() + 60
            while not (tmp_path / "facts.json").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert parent(worker) == forking, "a stop signal does not end it"
            launcher.send_signal(signal.SIGKILL)
            assert ended(worker, 60)
            assert ended(forking, 60)
            assert launcher.stdout.read() == "", "the script runs once"
        finally:
            launcher.kill()
    facts = json.loads((tmp_path / "facts.json").read_text())
    path = facts.pop("path")
    assert facts == {**FACTS, "folder": str(tmp_path)}
    assert not {"", str(tmp_path)} & {*path}
    said = log.read_text(encoding="utf-8").splitlines()
    assert said[0] == "\u2193"
    assert said[-1].endswith("What was done is kept; the same command continues.")


def test_the_shared_imports_do_not_start_cuda() -> None:
    """A fork cannot use a CUDA context of its parent."""
    subprocess.run([sys.executable, "-c", ASKED], check=True)
