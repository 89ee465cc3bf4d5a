"""Samples from a trained field: noise, a solver and a network, with every call counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from harness.components.noises import Noise
from harness.components.solvers import Solver
from harness.rng import stream


class CountedField:
    """A network as v(x, t) that knows how often it was called."""

    def __init__(self, network: nn.Module):
        self.network, self.calls = network, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x, t)


@torch.no_grad()
def generate(
    network: nn.Module,
    solver: Solver,
    nfe: int,
    noise: Noise,
    noise_state: Mapping[str, Tensor],
    shape: Sequence[int],
    num_samples: int,
    batch_size: int,
    streams: tuple[int | str, ...],
    device: torch.device | str,
) -> Iterator[Tensor]:
    """Batches [<= batch_size, *shape] of encoded samples, `num_samples` in all.

    Batch i starts from the noise of `stream(*streams, i)`, whatever the network, solver and NFE.
    """
    network.eval()
    for i, start in enumerate(range(0, num_samples, batch_size)):
        size = min(batch_size, num_samples - start)
        generator = stream(int(streams[0]), *streams[1:], i, device=device)
        field = CountedField(network)
        x = solver.integrate(field, noise.sample((size, *shape), generator, noise_state), nfe)
        assert field.calls == nfe
        yield x
