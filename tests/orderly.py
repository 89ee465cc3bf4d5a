"""Runs commands in this process, with separate results, and checks the promises for any input.

For any input, a command ends with exit code 0, 2 or 130 and without a traceback. With exit code 2 it prints one line
that begins with a place, has trained nothing and has not changed any result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from conftest import leave_out_measurements
from hypothesis import HealthCheck, Phase, settings
from matplotlib.figure import Figure
from PIL import Image

from harness.ablation.design.search import Search
from harness.ablation.design.study import Study
from harness.cli import main
from harness.core.errors import Stopped
from harness.core.signals import StopSignal
from harness.runs.config import RunConfig

OWN = Path(__file__).parent / "fuzz_studies"
"""The scales, the study and the search of the fuzz."""
WORK = 12
"""Steps and batches after which a command must stop, so that large settings do not take longer."""
PATIENCE_S = 120
"""A command that takes longer counts as hanging, even on a busy machine."""
_LINE = re.compile(r"error: (?P<place>.+?)(?::| is no | is not ) ?(?P<rest>.+)", re.DOTALL)


def examples(number: int) -> settings:
    """Run `number` fixed examples by default (200 in all tests together), or the same share of FUZZ_EXAMPLES."""
    asked = int(os.environ.get("FUZZ_EXAMPLES", 0))
    return settings(
        max_examples=number * asked // 200 if asked else number,
        derandomize=not asked,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        phases=(Phase.generate, Phase.shrink),
    )


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a command."""

    code: object
    out: str
    err: str


@contextlib.contextmanager
def laboratory(folder: Path) -> Iterator[Path]:
    """Work in a folder with the tiny scales and the `finished` runs; nothing reaches MLflow or a worker.

    Only `make fuzz` draws pictures and takes the measurements of a training.
    """
    shutil.copytree(OWN, folder / "studies")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for name, below in (("STUDIES", "studies"), ("DATA", "data"), ("RESULTS", "finished")):
            patch.setenv(f"HARNESS_{name}", str(folder / below))
        patch.setattr("harness.runs.mlflow_mirror.connect", lambda uri: _client())
        patch.setattr(StopSignal, "__init__", _begin)
        patch.setattr(StopSignal, "__call__", _asks)
        for place in ("plans.launch", "plan.forecast"):
            patch.setattr(f"harness.cli.{place}", _planned)
        patch.setattr("harness.cli.toy.combinations", _planned)
        if "FUZZ_EXAMPLES" not in os.environ:
            leave_out_measurements(patch)
            patch.setattr(Figure, "savefig", _blank)
        yield folder


def _client() -> MagicMock:
    """An MLflow client that accepts everything and stores nothing."""
    client = MagicMock()
    client.get_experiment_by_name.return_value.configure_mock(experiment_id="1", lifecycle_stage="active")
    client.create_run.return_value.info.run_id = "run"
    client.get_run.return_value.info.lifecycle_stage = "active"
    client.search_runs.return_value = []
    return client


def _begin(self: StopSignal, also: object = None) -> None:
    self.left = WORK  # type: ignore[attr-defined]


def _asks(self: StopSignal) -> bool:
    self.left -= 1  # type: ignore[attr-defined]
    return self.left < 0  # type: ignore[attr-defined]


def _blank(figure: Figure, file: io.BytesIO, **named: object) -> None:
    """Save a tiny picture instead of the figure."""
    Image.new("L", (8, 8)).save(file, "PNG")


def _planned(*given: object) -> None:
    """Replaces the workers: a plan that reaches this point is accepted."""
    raise Stopped("planned")


@contextlib.contextmanager
def results(finished: Path | None = None) -> Iterator[Path]:
    """Use a separate results folder with a copy of the finished runs until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="results-", dir=Path.cwd()))
    if finished:
        shutil.copytree(finished, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def run(*arguments: str) -> Ended:
    """Run `harness ARGUMENTS` with output as strict as a UTF-8 terminal."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", how, write_through=True) for how in ("strict", "backslashreplace")
    )
    torch.set_num_threads(1)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(PATIENCE_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: object = main(arguments)
    except SystemExit as ended:  # argparse
        code = ended.code
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
    return Ended(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def _hangs(number: int, frame: object) -> None:
    raise TimeoutError(f"{PATIENCE_S} s and no end")


def held(folder: Path, *arguments: str, lazily: bool = False) -> Ended:
    """Run a command and check the promises; `folder` is the results folder.

    Data that are read `lazily`, during training, may turn out to be damaged after a step.
    """
    before = content(folder)
    ended = run(*arguments)
    found_faults = ended.code == 1 and "doctor" in arguments and "prevents training: " in ended.out
    assert ended.code in (0, 2, 130) or found_faults, ended
    if ended.code == 2:
        (line,) = ended.err.splitlines()
        assert (found := _LINE.fullmatch(line)), line
        assert _is_place(found["place"], line.partition("error: ")[2], arguments), line
        after = content(folder)
        assert {name: after.get(name) for name in before} == before, line
        trained = [name for name in after.keys() - before.keys() if _is_trained(name)]
        assert not trained or lazily or "training diverged" in line, line
    return ended


def _is_place(said: str, message: str, arguments: tuple[str, ...]) -> bool:
    """Whether a message begins with a path, a setting, an option, or a given word."""
    given = [argument.encode("utf-8", "backslashreplace").decode() for argument in arguments]
    words = {word for argument in given for word in re.split(r"[=,]", argument) if word}
    heads = {field.name for kind in (RunConfig, Study, Search) for field in dataclasses.fields(kind)} | {"space"}
    return bool(
        "/" in said or said.startswith(("'", "--", "arm '", "argument ", "the following arg"))
        or re.split(r"[.\[]", said)[0] in heads
        or any(word in said for word in words)
        or message.startswith(tuple(word for word in given if word))
    )  # fmt: skip


def _is_trained(name: str) -> bool:
    """Whether a file comes from training."""
    return name.endswith((".safetensors", "metrics.jsonl"))


def content(folder: Path) -> dict[str, bytes]:
    """Return {path: content} of all results, without locks and MLflow's files, which every command may write."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "mlflow.db")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.parent.name != "tracking"}
