"""Every interpolant x prediction x solver against Gaussian data, whose marginal field is known.

Data N(m, s^2) and noise N(0, v) give x_t ~ N(alpha m, q) with q = alpha^2 s^2 + sigma^2 v; the velocity, the score
and the
posterior means are linear in x_t. The flow of the marginal ODE keeps (x_t - alpha m) / sqrt(q) constant.
"""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from harness.components.interpolants import Interpolant
from harness.core.registry import build, names
from harness.flow.formulation import Formulation
from harness.flow.sampling import NetworkField, Trained

MEAN = torch.tensor([0.4, -0.7, 0.1], dtype=torch.float64)
STD = torch.tensor([0.5, 0.9, 0.3], dtype=torch.float64)
PREDICTIONS = ["velocity", "data", "noise", "score", "edm"]
SIGMA_DATA = 0.5
EXACT = {"t_min": 0.0, "t_max": 1.0}


def moments(path: Interpolant, t: Tensor, variance: float) -> tuple[Tensor, Tensor, Tensor]:
    """alpha, sigma and q, [B, 1] and [B, 3]."""
    alpha = path.alpha(t)[:, None]
    sigma = path.sigma(t)[:, None]
    return alpha, sigma, (alpha * STD).square() + sigma.square() * variance


def exact(path: Interpolant, x: Tensor, t: Tensor, quantity: str, variance: float = 1.0) -> Tensor:
    """Return the best prediction of a quantity at x_t, from the formulas of the papers."""
    alpha, sigma, q = moments(path, t, variance)
    centred = (x - alpha * MEAN) / q
    x0 = MEAN + alpha * STD.square() * centred  # E[x0 | x_t]
    x1 = sigma * variance * centred  # E[x1 | x_t]
    if quantity == "edm":  # Karras et al. 2022, table 1, at sigma' = sigma sd / alpha and x' = x / alpha
        s = sigma * math.sqrt(variance) / alpha
        scaled = x / alpha
        skip = SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2)
        return (x0 - skip * scaled) / (s * SIGMA_DATA / (s**2 + SIGMA_DATA**2).sqrt())
    if quantity == "score":
        return -centred
    if quantity == "velocity":
        return path.alpha_dot(t)[:, None] * x0 + path.sigma_dot(t)[:, None] * x1
    return {"data": x0, "noise": x1}[quantity]


class Exact(nn.Module):
    """The network that training with a prediction should reach; it undoes the input scaling."""

    def __init__(self, path: Interpolant, quantity: str, variance: float):
        super().__init__()
        self.path = path
        self.quantity = quantity
        self.variance = variance

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.quantity == "edm":  # c_in x / alpha back to x
            alpha = self.path.alpha(t)[:, None]
            s = (self.path.sigma(t) / self.path.alpha(t))[:, None] * math.sqrt(self.variance)
            x = x * (s**2 + SIGMA_DATA**2).sqrt() * alpha
        return exact(self.path, x, t, self.quantity, self.variance)


def formulation(interpolant: str, prediction: str, noise: object = "gaussian") -> Formulation:
    clamps = {"t_min": 1e-6, "t_max": 1 - 1e-6}
    return Formulation.parse({"interpolant": interpolant, "prediction": {"name": prediction, **clamps}, "noise": noise})


@pytest.mark.parametrize("std", [1.0, 0.6])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("interpolant", names("interpolant"))
def test_conversions_are_exact(interpolant: str, prediction: str, std: float) -> None:
    """The velocity, data, noise and score from any prediction are those of the closed form."""
    made = formulation(interpolant, prediction, "matched")
    path = made.interpolant
    variance = std**2
    t = torch.linspace(0.02, 0.98, 33, dtype=torch.float64)
    x = torch.randn(33, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    output = exact(path, x, t, prediction, variance)
    for to in ("velocity", "data", "noise", "score"):
        converted = made.prediction.convert(output, x, t, path, to, torch.tensor(variance, dtype=torch.float64))
        torch.testing.assert_close(converted, exact(path, x, t, to, variance), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("interpolant", names("interpolant"))
def test_targets_average_to_the_exact_prediction(interpolant: str, prediction: str) -> None:
    """E[target | x_t] is the closed form: the residual has mean zero and is uncorrelated with x_t.

    Everything is linear in both ends. The means over the four points with each end one standard deviation away are
    exact.
    """
    made = formulation(interpolant, prediction)
    z0, z1 = torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1]], dtype=torch.float64)[..., None]
    x0 = MEAN + STD * z0
    x1 = z1.expand(4, 3)
    for time in torch.linspace(0.02, 0.98, 33, dtype=torch.float64):
        t = time.expand(4)
        xt = made.interpolant.interpolate(x0, x1, t)
        target = made.prediction.target(x0, x1, t, made.interpolant)
        residual = target - exact(made.interpolant, xt, t, prediction)
        assert residual.mean(0).abs().max() < 1e-9 * target.abs().max(), time
        assert (residual * xt).mean(0).abs().max() < 1e-9 * (target * xt).abs().max(), time


@pytest.mark.parametrize("interpolant", names("interpolant"))
def test_the_factor_is_the_slope_of_the_conversion(interpolant: str) -> None:
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    x, output, error = torch.randn(3, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for prediction, to in itertools.product(PREDICTIONS, ["velocity", "data", "noise", "score"]):
        made = formulation(interpolant, prediction)
        convert = made.prediction.convert
        moved = convert(output + error, x, t, made.interpolant, to) - convert(output, x, t, made.interpolant, to)
        expected = made.prediction.factor(t, made.interpolant, to)[:, None] * error
        torch.testing.assert_close(
            moved, expected, rtol=1e-9, atol=1e-9, msg=partial("{}: {}".format, (prediction, to))
        )


SOLVERS = {
    "euler": (100, 600), "heun": (48, 120), "midpoint": (48, 160), "ab2": (100, 100), "rk4": (100, 48), "dopri5": (0, 0)
}  # fmt: skip
"""{solver: (calls for enough accuracy, calls on `ve` and `edm`, which start far outside the data)}"""


def start(path: Interpolant, n: int) -> tuple[Tensor, Tensor]:
    """Return x at t = 1, and the end of its marginal flow at t = 0."""
    z = torch.from_numpy(stats.norm.ppf((torch.arange(n, dtype=torch.float64) + 0.5).numpy() / n))[:, None].expand(n, 3)
    ends = []
    for time in (1.0, 0.0):
        alpha, _, q = moments(path, torch.tensor([time], dtype=torch.float64), 1.0)
        ends.append(alpha * MEAN + q.sqrt() * z)
    return ends[0], ends[1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("interpolant", names("interpolant"))
def test_every_solver_follows_the_flow_of_every_prediction(interpolant: str, prediction: str) -> None:
    made = formulation(interpolant, prediction)
    x1, x0 = start(made.interpolant, 9)
    for solver, calls in SOLVERS.items():
        far = interpolant in ("ve", "edm")
        nfe = calls[far]
        method = build("solver", solver)
        field = NetworkField(Trained(Exact(made.interpolant, prediction, 1.0), made, {}))
        u = torch.linspace(1 - 1e-6, 1e-6, method.steps(nfe) + 1, dtype=torch.float64)
        if interpolant == "edm":  # short steps at the data, where even ones would be far apart in noise level
            u = u**3
        elif not far:  # short steps at both ends, where some paths are steep
            u = u**2 / (u**2 + (1 - u) ** 2)
        reached = method.integrate(field, x1, u, torch.Generator())
        assert field.calls == nfe or method.adaptive, solver
        torch.testing.assert_close(
            reached, x0, rtol=0, atol=5e-2 if solver == "euler" else 2e-2, msg=partial("{}: {}".format, solver)
        )
