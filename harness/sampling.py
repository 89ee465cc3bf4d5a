"""Samples from a trained network: noise, a solver and a field whose every call is counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from harness.components.solvers import Solver
from harness.components.time_grids import TimeGrid
from harness.formulation import Formulation
from harness.rng import stream


class NetworkField:
    """A network of any prediction as velocity and score, that knows how often it was called."""

    def __init__(self, network: nn.Module, formulation: Formulation, noise_state: Mapping[str, Tensor]):
        self.network, self.prediction, self.interpolant = network, formulation.prediction, formulation.interpolant
        self.variance = formulation.noise.variance(noise_state)
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity at x [B, ...] and t [B], shaped like x."""
        return self._convert(self._output(x, t), x, t, "velocity")

    def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and score of p_t from one call."""
        output = self._output(x, t)
        return self._convert(output, x, t, "velocity"), self._convert(output, x, t, "score")

    def _output(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.network(self.prediction.network_input(x, t, self.interpolant, self.variance.to(x.device)), t)

    def _convert(self, output: Tensor, x: Tensor, t: Tensor, to: str) -> Tensor:
        return self.prediction.convert(output, x, t, self.interpolant, to, self.variance.to(x.device))


@torch.no_grad()
def generate(
    network: nn.Module,
    formulation: Formulation,
    noise_state: Mapping[str, Tensor],
    solver: Solver,
    time_grid: TimeGrid,
    nfe: int,
    shape: Sequence[int],
    num_samples: int,
    batch_size: int,
    streams: tuple[int | str, ...],
    device: torch.device | str,
) -> Iterator[tuple[Tensor, int]]:
    """Batches [<= batch_size, *shape] of encoded samples, `num_samples` in all, each with the calls that it took.

    Batch i starts from the noise of `stream(*streams, i)`, whatever the network, solver and NFE.
    """
    network.eval()
    times = time_grid.times(solver.steps(nfe), formulation.path(noise_state))
    scale = formulation.interpolant.sigma(torch.ones(1, device=device))
    for i, start in enumerate(range(0, num_samples, batch_size)):
        size = min(batch_size, num_samples - start)
        generator = stream(int(streams[0]), *streams[1:], i, device=device)
        field = NetworkField(network, formulation, noise_state)
        x1 = formulation.noise.sample((size, *shape), generator, noise_state)
        x = solver.integrate(field, scale.view(-1, *[1] * len(shape)) * x1, times, generator)
        assert solver.adaptive or field.calls == nfe
        yield x, field.calls
