"""Noises: the distribution of x1, in training and at the start of sampling."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.config import ADDED, Positive, Range
from harness.core.errors import ConfigError, UserError
from harness.core.registry import Component
from harness.data.base import Data, Dataset, load


class Noise(Component, family="noise"):
    """The distribution of the noise x1. Checkpoints store the state that it learns from the data, if any."""

    gaussian: ClassVar[bool] = False
    """Whether x1 is normal. Only then does E[x1 | x_t] give the score of p_t."""

    def fit(self, data: Tensor) -> dict[str, Tensor]:
        """Return the state learned from training data [N, ...]; empty if there is nothing to learn."""
        return {}

    def learn(self, data: Data) -> dict[str, Tensor]:
        """Return the state for these data; read no sample if there is nothing to learn."""
        return {} if type(self).fit is Noise.fit else self.fit(data.some())

    @abstractmethod
    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        """x1 of the given shape [B, ...] in float32 on the generator's device."""

    def variance(self, state: Mapping[str, Tensor]) -> Tensor:
        """Variance of each entry: a scalar, or shaped like a sample."""
        return torch.ones(())

    def check(self, data: Data) -> None:
        """Raise `UserError` if this noise does not fit these data."""

    def fingerprint(self) -> dict[str, str | int]:
        """Return identifiers of the content of the files that it reads; empty if it reads none."""
        return {}


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


def _uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.rand(tuple(shape), generator=generator, device=generator.device)


@dataclass(frozen=True, kw_only=True)
class Gaussian(Noise, name="gaussian"):
    """Normal with independent entries."""

    formula: ClassVar[str] = "x1 ~ N(0, {std:g}^2 I)"
    source: ClassVar[str] = "Lipman et al. 2023; Liu et al. 2023; other widths: Lee et al. 2025 (SourceFM)"
    gaussian: ClassVar[bool] = True

    std: Positive = field(default=1.0, metadata=ADDED)
    """Standard deviation of each entry. SourceFM's norm-aligned noise for CIFAR-10 has 0.4908."""

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        x1 = _normal(shape, generator)
        return x1 if self.std == 1 else self.std * x1

    def variance(self, state: Mapping[str, Tensor]) -> Tensor:
        return torch.tensor(self.std**2)


@dataclass(frozen=True, kw_only=True)
class Matched(Noise, name="matched"):
    """Normal with the standard deviation of the training data."""

    formula: ClassVar[str] = "x1 ~ N(0, s^2), s = sd of the data (per feature: {per_feature})"
    gaussian: ClassVar[bool] = True

    per_feature: bool = False
    """Use one standard deviation per feature instead of one for all. Each is at least 1e-3 of the overall one."""

    def fit(self, data: Tensor) -> dict[str, Tensor]:
        data = data.double()
        if data.std() == 0:
            raise UserError("noise: all data are equal, so matched noise would have no width. Choose gaussian.")
        std = data.std(dim=0).clamp(min=1e-3 * data.std()) if self.per_feature else data.std()
        return {"std": std.float()}

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        return _normal(shape, generator) * state["std"].to(generator.device)

    def variance(self, state: Mapping[str, Tensor]) -> Tensor:
        return state["std"].square()


@dataclass(frozen=True, kw_only=True)
class Sparse(Noise, name="sparse"):
    """Standard normal in which each entry is dropped with some probability, like genes in single-cell counts."""

    formula: ClassVar[str] = (
        "x1 ~ N(0, I), each entry dropped with probability {dropout_rate:g} (to the data's own zero: {stored_zero})"
    )

    dropout_rate: Annotated[float, Range(0, 1, ends="[)")] = 0.1
    """Probability that an entry is dropped, in [0, 1)."""
    stored_zero: bool = False
    """Set dropped entries to the encoded zero of the data (an unseen gene, a black pixel) instead of 0. After
    standardising, 0 is a gene's mean."""

    def learn(self, data: Data) -> dict[str, Tensor]:
        return {"zero": data.encode(torch.zeros_like(data.train[torch.arange(1)]))[0]} if self.stored_zero else {}

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        x1 = _normal(shape, generator)
        kept = _uniform(x1.shape, generator) >= self.dropout_rate
        return torch.where(kept, x1, state["zero"].to(x1.device)) if self.stored_zero else x1 * kept

    def variance(self, state: Mapping[str, Tensor]) -> Tensor:
        rate = self.dropout_rate
        return 1 - rate + rate * (1 - rate) * state["zero"].square() if self.stored_zero else torch.tensor(1 - rate)


@dataclass(frozen=True, kw_only=True)
class StudentT(Noise, name="student_t"):
    """Student's t with independent entries, scaled to unit variance, so that only the tails are heavier."""

    formula: ClassVar[str] = "x1 ~ t({df:g}) / sqrt({df:g} / ({df:g} - 2))"
    source: ClassVar[str] = "Pandey et al. 2024; drawn by Bailey 1994's polar method"

    df: Annotated[float, Range(2, 1e150, "(]")] = 5.0
    """Degrees of freedom, above 2. Fewer give heavier tails; at 2 the variance is infinite."""

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        u = 1 - _uniform(shape, generator)  # in (0, 1]
        radius = torch.expm1(-2 / self.df * u.log()).mul(self.df - 2).sqrt()
        return radius * torch.cos(2 * math.pi * _uniform(shape, generator))


@dataclass(frozen=True, kw_only=True)
class Laplace(Noise, name="laplace"):
    """Laplace with independent entries of unit variance."""

    formula: ClassVar[str] = "p(x1) = exp(-sqrt(2) |x1|) / sqrt(2)"
    source: ClassVar[str] = "the exponential tails between normal and Student's t"

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        u = 2 * _uniform(shape, generator) - 1  # in [-1, 1)
        return -u.sign() * torch.log1p(-u.abs().clamp(max=1 - 2**-24)) / math.sqrt(2)


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Noise, name="uniform"):
    """Uniform with independent entries of unit variance."""

    formula: ClassVar[str] = "x1 ~ U[-sqrt(3), sqrt(3)]"
    source: ClassVar[str] = "a base without tails"

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        return (2 * _uniform(shape, generator) - 1) * math.sqrt(3)


@dataclass(frozen=True, kw_only=True)
class Pruned(Noise, name="pruned"):
    """Normal noise without the directions that hardly any data have; made for `evaluate.noise`.

    Candidates are the principal axes of the data, scaled to length 1, in both directions. An axis is empty if no sample
    has a cosine above `empty` with it. Noise that lies along an empty axis is drawn again. The variance counts as
    std^2, although the empty axes lose a little.
    """

    formula: ClassVar[str] = (
        "x1 ~ N(0, {std:g}^2 I), given sqrt(d) cos(x1, a) <= {reject:g} "
        "for each axis a with max cos(x0, a) <= {empty:g}"
    )
    source: ClassVar[str] = "Lee et al. 2025 (SourceFM), pruned sampling, there with flipped copies of the data"
    rounds: ClassVar[int] = 1000

    empty: Annotated[float, Range(0, 1, ends="()")] = 0.01
    """Largest cosine of an empty axis with a sample."""
    reject: Positive = 2.66
    """Cosine with an empty axis above which noise is drawn again, in standard deviations of a random cosine,
    1 / sqrt(dimensions). 2.66 is the 0.048 that SourceFM takes for CIFAR-10."""
    std: Positive = field(default=1.0, metadata=ADDED)
    """Standard deviation of the noise before it is pruned."""

    def check(self, data: Data) -> None:
        if not self.fit(data.some())["axes"].numel():
            reason = f"in each of its principal directions the data have a cosine above {self.empty:g}"
            raise ConfigError("noise.empty", f"{reason}, so none is empty. Raise it, or choose gaussian.")

    def fit(self, data: Tensor) -> dict[str, Tensor]:
        unit = F.normalize(data.double().flatten(1))
        axes = torch.linalg.eigh(unit.T.cov())[1]
        cosines = unit @ axes
        empty = [axes[:, cosines.amax(0) <= self.empty], -axes[:, -cosines.amin(0) <= self.empty]]
        return {"axes": torch.cat(empty, 1).float()}

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        x1 = _normal(shape, generator)
        axes = state["axes"].to(x1.device)
        for _ in range(self.rounds):
            cosines = F.normalize(x1.flatten(1)) @ axes
            again = (cosines * math.sqrt(len(axes)) > self.reject).any(1)
            if not (number := int(again.sum())):
                return self.std * x1
            x1[again] = _normal((number, *shape[1:]), generator)
        reason = f"{number} of {shape[0]} draws lay along one of {axes.shape[1]} empty axes, {self.rounds} times over"
        raise ConfigError("noise.reject", f"{reason}. Raise it.")

    def variance(self, state: Mapping[str, Tensor]) -> Tensor:
        return torch.tensor(self.std**2)


@dataclass(frozen=True, kw_only=True)
class Population(Noise, name="population"):
    """Training samples of another data set: the flow then maps that population to the data."""

    formula: ClassVar[str] = "x1 ~ the samples of another data set"
    source: ClassVar[str] = "Liu et al. 2023, section 3; Tong et al. 2024, section 5"
    waits: ClassVar[bool] = True

    dataset: Dataset
    """Source of x1, encoded by its own statistics. It needs the shape and the feature names of the data."""

    def fit(self, data: Tensor) -> dict[str, Tensor]:
        return {"variance": self._source().some().double().var(0).mean().float()}

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        source = self._source()
        chosen = torch.randint(len(source.train), (shape[0],), generator=generator, device=generator.device)
        return source.encode(source.train[chosen.cpu()]).to(generator.device)

    def variance(self, state: Mapping[str, Tensor]) -> Tensor:
        return state["variance"]

    def check(self, data: Data) -> None:
        source = self._source()
        differs = "it has other feature names than the data" if source.names != data.names else ""
        if source.shape != data.shape:
            differs = f"its samples have shape {list(source.shape)}, but the data have shape {list(data.shape)}"
        if differs:
            advice = "Choose data sets of one kind, like two selections from one file."
            raise ConfigError("noise.dataset", f"{differs}. {advice}")

    def fingerprint(self) -> dict[str, str | int]:
        return self._source().fingerprint

    def _source(self) -> Data:
        try:
            return load(self.dataset)
        except ConfigError as error:
            raise error.below("noise") from None
