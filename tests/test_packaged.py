"""Components of installed packages: found by their entry points, part of a protocol, and told of in one line when they fail."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fresh import run_fresh

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n"
LIST = "import sys; sys.path.insert(0, {folder!r}); from harness.cli import main; sys.exit(main({arguments!r}))"
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
    """A distribution with a package of these modules, as an installer leaves it below `folder`."""
    (folder / name).mkdir(parents=True)
    for module, content in {"__init__": "", **modules}.items():
        (folder / name / f"{module}.py").write_text(content)
    about = folder / f"{name}-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(METADATA.format(name=name))
    (about / "entry_points.txt").write_text(f"[harness.components]\n{points}\n")
    return folder


def test_components_of_a_package_are_found_and_hashed(tmp_path: Path) -> None:
    """By the first question for any family; one module may hold several families, and import the harness's configurations."""
    modules = {"weightings": WEIGHTING.format(name="mine"), "extractors": EXTRACTOR}
    points = "weightings = acme.weightings\nextractors = acme.extractors"
    folder = str(install(tmp_path / "site", "acme", modules, points))
    listing, judging = run_fresh(
        [
            LIST.format(folder=folder, arguments=["list", "weighting", "--json"]),
            JUDGED.format(folder=folder),
        ],
        tmp_path,
    )
    listed = {member["name"]: member["about"] for member in json.loads(listing.partition("Traceback")[0])["weighting"]}
    assert listed["mine"] == "A constant."
    assert "min_snr" in listed
    extractor, sources, found = json.loads(judging)
    source = hashlib.sha256(EXTRACTOR.encode()).hexdigest()[:12]
    assert (extractor, sources) == ("rows", {"extractor.rows": source})
    assert found["fid"] > 0


def test_a_package_that_fails_is_named_in_one_line(tmp_path: Path) -> None:
    """Where a component is asked for; the help asks for none."""
    taken = WEIGHTING.format(name="uniform")
    packages = {
        "broken": ({"it": "import no_such_module"}, "it = broken.it"),
        "absent": ({}, "it = absent.nowhere"),
        "twice": ({"it": taken}, "it = twice.it"),
    }
    folders = [str(install(tmp_path / name, name, *package)) for name, package in packages.items()]
    ask = ["list", "weighting"]
    *said, shown = run_fresh(
        [
            *(LIST.format(folder=folder, arguments=ask) for folder in folders),
            LIST.format(folder=folders[0], arguments=["--help"]),
        ],
        tmp_path,
    )
    lines = [text.partition("\n")[0] for text in said]
    advice = "Correct the package, or uninstall it."
    missing = "ModuleNotFoundError: No module named"
    name = "weighting 'uniform' is already taken by harness.components.weightings. Choose another name."
    assert lines == [
        f"error: broken 1.2: its entry point it = broken.it: {missing} 'no_such_module'. {advice}",
        f"error: absent 1.2: its entry point it = absent.nowhere: {missing} 'absent.nowhere'. {advice}",
        f"error: twice 1.2: its entry point it = twice.it: {name} {advice}",
    ]
    assert shown.startswith("usage: harness")
