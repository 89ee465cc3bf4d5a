"""A run that is trained again from its record is the same bit for bit; what differs is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.__main__ import main
from harness.core.checkpoint import checkpoints
from harness.runs.folder import Run
from harness.runs.reproduce import again, gap, same

pytestmark = pytest.mark.usefixtures("isolated", "unmeasured")


def test_a_run_is_reproduced_bit_for_bit(tiny_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", tiny_run.name]) == 0
    said = capsys.readouterr().out
    assert f"{tiny_run.name}: the same after 12 steps, bit for bit: " in said
    assert again(tiny_run).folder != tiny_run.folder
    assert again(tiny_run).finished
    assert main(["reproduce", tiny_run.name]) == 0
    assert "trained before; it is only compared" in capsys.readouterr().out


def test_differences_are_told_with_the_machine(tiny_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Another weight, another loss and another torch: as after an update of the packages."""
    other = again(tiny_run)
    shutil.copytree(tiny_run.folder, other.folder)
    weights = load_file(newest := checkpoints(tiny_run.folder / "checkpoints")[0])
    name = min(name for name in weights if name.startswith("network/"))
    weights[name].flatten()[0] += 0.25
    rewritten(newest, weights)
    lines = (tiny_run.folder / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[1])
    lines[1] = json.dumps({**first, "loss": first["loss"] + 1})
    (tiny_run.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    environment = tiny_run.folder / "environment.json"
    told = json.loads(environment.read_text())
    environment.write_text(json.dumps({**told, "machine": {**told["machine"], "torch": "2.0.0"}}))
    assert main(["reproduce", tiny_run.name]) == 0
    said = capsys.readouterr().out
    assert f"{tiny_run.name}: 1 of " in said
    assert f"tensors differ, most {name}: by 0.25" in said
    assert f"the logged loss differs from step {first['step']} on: {first['loss'] + 1:.9g} then" in said
    assert "torch: 2.0.0 then, " in said


def rewritten(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace a checkpoint by an intact one with these tensors."""
    from harness.core.checkpoint import step_of, write_checkpoint

    step = step_of(path)
    path.unlink()
    write_checkpoint(path.parent, step, tensors)


def test_an_unfinished_run_is_not_reproduced(tiny_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for path in checkpoints(tiny_run.folder / "checkpoints"):
        path.unlink()
    assert main(["reproduce", tiny_run.name]) == 2
    assert "its last checkpoint is missing. Run `harness train`" in capsys.readouterr().err


def test_a_setting_without_effect_is_refused(tiny_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", tiny_run.name, "--set", "evaluate.nfe=[1]"]) == 2
    assert "evaluate.nfe: no training depends on it. Leave it out." in capsys.readouterr().err
    assert not again(tiny_run).folder.exists()


def test_bits_are_compared() -> None:
    a = torch.tensor([1.0, torch.nan])
    assert same(a, a.clone())
    assert not same(a, torch.tensor([1.0, 0.0]))
    assert not same(torch.tensor([0.0]), torch.tensor([torch.nan]))
    assert gap(torch.tensor([1.0]), torch.tensor([1.5])) == 0.5
    assert gap(a, torch.zeros(3)) == float("inf")
    assert gap(a, torch.tensor([1.0, 0.0])) == float("inf")
