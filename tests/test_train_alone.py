"""`harness train` uses the free cores by default, or those of its run if that was started, and needs no weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.cli import main
from harness.core.config import override, to_dict
from harness.core.errors import UserError
from harness.core.files import runs_folder, write_json
from harness.evaluation.extractors import weights_here
from harness.runs import threads
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.threads import MOST, free_threads, threaded, usable_cores
from harness.runs.validate import check

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.mark.parametrize(
    ("allowed", "cores", "load", "free"),
    [(8, 8, 0.2, 8), (8, 8, 6.4, 2), (8, 4, 0.0, 4), (1, 8, 0.0, 1), (2, 2, 9, 1), (64, 64, 1.0, MOST)],
)
def test_free_threads_are_the_allowed_cores_that_are_not_busy(
    allowed: int, cores: int, load: float, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: allowed)
    monkeypatch.setattr(threads.joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert free_threads() == free


@pytest.fixture
def three_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "free_threads", lambda: 3)


def test_a_new_run_takes_the_free_threads_and_its_name_says_so(tiny: RunConfig, three_free: None) -> None:
    config, said = threaded(tiny)
    assert config == override(tiny, {"train.threads": 3})
    assert Run.of(config).name != Run.of(tiny).name
    assert said.startswith("train.threads=3: ")
    assert "the run's name depends on it" in said


def test_a_run_that_was_begun_keeps_its_threads(tiny: RunConfig, three_free: None) -> None:
    """Also a study's run on one thread; of several runs, the one on the free threads."""
    other = override(tiny, {"train.threads": 2})
    Run.of(other).describe(say=print)
    assert threaded(tiny) == (other, "train.threads=2, as in the run on disk")
    write_json(Run.of(tiny).folder / "owner.json", {})
    assert threaded(tiny) == (other, "train.threads=2, as in the run on disk"), "of a run that has not begun yet"
    Run.of(tiny).describe(say=print)
    assert threaded(tiny)[0].train.threads == 1
    Run.of(override(tiny, {"train.threads": 3})).describe(say=print)
    assert threaded(tiny)[0].train.threads == 3


def test_a_gpu_and_one_process_of_several_keep_the_default(
    tiny: RunConfig, three_free: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = override(tiny, {"train.device": "cuda"})
    assert threaded(on_gpu) == (on_gpu, "")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert threaded(tiny) == (tiny, "")


def options(tiny: RunConfig, **more: str) -> list[str]:
    """Return `--set` options for the network, training and evaluation of `tiny`, without the threads,
    and for `more`.
    """
    plain = to_dict(tiny)
    given = {name: json.dumps(plain[name]) for name in ("backbone", "evaluate")}
    given |= {f"train.{name}": json.dumps(value) for name, value in plain["train"].items() if name != "threads"}
    given |= {"train.steps": "2", "train.warmup_steps": "1"} | {k.replace("__", "."): v for k, v in more.items()}
    return [word for path, value in given.items() for word in ("--set", f"{path}={value}")]


def test_training_asks_for_no_weights_and_evaluating_does(
    tiny: RunConfig,
    tmp_path: Path,
    three_free: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Inception's weights are absent and cannot be downloaded. The command prints its threads; an evaluation prints
    what is missing.
    """
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: pytest.fail("something is downloaded"))
    asked = {"evaluate__extractor": "inception", "evaluate__metrics": '["fid","isc"]'}
    assert main(["train", *options(tiny, **asked)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "train.threads=3: the free cores of this machine" in said
    assert "the weights of inception are not on this machine: training does not need them" in said
    (folder,) = runs_folder().iterdir()
    assert Run.find(folder.name).config.train.threads == 3
    assert Run.find(folder.name).finished

    def unreachable(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    assert main(["evaluate", folder.name]) == 2
    said = capsys.readouterr().err
    assert "no route to host" in said
    assert "Set HARNESS_INCEPTION to the path of a copy." in said
    assert "evaluate.extractor=values" in said
    with pytest.raises(UserError, match="no route to host"):
        check(Run.find(folder.name).config)


def test_threads_that_are_given_are_taken(tiny: RunConfig, three_free: None) -> None:
    assert main(["train", *options(tiny, train__threads="1")]) == 0
    (folder,) = runs_folder().iterdir()
    assert Run.find(folder.name).config.train.threads == 1


def test_weights_that_need_no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_INCEPTION", str(tmp_path / "weights"))
    assert [weights_here(name) for name in ("values", "digits", "inception")] == [True, True, False]
    (tmp_path / "weights").touch()
    assert weights_here("inception")


def test_a_run_that_is_only_trained_passes_all_other_checks(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metrics must be able to read the data, as far as this is known without weights."""
    monkeypatch.setattr("harness.evaluation.protocol.weights_hash", lambda _: pytest.fail("weights are read"))
    assert tiny.protocol(weights=False).digest != ""
    wrong = override(tiny, {"evaluate.metrics": ["energy"]})
    with pytest.raises(ValueError, match="energy reads values"):
        check(wrong, weights=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinities")
def test_the_usable_cores_are_those_of_the_allocation() -> None:
    """A batch system gives a job some cores of a node, by its affinity."""
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    code += "from harness.runs.threads import usable_cores; print(usable_cores())"
    held = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert held.stdout == "1\n"
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
