"""Runs commands in this process, with results of their own, and holds them to what every input is promised.

Whatever it is given, a command ends with 0, 2 or 130 and without a traceback. With 2 it says one line that begins with
a place, has trained nothing and has changed no result.
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
"""The scales, study and search that are fuzzed."""
WORK = 12
"""Steps and batches after which a command is asked to stop: the largest of settings takes no longer."""
PATIENCE_S = 120
"""After so long, even on a busy machine, a command hangs."""
_LINE = re.compile(r"error: (?P<place>.+?)(?::| is no ) ?(?P<rest>.+)", re.DOTALL)


def examples(number: int) -> settings:
    """So many examples of the 500 in the default tests, always the same; its share of FUZZ_EXAMPLES otherwise."""
    asked = int(os.environ.get("FUZZ_EXAMPLES", 0))
    return settings(
        max_examples=number * asked // 500 if asked else number,
        derandomize=not asked,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        phases=(Phase.generate, Phase.shrink),
    )


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: object
    out: str
    err: str


@contextlib.contextmanager
def laboratory(folder: Path) -> Iterator[Path]:
    """A folder to work in with the tiny scales and what `finished` runs left; nothing reaches MLflow or a worker.

    Only `make fuzz` draws pictures, and takes what a training measures of itself.
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
    """An MLflow that takes everything and keeps nothing."""
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
    """A picture in no time."""
    Image.new("L", (8, 8)).save(file, "PNG")


def _planned(*given: object) -> None:
    """In the place of workers: a plan that got so far is accepted."""
    raise Stopped("planned")


@contextlib.contextmanager
def results(finished: Path | None = None) -> Iterator[Path]:
    """A results folder of its own, with a copy of what is finished, until the block ends."""
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
    """`harness ARGUMENTS`, with output that takes what a terminal in UTF-8 takes."""
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
    """The same, held to what is promised; `folder` is that of the results.

    Data that are read `lazily`, while they are trained on, may turn out to be damaged after a step.
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
    """Whether what a message says first is a path, a setting, an option, or a word that was given."""
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
    """Whether a file holds something that was trained."""
    return name.endswith((".safetensors", "metrics.jsonl"))


def content(folder: Path) -> dict[str, bytes]:
    """{path: content} of all results; locks and what was sent to MLflow, which every command keeps, do not count."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "mlflow.db")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.parent.name != "tracking"}
