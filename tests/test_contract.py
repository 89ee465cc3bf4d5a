"""Every registered component keeps its family's promises, and `harness check` reports a broken promise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.cli import main
from harness.components.backbones.base import Network
from harness.components.backbones.embeddings import TimeEmbedding
from harness.components.backbones.mlp import MLP
from harness.components.couplings import Independent, Pair
from harness.components.interpolants import Interpolant, Linear
from harness.components.losses import Loss
from harness.components.noises import Noise
from harness.components.time_samplers import Uniform
from harness.components.weightings import Weighting
from harness.core import registry
from harness.core.errors import ConfigError
from harness.core.registry import HOMES, Component, build, names
from harness.data.base import Data, Dataset
from harness.data.points import EightGaussians
from harness.evaluation.distances import EnergyDistance
from harness.evaluation.extractors import Extractor, Features
from harness.evaluation.metric import Summary
from harness.testing import promises

DOWNLOADED = {"mnist", "fashion_mnist", "cifar10", "inception", "clip", "dinov2", "lpips"}
SMALLER: dict[str, dict[str, Any]] = {
    "dit": {"preset": "digits"}, "c2st": {"trees": 10}, "kid": {"subsets": 10, "subset_size": 50},
    "sinkhorn": {"reg": 0.5}
}  # fmt: skip
"""Settings that test as well in a tenth of the time."""
MEMBERS = [(family, name) for family in HOMES for name in names(family) if name not in DOWNLOADED]


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_every_component_keeps_its_promises(family: str, name: str, needed: Callable[[str], dict[str, Any]]) -> None:
    """A population keeps the promises of noise on windows [2, 3] with mean zero and variance one."""
    windows = {"dataset": {"name": "time_series", "window": 2, **needed("time_series")}}
    given = {**SMALLER.get(name, {}), **(windows if name == "population" else needed(name))}
    component = build(family, {"name": name, **given})
    kept = promises(component)
    assert [promise for promise, is_kept in kept if not is_kept] == []
    assert len(kept) >= 6


@dataclass(frozen=True, kw_only=True)
class Rising(Interpolant):
    """Exchanges alpha and sigma."""

    name = "rising"

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t


@dataclass(frozen=True, kw_only=True)
class WrongDerivative(Linear):
    """Has a derivative with the wrong sign."""

    name = "wrong_derivative"

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class WrongDensity(Uniform):
    """Declares p(t) = 2 t for uniform times."""

    name = "wrong_density"

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return 2 * t


@dataclass(frozen=True, kw_only=True)
class GlobalNoise(Noise):
    """Draws from torch's global generator, and with twice the right scale."""

    name = "global_noise"

    def sample(self, shape, generator, state) -> Tensor:  # type: ignore[no-untyped-def]
        return 2 * torch.randn(tuple(shape))


@dataclass(frozen=True, kw_only=True)
class Unbounded(Weighting):
    """1 / t, infinite at the data."""

    name = "unbounded"

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return 1 / t


@dataclass(frozen=True, kw_only=True)
class Sine(Weighting):
    """sin(pi t): negative at t = 1 by rounding."""

    name = "sine"

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return (math.pi * t).sin()


@dataclass(frozen=True, kw_only=True)
class Misstated(Unbounded):
    """Declares an error that no space measures."""

    name = "misstated"
    stated_for = "image"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Absolute(Loss):
    """The mean absolute error, declared as squared."""

    name = "absolute"
    squared = True

    def measure(self, error: Tensor) -> Tensor:
        return error.abs().flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class Coarse(TimeEmbedding):
    """Gives the same vector to all times within a tenth."""

    name = "coarse"

    def build(self, dim: int) -> nn.Module:
        class Tenths(nn.Module):
            def forward(self, t: Tensor) -> Tensor:
                return (10 * t).floor()[:, None].expand(-1, dim)

        return Tenths()


@dataclass(frozen=True, kw_only=True)
class Deaf(MLP):
    """Accepts classes and ignores them."""

    name = "deaf"

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        network = super().build(data_shape, num_classes)
        network.condition.forward = lambda t, y: network.condition.time(t)  # type: ignore[union-attr, operator]
        return network


@dataclass(frozen=True, kw_only=True)
class Unconditional(MLP):
    """Has no classes: the backbone refuses them, or the network has no argument for them."""

    name = "unconditional"

    refuses: bool = True

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        if self.refuses and num_classes:
            raise ConfigError("", "takes no classes.")
        network: Any = super().build(data_shape)
        forward = type(network).forward
        if not self.refuses:
            network.forward = lambda x, t: forward(network, x, t)
        return network


@dataclass(frozen=True, kw_only=True)
class Lossy(Dataset):
    """Rounds what it decodes."""

    name = "lossy"

    def load(self) -> Data:
        return replace(EightGaussians(number=100).load(), decode=torch.round)


@dataclass(frozen=True, kw_only=True)
class Guessing(EnergyDistance):
    """Draws its value from torch's global generator."""

    name = "guessing"

    def compare(self, samples: Summary, reference: Summary) -> float:
        return super().compare(samples, reference) + torch.rand(()).item()


@dataclass(frozen=True, kw_only=True)
class UpsideDown(EnergyDistance):
    """Declares that a larger distance is better."""

    name = "upside_down"

    def compare(self, samples: Summary, reference: Summary) -> float:
        return -super().compare(samples, reference)


@dataclass(frozen=True, kw_only=True)
class Means(Extractor):
    """Means over the rows of images, with one `fault`."""

    name = "means"
    dimensions = 8

    fault: str = ""

    def load(self, device: str) -> Features:
        numbers = itertools.count()

        def means(images: Tensor) -> tuple[Tensor, Tensor | None]:
            found = images.double().mean((1, 3)) if self.fault == "double" else images.float().mean((1, 3))[:, :8]
            if self.fault == "of the batch":
                found = found - found.mean(0)
            if self.fault == "worn":
                found = found + next(numbers)
            if self.fault == "gradient":
                found = found.requires_grad_()
            if self.fault == "images":
                images.zero_()
            return found, found if self.fault == "logits" else None

        return means


@dataclass(frozen=True, kw_only=True)
class Kept(MLP):
    """An MLP that shifts its input by a mean over earlier inputs, kept in `place`."""

    name = "kept"

    place: str = "buffer"

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        network: Any = super().build(data_shape, num_classes)
        forward = type(network).forward
        mean = torch.zeros(data_shape[0])
        if self.place == "attribute":
            network.mean = mean
        else:
            network.register_buffer("mean", mean, persistent=self.place != "unsaved buffer")

        def shifted(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            if network.training or self.place == "buffer, always":
                network.mean = network.mean + 0.1 * (x.detach().mean(0) - network.mean)
            return forward(network, x - network.mean, t, y)

        network.forward = shifted
        return network


@dataclass(frozen=True, kw_only=True)
class Alternating(Uniform):
    """Returns t or 1 - t, depending on the number of earlier calls."""

    name = "alternating"

    def sample(self, n: int, generator: torch.Generator, device: Any, interpolant: Interpolant | None = None) -> Tensor:
        turn = vars(self).get("turn", 0)
        object.__setattr__(self, "turn", turn + 1)
        t = super().sample(n, generator, device, interpolant)
        return t if turn % 3 == 0 else 1 - t


@dataclass(frozen=True, kw_only=True)
class Growing(Noise):
    """Noise whose scale grows with each draw."""

    name = "growing"

    def fit(self, data: Tensor) -> dict[str, Tensor]:
        return {"scale": torch.ones(1)}

    def sample(self, shape, generator, state) -> Tensor:  # type: ignore[no-untyped-def]
        state["scale"] += 1e-3
        return torch.randn(tuple(shape), generator=generator)


@dataclass(frozen=True, kw_only=True)
class InPlace(Independent):
    """Changes the data in place."""

    name = "in_place"

    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        return Pair(x0.neg_(), x1, y)


@dataclass(frozen=True, kw_only=True)
class Worn(Dataset):
    """Counts the calls of its augmentation, and another augmentation changes the stored samples."""

    name = "worn"

    counts: bool = True

    def load(self) -> Data:
        numbers = itertools.count()

        def augment(x: Tensor, generator: torch.Generator) -> Tensor:
            return x * (-1) ** (next(numbers) // 2) if self.counts else x.mul_(2)

        return replace(EightGaussians(number=100).load(), augment=augment)


LOOK = "an evaluation between two training steps does not change the network"
REMEMBERS = "everything that the network remembers between calls is in its state_dict"


def test_a_network_may_keep_the_contents_of_its_state_dict() -> None:
    """A state outside state_dict is reported, and so is a change of state in evaluation mode.

    An unregistered state is reported too.
    """
    evaluates = "the network does not change its state in evaluation mode"
    broken = {
        "buffer": set(),
        "attribute": {REMEMBERS, LOOK, "a network loaded from the saved weights gives the same output"},
        "unsaved buffer": {REMEMBERS, "a network loaded from the saved weights gives the same output"},
        "buffer, always": {evaluates, LOOK},
    }
    for place, expected in broken.items():
        found = {
            promise
            for promise, is_kept in promises(Kept(place=place))
            if not is_kept and not promise.startswith("backbone: 'kept' is not a known backbone")
        }
        assert expected <= found, place
        assert bool(expected) == bool(found), place


@pytest.mark.parametrize("refuses", [True, False])
def test_a_network_without_classes_keeps_all_other_promises(refuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._MEMBERS["backbone"], "unconditional", Unconditional)
    kept = promises(Unconditional(refuses=refuses))
    assert [promise for promise, is_kept in kept if not is_kept] == []
    said = {promise for promise, _ in kept}
    assert {
        REMEMBERS,
        LOOK,
        "the output keeps the shape and dtype of the input [16]",
        "every parameter has a finite gradient",
    } <= said
    assert "the output depends on the class, and class -1 means no class" not in said


@pytest.mark.parametrize(
    ("component", "broken"),
    [
        (Alternating(), "a generator in the same state gives the same times"),
        (Growing(), "sampling does not change the state"),
        (InPlace(), "the coupling does not change the batch that it is given"),
        (Worn(), "augmentation with a generator in the same state gives the same samples"),
        (Worn(counts=False), "augmentation does not change the stored samples"),
        (Rising(), "alpha never rises and sigma never falls in t"),
        (WrongDerivative(), "alpha_dot is the derivative of alpha"),
        (WrongDensity(), "density is the derivative of the distribution function, the inverse of quantile"),
        (GlobalNoise(), "the same generator state and the saved state give the same samples"),
        (GlobalNoise(), "samples have the variance that variance(state) declares"),
        (
            Unbounded(),
            "weight(t = 0) = inf (float32), but weights must be finite and not negative on [0, 1]: "
            "keep the time away from it, like t.clamp(min=0.01)",
        ),
        (
            Sine(),
            "weight(t = 1) = -8.7e-08 (float32), but weights must be finite and not negative on [0, 1]: "
            "add .clamp(min=0)",
        ),
        (Misstated(), "stated_for is one of velocity, data, noise, any"),
        (Absolute(), "if squared is True, twice the error gives four times the loss"),
        (Coarse(), "different times have different embeddings"),
        (
            Deaf(),
            "the output depends on the class, and class -1 means no class, but y changes nothing. "
            "Use it, or leave y out of forward",
        ),
        (Lossy(), "decode inverts encode"),
        (Guessing(), "comparing the same samples twice gives the same value"),
        (UpsideDown(), "samples equal to the reference score better than others"),
        (Means(fault="double"), "features are float32 of shape [B, 8] (grey images)"),
        (
            Means(fault="of the batch"),
            "the other images of a batch do not change an image's features (colour images)",
        ),
        (Means(fault="worn"), "the same images give the same features (colour images)"),
        (Means(fault="gradient"), "features are finite and carry no gradient (colour images)"),
        (Means(fault="images"), "the extractor does not change the images (colour images)"),
        (Means(fault="logits"), "the network returns logits if and only if gives_logits() is True (colour images)"),
    ],
)
def test_a_broken_promise_is_named(component: Component, broken: str) -> None:
    assert broken in [promise for promise, is_kept in promises(component) if not is_kept]


GOOD = '''
from dataclasses import dataclass
from harness.components.interpolants import Interpolant

@dataclass(frozen=True, kw_only=True)
class Parabola(Interpolant, name="{name}"):
    """Leaves the data slowly."""

    power: float = 2.0

    def alpha(self, t):
        return 1 - t**self.power

    def sigma(self, t):
        return (t**self.power){bug}
'''


@pytest.fixture(autouse=True)
def unregistered_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in HOMES:
        names(family)
        monkeypatch.setitem(registry._MEMBERS, family, dict(registry._MEMBERS[family]))


def test_check_accepts_a_path_without_derivatives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """alpha and sigma are enough: autograd and bisection give the rest."""
    (tmp_path / "mine.py").write_text(GOOD.format(name="parabola", bug=""))
    assert main(["check", str(tmp_path / "mine.py")]) == 0
    assert "promises kept" in capsys.readouterr().out


VECTORS = '''
import torch
from dataclasses import dataclass
from torch import nn
from harness.components.backbones.base import Backbone, Network

@dataclass(frozen=True, kw_only=True)
class Vectors(Backbone, name="vectors"):
    """Two layers on vectors."""

    def build(self, data_shape, num_classes=0):
        return Net(data_shape[0])

class Net(Network):
    def __init__(self, size):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(size + 1, 32), nn.SiLU(), nn.Linear(32, {out}))

    def forward({arguments}):
        return self.net(torch.cat([x, {time}], 1))
'''


def checked_network(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    out: str = "size",
    arguments: str = "self, x, t",
    time: str = "t[:, None]",
) -> tuple[int, list[str]]:
    """Check a backbone that is written into a folder; return the exit code and the lines without the folder."""
    (folder / "mine.py").write_text(VECTORS.format(out=out, arguments=arguments, time=time))
    code = main(["check", str(folder / "mine.py")])
    return code, capsys.readouterr().out.replace(f"{folder}/", "").replace("backbone vectors: ", "").splitlines()


RAISES = "mine.py, line 20: RuntimeError: Tensors must have same number of dimensions: got"


def test_a_backbone_for_vectors_alone_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report says which data it fits, and why the others fail."""
    code, said = checked_network(tmp_path, capsys)
    assert code == 0
    assert said[:3] == [
        "fits vectors [16]; not images, sequences",
        f"images [1, 8, 8]: not for these data, or a fault: {RAISES} 4 and 2",
        f"sequences [12, 4]: not for these data, or a fault: {RAISES} 3 and 2",
    ]
    assert said[3] == "forward takes no classes; for a class-conditional run, write def forward(self, x, t, y=None)"


def test_a_backbone_that_fits_no_data_is_told_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked_network(tmp_path, capsys, time="t")
    assert code == 2
    assert said[:-1] == [
        f"broken: {data}: {RAISES} {axes} and 1"
        for data, axes in (
            ("images [1, 8, 8]", 4),
            ("images [3, 32, 32]", 4),
            ("vectors [16]", 2),
            ("sequences [12, 4]", 3),
        )
    ]


def test_an_output_of_the_wrong_shape_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked_network(tmp_path, capsys, out="size + 1")
    assert code == 2
    assert [line for line in said if line.startswith("broken")] == [
        "broken: vectors [16]: mine.py, line 19: forward returns float32 tensor [3, 17], but should return a finite "
        "float32 tensor [3, 16]. Return a tensor like x, or raise ConfigError in build for this shape."
    ]


@pytest.mark.parametrize(
    ("arguments", "fault"), [("self, x, t, y", "needs classes"), ("self, x", "cannot be called with x and t")]
)
def test_wrong_arguments_of_forward_are_told_once(
    arguments: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = checked_network(tmp_path, capsys, arguments=arguments)
    assert code == 2
    assert said[:-1] == [f"broken: mine.py, line 19: forward {fault}. Write def forward(self, x, t, y=None)."]


def test_several_files_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, bug in (("one", ".round()"), ("two", ".round()")):
        (tmp_path / f"{name}.py").write_text(GOOD.format(name=f"{name}_parabola", bug=bug))
    assert main(["check", str(tmp_path / "one.py"), str(tmp_path / "two.py")]) == 2
    said = capsys.readouterr()
    assert all(f"interpolant {name}_parabola: " in said.out for name in ("one", "two"))
    assert f"{tmp_path / 'one.py'}, {tmp_path / 'two.py'}: 2 promises are broken." in said.err


def test_check_refuses_a_broken_component(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(GOOD.format(name="broken_parabola", bug=".round()"))
    assert main(["check", str(tmp_path / "mine.py")]) == 2
    captured = capsys.readouterr()
    assert "broken: interpolant broken_parabola" in captured.out
    assert f"{tmp_path / 'mine.py'}: 1 promise is broken. Fix what is named above." in captured.err


def test_check_of_a_file_without_components(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert main(["check", str(tmp_path / "empty.py")]) == 2
    assert "declares no component" in capsys.readouterr().err
