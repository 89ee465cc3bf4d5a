"""Sampling from a trained network: noise, a solver, and a field that counts its calls."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from harness.components.averages import Average, Ema, PostHoc
from harness.components.interpolants import Interpolant
from harness.components.noises import Noise
from harness.components.solvers import Euler, Solver
from harness.components.time_grids import TimeGrid, UniformGrid
from harness.core.config import Config, Count, Fraction, NonNegative
from harness.core.errors import ConfigError
from harness.core.rng import stream
from harness.flow.formulation import Formulation, require_score

ROUNDING = 1e-6
"""Tolerance for times in float32: a grid time at an end of the guidance interval is inside it."""


@dataclass(frozen=True, kw_only=True)
class Guidance(Config):
    """Classifier-free guidance: output without classes + scale (output with classes - output without)."""

    source: ClassVar[str] = "Ho & Salimans 2022, eq. 6, whose w is scale - 1; interval: Kynkaanniemi et al. 2024"

    scale: NonNegative = 1.0
    """Guidance scale; 1 means no guidance and one call of the network, any other value takes two calls."""
    low: Fraction = 0.0
    """Last guided time, in [0, 1]; sampling runs from 1 to 0."""
    high: Fraction = 1.0
    """First guided time, in [0, 1]. Outside [low, high] the network is called once, with classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ConfigError("low", f"{self.low} is above high = {self.high}. Swap them.")

    def at(self, t: Tensor) -> bool:
        """Whether the network is called twice at times t [B], which are all equal."""
        if self.scale == 1 or (self.low == 0 and self.high == 1):
            return self.scale != 1
        return self.low - ROUNDING <= t.flatten()[0].item() <= self.high + ROUNDING


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """How samples are drawn from a trained network. A subclass sets the number of calls."""

    solver: Solver = Euler()
    time_grid: TimeGrid = UniformGrid()
    guidance: Guidance = Guidance()
    average: Average = Ema()
    """Average of the weights over training that generates the samples."""
    checkpoint: Literal["last", "best"] = "last"
    """last: the weights at the end of training; best: the weights with the lowest held-out loss."""
    batch_size: Count = 500
    """Samples per batch; each batch has its own stream of noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint == "best" and isinstance(self.average, PostHoc):
            raise ConfigError(
                "checkpoint", "a posthoc average ends at the last snapshot, not at the best checkpoint. Set it to last."
            )
        for nfe in self.every_nfe:
            if self.guidance.scale == 1 or self.solver.adaptive:  # else the grid decides: `times` checks it
                self.solver.steps(nfe)

    @property
    def every_nfe(self) -> tuple[int, ...]:
        """Every number of calls of the network (NFE) to sample with; 0 lets an adaptive solver choose."""
        return ()

    def times(self, nfe: int, path: Interpolant) -> Tensor:
        """Return the solver's times for `nfe` calls, float64 [steps + 1] from 1 to 0; `ConfigError` if none exist."""
        return self.time_grid.times(steps_of(self.solver, self.time_grid, path, self.guidance, nfe), path)

    def check(
        self, at: str, learned: Formulation, decays: Sequence[float], snapshots: bool, who: str = "the network"
    ) -> None:
        """Raise `ConfigError` if `who`, trained by `learned`, cannot be sampled with this configuration.

        `at`: the path of this configuration. `decays`: decays of the averages that training keeps. `snapshots`:
        whether training keeps snapshots.
        """
        try:
            self.average.check(decays, snapshots)
        except ConfigError as error:
            raise error.below(f"{at}.average") from None
        try:
            self.solver.check(learned.interpolant)
        except ConfigError as error:
            raise error.below(f"{at}.solver") from None
        if self.solver.needs_score:
            require_score(f"{at}.solver", self.solver.name, "euler", learned)
            learned.refuse_unbounded("score")
        if self.checkpoint == "best" and learned.coupling.brings_data:
            reason = "training on pairs has no held-out loss, so it has no best checkpoint"
            raise ConfigError(f"{at}.checkpoint", f"{reason}. Set it to last.")
        if self.guidance.scale != 1 and not learned.objective.label_dropout:
            state = "is told no classes" if learned.objective.label_dropout is None else "always sees the classes"
            advice = "Train it with objective.label_dropout above 0, like 0.1."
            raise ConfigError(f"{at}.guidance", f"{who} {state}. {advice}")


class Trained(NamedTuple):
    """A trained network, and all else that sampling needs."""

    network: nn.Module
    formulation: Formulation
    noise_state: Mapping[str, Tensor]
    device: str = "cpu"
    """Device of the network."""
    start: tuple[Noise, Mapping[str, Tensor]] | None = None
    """Noise that sampling starts from, with its state; None for the noise of training."""


class NetworkField:
    """Velocity and score from a network of any prediction; it counts the calls of the network."""

    def __init__(
        self, trained: Trained, y: Tensor | None = None, guidance: Guidance | None = None,
        visited: list[Tensor] | None = None,
    ):  # fmt: skip
        self.network = trained.network
        self.prediction = trained.formulation.prediction
        self.interpolant = trained.formulation.interpolant
        self.variance = trained.formulation.noise.variance(trained.noise_state)
        self.y = y
        self.guidance = guidance or Guidance()
        self.visited = visited
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity at x [B, ...] and t [B], shaped like x."""
        return self._convert(self._output(x, t), x, t, "velocity")

    def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and score of p_t at x [B, ...] and t [B], both shaped like x, from one call."""
        output = self._output(x, t)
        return self._convert(output, x, t, "velocity"), self._convert(output, x, t, "score")

    def _output(self, x: Tensor, t: Tensor) -> Tensor:
        if self.visited is not None:
            self.visited.append(x)
        self.variance = self.variance.to(x.device)
        guided = self.guidance.at(t)
        x = self.prediction.network_input(x, t, self.interpolant, self.variance)
        t = self.prediction.network_time(t, self.interpolant, self.variance)
        if not guided:
            self.calls += 1
            return self.network(x, t) if self.y is None else self.network(x, t, self.y)
        assert self.y is not None
        self.calls += 2
        y = torch.cat([torch.full_like(self.y, -1), self.y])
        without, with_classes = self.network(torch.cat([x, x]), torch.cat([t, t]), y).chunk(2)
        return torch.lerp(without, with_classes, self.guidance.scale)

    def _convert(self, output: Tensor, x: Tensor, t: Tensor, to: str) -> Tensor:
        return self.prediction.convert(output, x, t, self.interpolant, to, self.variance)


def steps_of(solver: Solver, time_grid: TimeGrid, path: Interpolant, guidance: Guidance, nfe: int) -> int:
    """Return the number of solver steps that take `nfe` calls of the network; `ConfigError` if there is none."""
    if guidance.scale == 1 or solver.adaptive:
        return solver.steps(nfe)

    def calls(steps: int) -> int:
        still = Trained(lambda x, t, y: 0 * x, Formulation(), {})  # type: ignore[arg-type]
        field = NetworkField(still, torch.zeros(1, dtype=torch.long), guidance)
        solver.integrate(field, torch.zeros(1, 1, dtype=torch.float64), time_grid.times(steps, path), torch.Generator())
        return field.calls

    steps = bisect.bisect_left(range(1, nfe + 1), nfe, key=calls) + 1
    if steps > nfe or calls(steps) != nfe:
        below, above = (calls(max(1, n)) for n in (steps - 1, steps))
        raise ConfigError(
            "nfe", f"{solver.name} with this guidance cannot spend {nfe} calls. Choose {below} or {above}."
        )
    return steps


class Generated(NamedTuple):
    """A batch of samples."""

    x: Tensor
    """Encoded samples, [B, ...]."""
    y: Tensor | None
    """Classes that the network received, [B]."""
    calls: int
    """Calls of the network per sample."""
    noise: Tensor
    """Noise x1 that sampling started from, as the noise component drew it, [B, ...]."""


@torch.no_grad()
def generate(
    trained: Trained,
    sampling: SamplingConfig,
    nfe: int,
    shape: Sequence[int],
    number: int,
    streams: tuple[int | str, ...],
    *,
    classes: Tensor | None = None,
    visited: list[Tensor] | None = None,
    first: int = 0,
) -> Iterator[Generated]:
    """Yield batches of at most `sampling.batch_size` encoded samples of `shape`, `number` in all, by `nfe` calls each.

    Batch i starts from the noise of `stream(*streams, i)`, for every network, solver and NFE. The classes are drawn
    from `classes`, with replacement. `visited` collects x at every call of the network. The first `first` batches are
    left out.
    """
    trained.network.eval()
    formulation = trained.formulation
    noise, noise_state = trained.start or (formulation.noise, trained.noise_state)
    device = trained.device
    times = sampling.times(nfe, formulation.path(trained.noise_state))
    scale = formulation.interpolant.sigma(torch.ones(1, device=device)).view(-1, *[1] * len(shape))
    for i, start in itertools.islice(enumerate(range(0, number, sampling.batch_size)), first, None):
        size = min(sampling.batch_size, number - start)
        generator = stream(int(streams[0]), *streams[1:], i, device=device)
        y = None
        if classes is not None:
            chosen = torch.randint(len(classes), (size,), generator=stream(int(streams[0]), *streams[1:], "classes", i))
            y = classes[chosen].to(device)
        field = NetworkField(trained, y, sampling.guidance, visited)
        x1 = noise.sample((size, *shape), generator, noise_state)
        x = sampling.solver.integrate(field, scale * x1, times, generator)
        assert sampling.solver.adaptive or field.calls == nfe
        yield Generated(x, y, field.calls, x1)
