"""The diagnostics of training, compared with the same sums over single samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.core.rng import stream
from harness.evaluation.flow_metrics import straightness
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective
from harness.training.diagnostics import (
    BINS,
    EDGES,
    EXPLOSION,
    MEMORY,
    SAMPLES,
    TOGETHER,
    WIDEST,
    Guard,
    Meter,
    Taken,
    gradients_by_noise,
    spread,
)
from harness.training.distributed import ALONE


def test_errors_fall_into_the_bins_of_their_log_snr() -> None:
    log_snr = torch.tensor([-math.inf, -6.0, -5.9, -0.1, 0.0, 3.0, 5.99, 6.0, math.inf])
    errors = torch.arange(1.0, 10.0)
    meter = Meter(lambda t: 2 * t, 4.5, "cpu")
    one = torch.tensor(1.0)
    for part, row in ((slice(0, 4), (2, 3, 4, 0)), (slice(4, 9), (4, 5, 6, 0))):
        meter.add(Taken(tuple(value * one for value in row), [(errors[part], log_snr[part] / 2)]))
    line = meter.fetch(ALONE)
    expected: dict[str, list[float]] = {name: [] for name in BINS}
    for value, error in zip(log_snr.tolist(), errors.tolist(), strict=True):
        expected[BINS[int(np.searchsorted(EDGES, value, side="right"))]].append(error)
    assert {k: v for k, v in line.items() if "/" in k} == {
        f"loss_by_log_snr/{k}": np.mean(v) for k, v in expected.items() if v
    }
    assert {k: v for k, v in line.items() if "/" not in k} == {
        "loss": 3,
        "grad_norm": 4,
        "transport_cost": 5,
        "clipped_share": 0.5,
    }
    assert not meter.scalars.any()
    assert not meter.bins.any()


@pytest.mark.parametrize("each", [1, 7, 1000])
def test_sums_do_not_depend_on_when_they_are_taken(each: int) -> None:
    """Equal to the last bit: a run that was stopped and resumed must log the same as an unbroken run."""
    random = torch.Generator().manual_seed(0)
    whole, parts = (Meter(torch.logit, 1.0, "cpu") for _ in range(2))
    for i in range(3 * TOGETHER + 5):
        row = torch.rand(4, generator=random).exp()
        errors = torch.rand(33, generator=random)
        t = torch.rand(33, generator=random)
        for meter in (whole, parts):
            meter.add(Taken(tuple(row), [(errors, t)]))
        if i % each == 0:
            parts.sum_up()
    whole.sum_up()
    parts.sum_up()
    assert torch.equal(whole.scalars, parts.scalars)
    assert torch.equal(whole.bins, parts.bins)


def test_a_bad_step_is_seen_at_once() -> None:
    meter = Meter(torch.logit, 1.0, "cpu")
    one = torch.tensor(1.0)
    meter.add(Taken((one, one, one, 0 * one), []))
    assert not meter.bad()
    meter.add(Taken((one, one, one, one), []))
    assert meter.bad()


class Straight(nn.Module):
    """A network of two weights, whose gradients have a simple formula."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.shift = nn.Parameter(torch.tensor(-0.2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * x + self.shift * t.view(-1, 1)


def test_gradients_by_noise_are_those_of_single_samples() -> None:
    """Mean gradient and, from parts of sixteen, an unbiased trace of the covariance, compared with a
    loop over samples.
    """
    network = Straight()
    objective = Objective(Formulation(), {})
    x0 = torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(0))
    found = gradients_by_noise(network, objective, x0, None, 3, 7)
    x1 = objective.formulation.noise.sample(x0.shape, stream(3, "noise", 7), {})
    for name, (low, high) in zip(BINS, itertools.pairwise((-WIDEST, *EDGES, WIDEST)), strict=True):
        t = torch.sigmoid(-(low + (high - low) * torch.rand(SAMPLES, generator=stream(3, "bins", 7))) / 2)
        xt = (1 - t[:, None]) * x0 + t[:, None] * x1
        error = 0.3 * xt - 0.2 * t[:, None] - (x1 - x0)
        single = torch.stack([(2 * error * xt).mean(1), (2 * error * t[:, None]).mean(1)], 1).double()
        assert found[f"grad_norm_by_log_snr/{name}"] == pytest.approx(single.mean(0).norm().item(), rel=1e-4)
        parts = single.view(2, 16, 2).mean(1)
        assert found[f"grad_variance_by_log_snr/{name}"] == pytest.approx(16 * parts.var(0).sum().item(), rel=1e-4)


def test_bins_that_a_path_does_not_reach_are_left_out() -> None:
    x0 = torch.randn(SAMPLES, 3)
    found = gradients_by_noise(
        Straight(), Objective(Formulation.parse({"interpolant": {"name": "ve", "sigma_max": 2}}), {}), x0, None, 0, 0
    )
    assert 0 < len(found) < 2 * len(BINS)


def test_measuring_changes_neither_weights_nor_gradients() -> None:
    network = Straight()
    before = [p.detach().clone() for p in network.parameters()]
    gradients_by_noise(network, Objective(Formulation(), {}), torch.randn(SAMPLES, 3), None, 0, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(p.grad is None for p in network.parameters())


def test_spread_is_a_ratio_of_standard_deviations() -> None:
    real = torch.randn(20_000, 2, 3, generator=torch.Generator().manual_seed(0))
    assert spread(0.5 * real + 7, real) == pytest.approx(0.5)
    narrow = real.clone()
    narrow[..., 0] = 0
    assert spread(narrow, real) == pytest.approx(math.sqrt(2 / 3), rel=0.02)
    assert spread(real, torch.ones(5, 6)) == math.inf


def judged(norms: list[float], guard: Guard | None = None, loss: float = 1.0) -> list[float]:
    guard = guard or Guard("cpu")
    return [guard(torch.tensor(loss), torch.tensor(norm), step).item() for step, norm in enumerate(norms)]


def test_a_value_that_is_not_finite_is_bad_and_does_not_count() -> None:
    guard = Guard("cpu")
    assert judged([2.0, math.nan, math.inf, 2.0], guard) == [0, 1, 1, 0]
    assert guard.usual == pytest.approx(math.log(2))
    assert judged([1.0], loss=math.nan) == [1]
    assert judged([1.0], loss=math.inf) == [1]
    assert judged([0.0]) == [0]


def test_the_usual_norm_is_the_mean_of_logs() -> None:
    norms = np.random.default_rng(0).lognormal(0, 1, MEMORY)
    guard = Guard("cpu")
    judged(norms.tolist(), guard)
    assert guard.usual == pytest.approx(np.log(norms).mean(), rel=1e-5)


def test_an_explosion_is_measured_by_the_usual_norm() -> None:
    usual = np.random.default_rng(0).lognormal(0, 1, 100).tolist()
    assert not any(judged(usual))
    assert judged([*usual, 10 * EXPLOSION, 1.0])[-2:] == [1, 0]
    assert judged([*usual, EXPLOSION / 100])[-1] == 0
    assert judged([1e-3, 10 * EXPLOSION])[-1] == 0, "the first steps are not judged by"


def test_a_straight_path_at_even_speed_is_straight() -> None:
    start, end = torch.randn(2, 50, 4, dtype=torch.float64)
    path = [start + i / 8 * (end - start) for i in range(9)]
    assert straightness(path) == pytest.approx({"straightness": 0, "curvature": 0}, abs=1e-10)


def test_a_half_circle_is_as_straight_as_its_integral_says() -> None:
    """x = (cos, sin)(pi t): the mean of |x' - chord|^2 = pi^2 - 2 pi 2 sin(pi t) + 4 is pi^2 - 4, and x' turns by pi^2
    in all.
    """
    angle = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    path = list(torch.stack([angle.cos(), angle.sin()], 1)[:, None])
    found = straightness(path)
    assert found["straightness"] == pytest.approx((math.pi**2 - 4) / 4, rel=1e-5)
    assert found["curvature"] == pytest.approx(math.pi**2 / 2, rel=1e-3)
