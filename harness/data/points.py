"""Points from known distributions, with unit variance in each coordinate."""

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
    """Points [N, D] drawn with a fixed seed."""

    number: Annotated[int, Range(2, 10**9, why="no machine completes more than a billion")] = 10_000
    """Number of training points; another fifth of this number is held out."""

    def held_bytes(self) -> int:
        return 8 * 2 * self.number  # two coordinates and a class

    @abstractmethod
    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw points, float32 [number, D], and the component of each point, int64 [number]."""

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
    """A uniform distribution on every other square of a board of 4x4 squares."""

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
        variance = (1 + 0.3**2 + 0.1**2) / 2  # equal in all directions, by the symmetry of the five arms
        return torch.stack([x, y], dim=1) / math.sqrt(variance), arm


@dataclass(frozen=True, kw_only=True)
class ScikitPoints(Points):
    """A toy data set of scikit-learn: stored as it is, standardised for training."""

    @abstractmethod
    def make(self, number: int, random_state: int) -> tuple[Any, Any]:
        """Return scikit-learn's points [number, 2] and its label of each: a class, or a position (float)."""

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
    """Standard deviation of the noise on the points; the half circles have radius 1."""

    def make(self, number: int, random_state: int) -> tuple[Any, Any]:
        from sklearn.datasets import make_moons

        return make_moons(number, noise=self.noise, random_state=random_state)


@dataclass(frozen=True, kw_only=True)
class SwissRoll(ScikitPoints, name="swiss_roll"):
    """A spiral in the plane."""

    source: ClassVar[str] = "sklearn.datasets.make_swiss_roll, without its depth"

    noise: NonNegative = 0.5
    """Standard deviation of the noise on the points; the arms of the spiral are 2 pi apart."""

    def make(self, number: int, random_state: int) -> tuple[Any, Any]:
        from sklearn.datasets import make_swiss_roll

        points, place = make_swiss_roll(number, noise=self.noise, random_state=random_state)
        return points[:, [0, 2]], place


@dataclass(frozen=True, kw_only=True)
class GaussianMixture(Points, name="gaussian_mixture"):
    """A mixture of equally likely isotropic Gaussians in D dimensions with known means."""

    dimensions: Annotated[int, Range(1, 10**6, why="no network takes more")] = 2
    components: Annotated[int, Range(1, 10**6, why="no training set shows more")] = 4
    spread: Annotated[float, Range(0, 1, ends="(]")] = 0.3
    """Standard deviation of each component; the means contribute the rest of the unit variance. A single component
    has mean zero."""

    def held_bytes(self) -> int:
        """Return the bytes of the means, and, for each sample, of its mean in float64 and of its noise in float32."""
        return 8 * self.components * self.dimensions + 12 * self.number * self.dimensions

    def means(self) -> Tensor:
        """Return the means, float64 [components, D]: mean zero and variance 1 - spread^2 in each coordinate.

        The mean of a single component is zero.
        """
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
