"""Components of installed packages: found by entry points, part of a protocol, and named in one line when they fail."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from fresh import run_fresh

pytestmark = pytest.mark.slow  # an interpreter for each package
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n"
COMMAND = "import sys; sys.path.insert(0, {folder!r}); from harness.cli import main; sys.exit(main({arguments!r}))"
WEIGHTING = '''
from dataclasses import dataclass
import torch
from harness.components.weightings import Weighting
from harness.runs.config import RunConfig

@dataclass(frozen=True, kw_only=True)
class Mine(Weighting, name="{name}"):
    """A constant."""

    def weight(self, t, interpolant):
        return torch.full_like(t, 2)
'''
EXTRACTOR = '''
from dataclasses import dataclass
from harness.evaluation.extractors import Extractor

@dataclass(frozen=True, kw_only=True)
class Rows(Extractor, name="rows"):
    """Means over rows."""

    dimensions = 8

    def load(self, device):
        return lambda images: (images.float().mean((1, 3)), None)
'''
JUDGED = """
import json, sys
sys.path.insert(0, {folder!r})
from harness.data.base import load
from harness.data.images import Digits
from harness.evaluation.judge import Judge, SampleBatch
from harness.evaluation.protocol import EvaluateConfig
config = EvaluateConfig(num_samples=100, num_reference=200, batch_size=100, extractor="rows")
data = load(Digits())
judge = Judge(config, data, "cpu")
found = judge([SampleBatch(data.held_out[:100])])
print(json.dumps([judge.protocol.extractor, judge.protocol.sources, found]))
"""


def install(folder: Path, name: str, modules: dict[str, str], points: str) -> Path:
    """Write a distribution with a package of these modules below `folder`, as an installer does."""
    (folder / name).mkdir(parents=True)
    for module, content in {"__init__": "", **modules}.items():
        (folder / name / f"{module}.py").write_text(content)
    about = folder / f"{name}-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(METADATA.format(name=name))
    (about / "entry_points.txt").write_text(f"[harness.components]\n{points}\n")
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The output of interpreters, each with one installed package."""
    folder = tmp_path_factory.mktemp("packages")
    taken = WEIGHTING.format(name="uniform")
    packages = {
        "good": (
            {"weightings": WEIGHTING.format(name="mine"), "extractors": EXTRACTOR},
            "weightings = good.weightings\nextractors = good.extractors",
        ),
        "broken": ({"it": "import no_such_module"}, "it = broken.it"),
        "absent": ({}, "it = absent.nowhere"),
        "twice": ({"it": taken}, "it = twice.it"),
        "exits": ({"it": "import sys; sys.exit()"}, "it = exits.it"),
    }
    folders = {name: str(install(folder / name, name, *package)) for name, package in packages.items()}
    ask = ["list", "weighting", "--json"]
    pieces = {name: COMMAND.format(folder=path, arguments=ask) for name, path in folders.items()}
    pieces["help"] = COMMAND.format(folder=folders["broken"], arguments=["--help"])
    pieces["judged"] = JUDGED.format(folder=folders["good"])
    return dict(zip(pieces, run_fresh(list(pieces.values()), folder), strict=True))


def test_components_of_a_package_are_found_and_hashed(answers: dict[str, str]) -> None:
    """The first use of any family finds them; their modules may import the harness's configurations."""
    listed = {member["name"]: member["about"] for member in json.loads(answers["good"])["weighting"]}
    assert listed["mine"] == "A constant."
    assert "min_snr" in listed
    extractor, sources, found = json.loads(answers["judged"])
    source = hashlib.sha256(EXTRACTOR.encode()).hexdigest()[:12]
    assert (extractor, sources) == ("rows", {"extractor.rows": source})
    assert found["fid"] > 0


def test_a_package_that_fails_is_named_in_one_line(answers: dict[str, str]) -> None:
    """The error comes where a component is used; the help uses none."""
    advice = "Correct the package, or uninstall it."
    missing = "ModuleNotFoundError: No module named"
    name = "weighting 'uniform' is already taken by harness.components.weightings. Choose another name."
    reasons = {
        "broken": f"it = broken.it: {missing} 'no_such_module'.",
        "absent": f"it = absent.nowhere: {missing} 'absent.nowhere'.",
        "twice": f"it = twice.it: {name}",
        "exits": "it = exits.it: SystemExit.",
    }
    for package, reason in reasons.items():
        assert answers[package] == f"error: {package} 1.2: its entry point {reason} {advice}\nexit code 2\n"
    assert answers["help"].startswith("usage: harness")
