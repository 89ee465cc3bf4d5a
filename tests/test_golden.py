"""Golden numbers and names: losses, a FID and the names of runs, pairs and evaluations, as earlier
code produced them.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from golden_cases import GOLDEN, STEPS, first_fid, losses_of, named, names_of, scales, stored

from harness.core.files import read_json
from harness.evaluation import protocol
from harness.evaluation.protocol import EVALUATION_VERSION
from harness.runs import identity
from harness.runs.folder import Run
from harness.runs.identity import NUMERICS_VERSION
from harness.runs.train import ensure

NUMBERS = read_json(GOLDEN / "numbers.json")
NAMES = read_json(GOLDEN / "names.json")
AGAIN = (
    "Where the new numbers are meant, raise the version, write its reason there, and run python tests/golden_cases.py."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


def test_the_files_are_of_these_versions() -> None:
    for kept in (NUMBERS, NAMES):
        assert (kept["numerics_version"], kept["evaluation_version"]) == (NUMERICS_VERSION, EVALUATION_VERSION), AGAIN


@pytest.mark.parametrize(
    ("module", "name", "version"),
    [(identity, "NUMERICS_VERSION", NUMERICS_VERSION), (protocol, "EVALUATION_VERSION", EVALUATION_VERSION)],
)
def test_a_raised_version_names_its_reason(module: Any, name: str, version: int) -> None:
    source = Path(module.__file__).read_text()
    said = re.search(rf'^{name} = {version}\n"""(.*?)"""', source, re.DOTALL | re.MULTILINE)
    assert said
    assert re.search(rf"^{version}: \w", said.group(1), re.MULTILINE) or version == 1


def test_every_scale_has_golden_losses(folder: Path) -> None:
    assert scales(folder).keys() == NUMBERS["losses"].keys()


SLOW = {"fashion_small"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NUMBERS["losses"]]
)
def test_twenty_steps_have_the_golden_losses(name: str, folder: Path) -> None:
    found = losses_of(scales(folder)[name])
    assert len(found) == STEPS
    # where two pairings cost nearly the same, the processor's rounding decides which one exact transport takes
    rel = 3e-3 if name == "transport" else 1e-5
    assert found == pytest.approx(NUMBERS["losses"][name], rel=rel), AGAIN


def test_the_first_fid_of_digits_is_the_golden_one(folder: Path) -> None:
    assert first_fid(scales(folder)["digits"]) == pytest.approx(NUMBERS["fid"], rel=1e-5), AGAIN


def test_names_are_the_golden_ones(folder: Path) -> None:
    found = {name: names_of(config) for name, config in named(folder).items()}
    assert found == NAMES["names"], (
        "A field that was added belongs to no digest while it is at its default: mark it ADDED."
    )


def test_files_of_earlier_code_are_found_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(GOLDEN / "results", tmp_path / "results")
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    monkeypatch.setattr("harness.training.trainer.fit", _no_training)
    monkeypatch.setattr("harness.runs.train.fit", _no_training)
    config = stored()
    run = ensure(config, print, lambda: False)
    assert run.parent
    assert run.finished
    assert run.parent.finished
    assert Run.open(run.name).config == config
    assert Run.open(run.parent.name).config == config.parent
    pairs = run.pairs
    pairs.check({name: pairs.about[name] for name in ("teacher", "made")})
    assert run.evaluated(config.protocol())
    assert {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()} == before


def _no_training(*arguments: Any) -> None:
    raise AssertionError("a run that is there is trained again")
