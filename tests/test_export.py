"""`harness export`: what is loaded from the folder computes what the run's averaged network does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from test_backbones import TINY_DIT

import harness
from harness.cli import main
from harness.core.config import override
from harness.core.errors import UserError
from harness.core.files import write_json
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.sample import averaged
from harness.runs.train import train

pytestmark = pytest.mark.usefixtures("unmeasured")


def example(folder: Path) -> str:
    """The lines of Python in a folder's README."""
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return lines


def estimate(folder: Path, **given: torch.Tensor) -> torch.Tensor:
    """What the README's lines give."""
    names: dict[str, torch.Tensor] = {**given}
    exec(example(folder), names)
    return names["estimate"]


def test_a_network_of_the_harness_is_loaded_by_it(tiny_run: Run, tmp_path: Path) -> None:
    """As the README says; the average that `evaluate` names is chosen by --set."""
    x, t = (torch.randn(3, 1, 8, 8), torch.rand(3))
    found = {}
    for average in ("ema", "last"):
        folder = tmp_path / average
        assert main(["export", tiny_run.name, "--out", str(folder), "--set", f"evaluate.average={average}"]) == 0
        assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
        found[average] = estimate(folder, x=x, t=t)
        run = harness.load_run(tiny_run.name, {"evaluate.average": average})
        torch.testing.assert_close(found[average], averaged(run).network.eval()(x, t), rtol=1e-5, atol=1e-5)
    assert not torch.equal(*found.values())
    assert [path.name for path in sorted(tmp_path.iterdir()) if path.name.startswith(".")] == []


def test_a_network_of_diffusers_is_loaded_by_diffusers(tiny: RunConfig, tmp_path: Path) -> None:
    """With classes: the row behind the last class is for none."""
    backbone = {"name": "diffusers", "model": "DiTTransformer2DModel", "config": TINY_DIT}
    run = Run.of(override(tiny, {"backbone": backbone, "objective.label_dropout": 0.1, "train.steps": 2}))
    train(run, lambda _: None, lambda: False)
    assert main(["export", run.name, "--out", str(tmp_path / "a" / "b")]) == 0
    folder = tmp_path / "a" / "b"
    assert {path.name for path in folder.iterdir()} == {
        "diffusion_pytorch_model.safetensors", "config.json", "README.md",
    }  # fmt: skip
    assert "`x` [B, 1, 8, 8] is" in (folder / "README.md").read_text()
    assert "10 for none" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["_class_name"] == "DiTTransformer2DModel"
    x, t, y = (torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([0, 10, 9]))
    with torch.no_grad():
        ours = averaged(run).network.eval()(x, t, torch.tensor([0, -1, 9]))
        torch.testing.assert_close(estimate(folder, x=x, t=t, y=y), ours)


def test_what_is_there_is_not_overwritten(tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "link"):
        assert main(["export", tiny_run.name, "--out", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert said.endswith(f"error: --out: {tmp_path / name} is there already. Choose another folder.\n")


def test_a_damaged_export_is_told(tiny_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    assert main(["export", str(tiny_run.folder), "--out", str(folder)]) == 0
    said = json.loads((folder / "config.json").read_text())
    said["configuration"]["backbone"]["channels"] = 16
    write_json(folder / "config.json", said)
    with pytest.raises(UserError, match=r"/model\.safetensors: does not fit its config\.json \(its tensor .*Export"):
        harness.load_network(folder)
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"/model\.safetensors: cannot be read \(.*\)\. Export the run again\.$"):
        harness.load_network(folder)
    write_json(folder / "config.json", {"_class_name": "UNet2DModel"})
    with pytest.raises(UserError, match=r"/config\.json: does not describe a network of the harness\. The"):
        harness.load_network(folder)
    with pytest.raises(UserError, match=r"nowhere/config\.json: cannot be read"):
        harness.load_network(tmp_path / "nowhere")
