"""LPIPS as the loss of a distillation: its values beside torch-fidelity's, its refusals, and the name of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch_fidelity import sample_similarity_lpips as theirs

from harness.components import perceptual
from harness.components.perceptual import LPIPS, Perceptual
from harness.core.checkpoint import read_checkpoint
from harness.core.config import override
from harness.core.errors import ConfigError, UserError
from harness.core.registry import build
from harness.core.rng import Streams
from harness.data.base import Data
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective
from harness.runs.config import RunConfig
from harness.runs.identity import facts_of, training_digest
from harness.runs.train import ensure
from harness.runs.validate import check, refuse_idle
from harness.testing import promises
from harness.training.diagnostics import gradients_by_noise


@pytest.fixture(scope="session")
def theirs_with_weights() -> nn.Module:
    """torch-fidelity's network with random weights; those of the levels are positive, as the trained ones are."""
    torch.manual_seed(0)
    vgg = torchvision.models.vgg16(weights=None)
    linear = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) / width for i, width in enumerate((64, 128, 256, 512, 512))
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(theirs, "torchvision_load_pretrained_vgg16", lambda: vgg)
        patched.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: linear)
        patched.setattr(theirs.SampleSimilarityLPIPS, "load_state_dict", _without_features)
        return theirs.SampleSimilarityLPIPS("lpips").eval()


def _without_features(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    nn.Module.load_state_dict(module, state, strict=False)


@pytest.fixture
def weights(theirs_with_weights: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HARNESS_LPIPS names a file of them."""
    place = tmp_path / "lpips.safetensors"
    save_file({name: value.contiguous() for name, value in theirs_with_weights.state_dict().items()}, place)
    monkeypatch.setenv("HARNESS_LPIPS", str(place))
    return place


@pytest.fixture
def colours(tiny: RunConfig, tmp_path: Path) -> RunConfig:
    """A distillation on RGB images of 16 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    data = {"dataset": {"name": "npz", "path": str(tmp_path / "images.npz")}, "evaluate.extractor": "values"}
    flow = override(tiny, {**data, "train.steps": 2, "train.batch_size": 8, "reflow.number": 16, "reflow.nfe": 4})
    flow = override(flow, {"evaluate.metrics": ["sliced_wasserstein"], "evaluate.num_samples": 16})
    return override(flow, {"reflow.distil": True, "reflow.perceptual": "lpips", "evaluate.nfe": [1]})


def images(number: int = 3, side: int = 32) -> tuple[Tensor, Tensor]:
    a, b = 2 * torch.rand(2, number, 3, side, side, generator=torch.Generator().manual_seed(1)) - 1
    return a, b


@pytest.mark.parametrize("side", [16, 32, 47])
def test_it_is_torch_fidelitys(side: int, weights: Path, theirs_with_weights: nn.Module) -> None:
    """Theirs takes values from 0 to 255."""
    a, b = images(side=side)
    expected = theirs_with_weights(*((x + 1) * 127.5 for x in (a, b))).flatten()
    torch.testing.assert_close(LPIPS().compare(a, b), expected, rtol=1e-4, atol=1e-6)
    assert expected.min() > 0.005


def test_a_torch_file_gives_the_same(weights: Path, theirs_with_weights: nn.Module, tmp_path: Path) -> None:
    here = LPIPS().compare(*images())
    torch.save(theirs_with_weights.state_dict(), tmp_path / "lpips.pth")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HARNESS_LPIPS", str(tmp_path / "lpips.pth"))
        assert torch.equal(LPIPS().compare(*images()), here)


def test_it_keeps_the_promises_of_its_family(weights: Path) -> None:
    kept = promises(LPIPS())
    assert [promise for promise, is_kept in kept if not is_kept] == []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Squared(Perceptual):
    """The mean squared difference."""

    name = "squared"

    def compare(self, samples: Tensor, targets: Tensor) -> Tensor:
        return (samples - targets).square().flatten(1).mean(1)


@pytest.mark.parametrize("parts", [{}, {"prediction": "data", "prediction.t_max": 1.0}, {"interpolant": "fm_ot"}])
def test_it_compares_the_samples_of_one_step(parts: dict[str, Any]) -> None:
    """One step goes from x1 to x1 - v, whose squared distance to the target's sample is that of the velocities."""
    made = override(Formulation(), {**parts, "objective.space": "velocity"})
    x0 = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    network = nn.Linear(3, 3)

    def told(x: Tensor, t: Tensor) -> Tensor:
        return network(x) + t[:, None, None]

    of_samples, of_errors = (Objective(made, {}, 1.0, perceptual=each) for each in (Squared(), None))
    task = of_samples.task(x0, Streams(1, 2))
    here, there = (objective.measure(told, task) for objective in (of_samples, of_errors))  # type: ignore[arg-type]
    torch.testing.assert_close(here.loss, there.loss)
    torch.testing.assert_close(here.errors, there.errors)


def test_the_targets_are_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distance is the same if both samples are wrong alike; these are the data, and the step of the network."""
    given: list[Tensor] = []

    def kept(self: Perceptual, samples: Tensor, targets: Tensor) -> Tensor:
        given.extend((samples, targets))
        return torch.zeros(len(samples))

    monkeypatch.setattr(Squared, "compare", kept)
    objective = Objective(Formulation(), {}, 1.0, perceptual=Squared())
    x0 = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    task = objective.task(x0, Streams(1, 2))
    objective.measure(lambda x, t: 0.25 * x, task)  # type: ignore[arg-type]
    torch.testing.assert_close(given[1], x0)
    torch.testing.assert_close(given[0], 0.75 * task.xt)


@pytest.mark.usefixtures("isolated", "unmeasured")
def test_a_flow_is_distilled_with_it(weights: Path, colours: RunConfig) -> None:
    """The network moves, and not as with the squared error."""
    runs = [
        ensure(override(colours, {"reflow.perceptual": name}), lambda _: None, lambda: False)
        for name in ("lpips", None)
    ]
    assert len({run.parent.name for run in runs if run.parent}) == 1
    teacher = runs[0].parent
    assert teacher is not None
    tensors = [read_checkpoint(run.folder / "checkpoints", "cpu")[1] for run in (*runs, teacher)]
    moved = [name for name, value in tensors[0].items() if not torch.equal(value, tensors[2][name])]
    assert any(name.startswith("network/") for name in moved)
    assert all(value.isfinite().all() for name, value in tensors[0].items() if not name.startswith("trainer/"))
    assert any(not torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


def test_the_name_covers_the_weights_and_no_unused_loss(weights: Path, colours: RunConfig) -> None:
    name = training_digest(colours)
    assert training_digest(override(colours, {"reflow.perceptual": None})) != name
    for unused in ({"loss": "pseudo_huber"}, {"objective.space": "velocity"}):
        distilled = override(colours, {**unused, "reflow.teacher": override(colours, {"reflow.distil": False})})
        assert training_digest(distilled) == name
    flow = override(colours, {"reflow.distil": False})
    assert training_digest(flow) == training_digest(override(flow, {"reflow.perceptual": None}))
    changed = {key: value + 1 for key, value in perceptual.read_weights(weights).items()}
    save_file(changed, weights)  # at the same place
    assert training_digest(colours) != name


def test_small_distances_are_exact_beside_half_precision(weights: Path) -> None:
    a, b = images()
    near = b + 1e-3 * a
    exact = LPIPS().compare(near, b)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(LPIPS().compare(near, b), exact)
    assert exact.dtype == torch.float32


def test_gradients_by_noise_level_are_left_out() -> None:
    """The loss is defined at t = 1 only."""
    objective = Objective(Formulation(), {}, 1.0, perceptual=Squared())
    assert gradients_by_noise(nn.Linear(3, 3), objective, torch.zeros(8, 3), None, 0, 0) == {}


def test_the_source_of_an_unused_loss_names_no_run(
    weights: Path, colours: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = {"loss.mine": "abc", "noise.mine": "def"}
    monkeypatch.setattr("harness.runs.identity.sources", lambda config: used if isinstance(config, Formulation) else {})
    assert facts_of(colours)["sources"] == {"noise.mine": "def"}
    assert "loss.mine" in facts_of(override(colours, {"reflow.perceptual": None}))["sources"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not a file"),
        ({"a": torch.zeros(1)}, "not the weights of LPIPS with VGG-16"),
        (b"x", "not the weights"),
    ],
)
def test_other_weights_are_told(content: Any, said: str, colours: RunConfig, tmp_path: Path) -> None:
    place = tmp_path / "other.safetensors"
    if isinstance(content, bytes):
        place.write_bytes(content)
    elif content:
        save_file(content, place)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HARNESS_LPIPS", str(place))
        with pytest.raises(UserError, match=rf"{place}.*{said}|{place}: {said}") as caught:
            check(colours)
        assert "\n" not in str(caught.value)
        assert 'Save the state of lpips.LPIPS(net="vgg")' in str(caught.value)
        patched.delenv("HARNESS_LPIPS")
        with pytest.raises(UserError, match=r"^HARNESS_LPIPS: is not set, and reflow\.perceptual=lpips needs"):
            check(colours)


def test_a_weight_of_another_shape_is_told(weights: Path, colours: RunConfig) -> None:
    read = dict(perceptual.read_weights(weights))
    read["lin0.model.1.weight"] = torch.zeros(1, 3, 1, 1)
    save_file(read, weights)
    with pytest.raises(UserError, match=r"lin0\.model\.1\.weight has shape \[1, 3, 1, 1\]"):
        check(colours)


def test_other_data_are_refused(weights: Path, tiny: RunConfig, colours: RunConfig) -> None:
    distilled = override(tiny, {"reflow.distil": True, "reflow.perceptual": "lpips", "evaluate.nfe": [1]})
    with pytest.raises(ConfigError, match=r"^reflow\.perceptual: lpips compares RGB images of 16 pixels or more, and"):
        check(distilled)
    data: Data = build("dataset", "digits").load()
    wide = dataclasses.replace(data, known_shape=(3, 32, 32), encode=lambda x: x.float() / 255)
    with pytest.raises(ConfigError, match=r"lpips reads images in \[-1, 1\]"):
        LPIPS().check(wide)
    with pytest.raises(ConfigError, match=r"^reflow\.perceptual: only a distillation uses it\."):
        refuse_idle(["reflow.perceptual"], [override(colours, {"reflow.distil": False})])
