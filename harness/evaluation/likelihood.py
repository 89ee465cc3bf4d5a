"""Likelihood of held-out samples under the flow, by the instantaneous change of variables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from scipy.special import stdtrit
from torch import Tensor

from harness.components.solvers import DormandPrince5
from harness.core.config import Count, Positive, Range
from harness.core.errors import ConfigError, Unsolvable
from harness.core.rng import stream
from harness.evaluation.flow_metrics import Flow, FlowMetric
from harness.evaluation.metric import Comparison, Estimate
from harness.flow.formulation import Formulation

EXACT = 32
"""Largest number of dimensions for which the divergence is exact if `probes` is 0."""


@dataclass(frozen=True, kw_only=True)
class BitsPerDim(FlowMetric, name="bits_per_dim"):
    """Negative log-likelihood of held-out samples in bits per dimension, in the units of the stored data.

    The flow runs from the data at `t_min` to the Gaussian noise at t = 1. The model is the flow that stops at `t_min`,
    divided by alpha(t_min). Where sigma(t_min) > 0, its samples keep noise of sd sigma / alpha: the value is then the
    likelihood under a slightly noised model, and a lower one is no better model of the clean data.

    Images of whole levels get uniform noise of one level, so the value bounds the bits that code the levels 0 to 255
    (8 for uniform levels). One draw of this noise is used. Published values that average the likelihood over K draws
    are lower; compare them only at K = 1. Floats get no noise, and their value can be negative.

    A class-conditional network is told the class of each sample. The 95 % interval is of the mean over samples; it
    includes the error of Hutchinson's estimator.
    """

    label = "bits per dimension"
    formula: ClassVar[str] = "-(log2 p_1(x_1) + int div v dt + log2|d x_0 / d stored|) / dimensions, t from {t_min:g}"
    source: ClassVar[str] = (
        "Chen et al. 2018, theorem 1; Grathwohl et al. 2019 (FFJORD), eq. 7; Song et al. 2021, appendix D.2; "
        "Lipman et al. 2023, appendix C"
    )

    t_min: Annotated[float, Range(0, 1, ends="[)")] = 0.0
    """Time at which the flow meets the data, in [0, 1)."""
    dequantise: bool = True
    """Whether whole levels get uniform noise in [-1/2, 1/2) levels; floats never do."""
    probes: Annotated[int, Range(0, 1000, why="samples add more error")] = 0
    """Rademacher vectors of Hutchinson's estimator of the divergence. 0: the exact divergence for at most 32
    dimensions, one vector above."""
    rtol: Positive = 1e-5
    """Relative tolerance of a step of dopri5."""
    atol: Positive = 1e-5
    """Absolute tolerance of a step of dopri5."""
    batch_size: Count = 128
    """Samples that are integrated together, in steps of equal size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples == 1:
            raise ConfigError("samples", "one sample has no interval. Take two or more.")

    @property
    def nfe(self) -> int:
        """0: dopri5 chooses its steps."""
        return 0

    def check(self, formulation: Formulation) -> None:
        super().check(formulation)
        if not formulation.noise.gaussian:
            reason = f"{self.name} needs the density of the noise, and {formulation.noise.name} is not Gaussian"
            raise ConfigError("", f"{reason}. Set noise=gaussian, or leave {self.name} out.")

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        held = given.data.held_out
        if len(held) < 2:
            raise ConfigError("", f"{self.name} needs two held-out samples or more. Leave it out.")
        if log_slope(given.data.encode, held[torch.arange(2)].float()) is None:
            reason = f"{self.name} needs data of which each value is encoded by itself"
            raise ConfigError("", f"{reason} (cells: dataset.pca=null). Leave {self.name} out.")

    def measure(self, flow: Flow) -> float:
        return self.estimate(flow).value

    def estimate(self, flow: Flow) -> Estimate:
        bits = self.bits(flow)
        half = stdtrit(len(bits) - 1, 0.975) * bits.std().item() / math.sqrt(len(bits))
        mean = bits.mean().item()
        return Estimate(mean, (mean - half, mean + half))

    def bits(self, flow: Flow) -> Tensor:
        """Return the bits per dimension of each held-out sample, float64 [N]; `Unsolvable` if dopri5 cannot go on."""
        stored, classes = flow.held_out(self.samples)
        random = stream(flow.seed, self.name, device=stored.device)
        levels = stored.float()
        if self.dequantise and not stored.is_floating_point():
            levels = levels + torch.rand(levels.shape, generator=random, device=stored.device) - 0.5
        stretched = log_slope(flow.encode, levels)
        assert stretched is not None
        x0 = flow.encode(levels)
        found = []
        for rows in torch.arange(len(x0), device=x0.device).split(self.batch_size):
            y = None if classes is None else classes[rows]
            found.append(self._log_density(flow, x0[rows], y, self.directions(x0[rows], random)))
        return -(torch.cat(found) + stretched) / (x0[0].numel() * math.log(2))

    def directions(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Return vectors e [K, B, ...] for x [B, ...] with E[sum_k e_k e_k^T] = I; all basis vectors are exact."""
        if self.probes == 0 and x[0].numel() <= EXACT:
            basis = torch.eye(x[0].numel(), device=x.device)
            return basis.view(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
        number = self.probes or 1
        signs = 2 * torch.randint(2, (number, *x.shape), generator=random, device=x.device) - 1
        return signs / math.sqrt(number)

    def _log_density(self, flow: Flow, x0: Tensor, y: Tensor | None, directions: Tensor) -> Tensor:
        """Return the log-density of encoded samples x0 [B, ...] under the model, in nats, float64 [B]."""
        path = flow.formulation.interpolant
        alpha = path.alpha(torch.tensor(self.t_min)).item()
        std = path.sigma(torch.ones(())).item() * flow.variance.to(x0).double().sqrt()

        def joint(state: Tensor, t: Tensor) -> Tensor:  # of x and the integral of the divergence, [B, D + 1]
            velocity, divergence = with_divergence(flow.field, state[:, :-1].view_as(x0), t, y, directions)
            return torch.cat([velocity.flatten(1), divergence[:, None]], 1)

        start = torch.cat([alpha * x0.flatten(1), x0.new_zeros(len(x0), 1)], 1)
        solver = DormandPrince5(rtol=self.rtol, atol=self.atol)
        times = torch.tensor([self.t_min, 1.0])
        try:
            end = solver.integrate(joint, start, times, torch.Generator())  # type: ignore[arg-type]
        except Unsolvable as error:
            raise error.told(f"{self.name}: {str(error).replace('solver.', 'its ')}") from error
        x1 = end[:, :-1].view_as(x0).double()
        of_noise = torch.distributions.Normal(torch.zeros_like(std), std).log_prob(x1)
        return of_noise.flatten(1).sum(1) + end[:, -1].double() + x0[0].numel() * math.log(alpha)


def log_slope(encode: Callable[[Tensor], Tensor], stored: Tensor) -> Tensor | None:
    """Return log |d encoded / d stored|, summed over a sample's values, float64 [B], for stored samples [B, ...].

    None if an encoded value depends on another value of the sample, or autograd cannot tell.
    """
    with torch.enable_grad():
        stored = stored.detach().requires_grad_()
        encoded = encode(stored)
    if encoded.shape != stored.shape or not encoded.requires_grad:
        return None
    (slope,) = torch.autograd.grad(encoded, stored, torch.ones_like(encoded), retain_graph=True)
    weights = torch.linspace(1, 2, stored.numel(), device=stored.device).view_as(stored)
    (weighted,) = torch.autograd.grad(encoded, stored, weights)
    if not torch.allclose(weighted, weights * slope, rtol=1e-4):
        return None
    return slope.double().abs().log().flatten(1).sum(1)


def with_divergence(
    field: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, t: Tensor, y: Tensor | None, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the velocity v at x [B, ...], t [B] and y [B], and sum_k e_k (dv/dx) e_k [B] for e = `directions`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        velocity = field(x, t, y)
    divergence = torch.zeros_like(t)
    for left, e in zip(reversed(range(len(directions))), directions, strict=True):
        (pulled,) = torch.autograd.grad(velocity, x, e.to(velocity), retain_graph=left > 0)
        divergence = divergence + (pulled * e).flatten(1).sum(1)
    return velocity.detach(), divergence
