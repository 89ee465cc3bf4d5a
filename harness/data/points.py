"""Points whose distribution is known, with variance one in each coordinate."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from harness.core.config import NonNegative, Range
from harness.core.rng import stream
from harness.data.base import Data, Dataset, Standardise


@dataclass(frozen=True, kw_only=True)
class Points(Dataset):
    """Draws [N, D] that are the same every time."""

    number: Annotated[int, Range(2, 10**9, why="no machine gets through a billion")] = 10_000
    """Points to train on; a fifth as many more are held out."""

    def held_bytes(self) -> int:
        return 8 * 2 * self.number  # two coordinates and a class

    @abstractmethod
    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """float32 [number, D], and the component that each point is from, int64 [number]."""

    def load(self) -> Data:
        points, classes = self.draw(self.number, stream(0, self.name, "train"))
        held_out, held_classes = self.draw(max(1, self.number // 5), stream(0, self.name, "held out"))
        return Data(points, held_out, torch.Tensor.float, torch.Tensor.float, "points", classes, held_classes)


@dataclass(frozen=True, kw_only=True)
class EightGaussians(Points, name="eight_gaussians"):
    """Eight narrow Gaussians on a circle."""

    source: ClassVar[str] = "the usual toy of Grathwohl et al. 2019 (FFJORD), scaled to unit variance"

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        component = torch.randint(8, (number,), generator=generator)
        angle = component * math.pi / 4
        spread = 0.1
        centres = math.sqrt(2 * (1 - spread**2)) * torch.stack([angle.cos(), angle.sin()], dim=1)
        return centres + spread * torch.randn(number, 2, generator=generator), component


@dataclass(frozen=True, kw_only=True)
class Checkerboard(Points, name="checkerboard"):
    """Every other square of a board of four by four, evenly filled."""

    source: ClassVar[str] = "the usual toy of Grathwohl et al. 2019 (FFJORD), scaled to unit variance"

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        square = torch.randint(8, (number,), generator=generator)
        row = square // 2
        column = square % 2 * 2 + row % 2
        corner = torch.stack([column, row], dim=1)
        return (corner + torch.rand(number, 2, generator=generator) - 2) * math.sqrt(3) / 2, square


@dataclass(frozen=True, kw_only=True)
class Pinwheel(Points, name="pinwheel"):
    """Five bent arms."""

    source: ClassVar[str] = "Johnson et al. 2016, figure 1"

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        arm = torch.randint(5, (number,), generator=generator)
        along, across = (torch.randn(number, 2, generator=generator) * torch.tensor([0.3, 0.1])).unbind(1)
        angle = arm * 2 * math.pi / 5 + 0.25 * (along + 1).exp()
        x = angle.cos() * (along + 1) - angle.sin() * across
        y = angle.sin() * (along + 1) + angle.cos() * across
        variance = (1 + 0.3**2 + 0.1**2) / 2  # in every direction alike, since the five arms are evenly turned
        return torch.stack([x, y], dim=1) / math.sqrt(variance), arm


@dataclass(frozen=True, kw_only=True)
class ScikitPoints(Points):
    """A toy of scikit-learn's; what is stored is its own, what is trained on is standardised."""

    @abstractmethod
    def make(self, number: int, random_state: int) -> tuple[Any, Any]:
        """scikit-learn's points and what it says of each."""

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        points, about = self.make(number, int(torch.randint(2**31, (), generator=generator)))
        return torch.from_numpy(points).float(), torch.from_numpy(about)

    def load(self) -> Data:
        train, classes = self.draw(self.number, stream(0, self.name, "train"))
        held_out, held_classes = self.draw(max(1, self.number // 5), stream(0, self.name, "held out"))
        scale = Standardise(train.double().mean(0), train.double().std(0))
        labels, held_labels = (None, None) if classes.is_floating_point() else (classes.long(), held_classes.long())
        return Data(
            train, held_out, scale.encode, scale.decode, "points", labels, held_labels, statistics=scale.statistics
        )


@dataclass(frozen=True, kw_only=True)
class Moons(ScikitPoints, name="moons"):
    """Two interleaved half circles."""

    source: ClassVar[str] = "sklearn.datasets.make_moons"

    noise: NonNegative = 0.05
    """Standard deviation of the points about the half circles, whose radius is 1."""

    def make(self, number: int, random_state: int) -> tuple[Any, Any]:
        from sklearn.datasets import make_moons

        return make_moons(number, noise=self.noise, random_state=random_state)


@dataclass(frozen=True, kw_only=True)
class SwissRoll(ScikitPoints, name="swiss_roll"):
    """A spiral in the plane."""

    source: ClassVar[str] = "sklearn.datasets.make_swiss_roll, without its depth"

    noise: NonNegative = 0.5
    """Standard deviation of the points about the spiral, whose arms are 2 pi apart."""

    def make(self, number: int, random_state: int) -> tuple[Any, Any]:
        from sklearn.datasets import make_swiss_roll

        points, place = make_swiss_roll(number, noise=self.noise, random_state=random_state)
        return points[:, [0, 2]], place


@dataclass(frozen=True, kw_only=True)
class GaussianMixture(Points, name="gaussian_mixture"):
    """Equally likely round Gaussians in D dimensions, whose means are known."""

    dimensions: Annotated[int, Range(1, 10**6, why="no network reads more")] = 2
    components: Annotated[int, Range(1, 10**6, why="no training set shows more")] = 4
    spread: Annotated[float, Range(0, 1, ends="(]")] = 0.3
    """Standard deviation of each component; their means supply the rest of the unit variance. A single one stands at
    zero."""

    def held_bytes(self) -> int:
        """The means, and of each sample the mean in float64 beside what is added to it."""
        return 8 * self.components * self.dimensions + 12 * self.number * self.dimensions

    def means(self) -> Tensor:
        """[components, D] in float64, of mean zero and variance 1 - spread^2 in each coordinate; one alone is zero."""
        if self.components == 1:
            return torch.zeros(1, self.dimensions, dtype=torch.float64)
        drawn = torch.randn(
            self.components, self.dimensions, generator=stream(0, self.name, "means"), dtype=torch.float64
        )
        return (drawn - drawn.mean(0)) / drawn.std(0, unbiased=False) * math.sqrt(1 - self.spread**2)

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        component = torch.randint(self.components, (number,), generator=generator)
        return (
            self.means()[component] + self.spread * torch.randn(number, self.dimensions, generator=generator)
        ).float(), component
