"""Memory, threads and processes that run out: one line each; a worker's line names the trial."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.execute import trial
from harness.ablation.execute.worker import PlanBoard, work
from harness.core.errors import guarded, named, shortage
from harness.core.tried import NUMBER, tried
from harness.runs.config import RunConfig
from harness.runs.folder import Run

OF_MEMORY: list[Exception] = [
    MemoryError(),
    MemoryError("std::bad_alloc"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB."),
    RuntimeError("unable to mmap 4096 bytes from file </torch_1>: Cannot allocate memory (12)"),
    RuntimeError("It is possible that dataloader's workers are out of shared memory. Please try to raise your limit."),
    RuntimeError("Storage size calculation overflowed with sizes=[9223372036854775807]"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
]
OF_THREADS: list[Exception] = [
    RuntimeError("can't start new thread"),
    RuntimeError("Resource temporarily unavailable"),
    RuntimeError("libgomp: Thread creation failed: Resource temporarily unavailable"),
    BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
]


def told(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command prints about an error."""

    def command() -> None:
        raise error

    assert guarded(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("error", OF_MEMORY, ids=lambda error: str(error)[:40])
def test_memory_that_runs_out_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    said = (
        "What was done is kept; free some, or take smaller batches or fewer workers, then run the same command again."
    )
    line = told(error, capsys)
    assert line.startswith("error: out of memory: ")
    assert line.endswith(f". {said}")


@pytest.mark.parametrize("error", OF_THREADS, ids=lambda error: str(error)[:40])
def test_threads_that_run_out_are_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    line = told(error, capsys)
    assert line.startswith("error: out of threads or processes: ")
    assert "lower train.threads, dataset.workers or --workers" in line


def test_the_real_errors_of_libraries_are_known() -> None:
    """NumPy, torch on its meta device and on a CPU: the requests exceed any machine, so no memory is taken."""
    for large in (
        lambda: np.empty(10**15, dtype=np.float64),
        lambda: torch.empty(10**15),
        lambda: bytearray(10**17),
    ):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            large()
        assert "out of memory" in str(shortage(caught.value))


def test_a_component_without_enough_memory_is_named_and_not_blamed(capsys: pytest.CaptureFixture[str]) -> None:
    class Huge:
        def measure(self) -> torch.Tensor:
            return torch.empty(10**15)

    assert guarded(lambda: tried(Huge(), "measure", due=NUMBER)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"error: {__file__}, line \d+: Huge\.measure: out of memory: .*free some", line)


def test_other_errors_are_none_of_these() -> None:
    for error in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.ENOENT, "gone"),
        ValueError(),
    ):
        assert shortage(error) is None
        with pytest.raises(type(error)) as caught, named("a"):
            raise error
        assert not hasattr(caught.value, "__notes__")


def test_a_thread_that_cannot_start_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert guarded(lambda: threading.Thread().start()) == 2
    assert "error: out of threads or processes: can't start new thread. " in capsys.readouterr().err


@pytest.mark.parametrize("error", [OF_MEMORY[0], OF_MEMORY[3], OF_MEMORY[7], OF_THREADS[0]], ids=lambda e: str(e)[:40])
def test_a_worker_names_its_trial(
    error: Exception, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(name="toy", question="Which?", baseline="a", arms={"a": {}, "b": {"train.steps": 9}}, looks=(3,))
    board = PlanBoard(Plan.of(study, "digits", tiny, {}, 1, []))

    def end(*_: Any, **__: Any) -> Run:
        raise error

    monkeypatch.setattr(trial, "ensure", end)
    assert guarded(lambda: work(board, lambda: False)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: a seed 0: out of (memory|threads or processes): ", line)
    board.refill()
    assert not board.settled()  # the same command runs it again


LARGE_ARM = """
from dataclasses import dataclass
import torch
from harness.components.losses import Loss

@dataclass(frozen=True, kw_only=True)
class Huge(Loss, name="huge"):
    '''Takes more memory than there is, for a whole batch of training alone.'''

    formula = "|e|"

    def measure(self, error):
        return torch.empty(10**15) if len(error) == 31 else error.flatten(1).square().sum(1)
"""


@pytest.mark.slow
def test_a_study_names_the_arm_that_ran_out_of_memory(tmp_path: Any) -> None:
    """The whole command, with its workers."""
    (tmp_path / "huge.py").write_text(LARGE_ARM)
    (tmp_path / "large.py").write_text(
        "from harness.ablation.design.study import Study\n"
        "STUDY = Study(question='?', baseline='small', arms={'small': {}, 'large': {'loss': 'huge'}}, looks=(3,))\n"
    )
    short = [
        "train.steps=4",
        "train.warmup_steps=1",
        "train.batch_size=31",
        "evaluate.num_samples=50",
        "evaluate.num_reference=50",
    ]
    study = ["ablate", str(tmp_path / "large.py"), "--scale", "points", "--workers", "1"]
    study += ["--plugin", str(tmp_path / "huge.py"), *(word for change in short for word in ("--set", change))]
    command = [sys.executable, "-m", "harness", *study]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert re.search(r"^error: large seed 0: out of memory: .*DefaultCPUAllocator", ended.stderr, re.MULTILINE)
    assert "Traceback" not in ended.stderr + ended.stdout
