"""Classes by their names, in `harness sample --label` and in its files, and the number of samples in a picture."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.cli import main
from harness.cli.sample import class_number
from harness.core.config import override
from harness.core.errors import UserError
from harness.data.base import Data, load
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.train import train

CONDITIONAL: Any = SimpleNamespace(config=SimpleNamespace(conditional=True), name="run")


def named(*names: str, classes: int = 0) -> Data:
    """Return data with classes of these names, or with this number of unnamed classes."""
    numbers = torch.arange(len(names) or classes)
    return Data(
        numbers[:, None].float(),
        numbers[:1, None].float(),
        Tensor.float,
        Tensor.float,
        "points",
        numbers,
        numbers[:1],
        names,
    )


def test_a_label_is_a_name_alone_where_classes_have_names() -> None:
    """With shuffled numbers as names, each name gives its class; an index that is not a name is refused, and so are
    similar texts.
    """
    rng = np.random.default_rng(0)
    for _ in range(50):
        names = [str(name) for name in rng.choice(30, rng.integers(2, 12), replace=False)]
        data = named(*names)
        assert [class_number(CONDITIONAL, data, name) for name in names] == list(range(len(names)))
        for wrong in (
            *(str(i) for i in range(30) if str(i) not in names),
            f"0{names[0]}",
            f" {names[0]}",
            "-1",
            "",
            "\u0663",
        ):
            with pytest.raises(UserError, match=r"^--label: '.*' is not a class\. "):
                class_number(CONDITIONAL, data, wrong)


def test_a_label_is_a_number_if_classes_have_no_names() -> None:
    assert [class_number(CONDITIONAL, named(classes=12), str(i)) for i in range(12)] == list(range(12))
    for wrong in ("12", "-1", "1.0", "01", "\u0661"):
        with pytest.raises(UserError, match="is not a class"):
            class_number(CONDITIONAL, named(classes=12), wrong)


@pytest.fixture
def run(tiny: RunConfig, tmp_path: Path) -> Run:
    """A run on pictures whose classes are called 2, 5 and 8."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([5, 2, 8] * 20))
    dataset = {"name": "npz", "path": str(tmp_path / "x.npz")}
    config = override(
        tiny, {"dataset": dataset, "objective.label_dropout": 0.1, "train.steps": 2, "train.sample_every": 2}
    )
    run = Run.of(config)
    train(run, lambda _: None, lambda: False)
    return run


def test_samples_of_named_classes_and_a_picture_of_all(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(run.config.dataset).class_names == ("2", "5", "8")
    for name in ("5", "8"):
        out = tmp_path / f"{name}.npz"
        assert main(["sample", run.name, "--label", name, "--number", "4", "--nfe", "1", "--out", str(out)]) == 0
        with np.load(out) as arrays:
            assert [str(arrays["class_names"][i]) for i in arrays["classes"]] == [name] * 4
    assert (
        main(["sample", run.name, "--label", "1", "--number", "4", "--nfe", "1", "--out", str(tmp_path / "1.npz")]) == 2
    )
    assert capsys.readouterr().err == "error: --label: '1' is not a class. Known: 2, 5, 8.\n"
    hundred = tmp_path / "hundred.png"
    assert main(["sample", run.name, "--number", "100", "--nfe", "1", "--out", str(hundred)]) == 0
    assert Image.open(hundred).size == (10 * 34 + 2, 10 * 34 + 2)
    assert main(["sample", run.name, "--number", "1025", "--nfe", "1", "--out", str(tmp_path / "many.png")]) == 2
    said = (
        "error: --number: a picture shows up to 1024 samples, not 1025. Ask for fewer, or name a file that "
        "ends in .npz.\n"
    )
    assert capsys.readouterr().err == said
    assert sorted(path.name for path in tmp_path.glob("*.*z*")) == ["5.npz", "8.npz", "x.npz"]
