"""Comparison with torchcfm and flow_matching, whose time runs from noise to data: t here is their 1 - t, and velocities
change sign.
"""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from flow_matching.path import AffineProbPath, CondOTProbPath
from flow_matching.path.scheduler import (
    CondOTScheduler,
    CosineScheduler,
    LinearVPScheduler,
    PolynomialConvexScheduler,
    Scheduler,
    VPScheduler,
)
from torch import Tensor
from torchcfm.conditional_flow_matching import (
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
    TargetConditionalFlowMatcher,
    VariancePreservingConditionalFlowMatcher,
)
from torchcfm.optimal_transport import OTPlanSampler

from harness.components.couplings import ExactOT, Sinkhorn, transport_cost
from harness.components.interpolants import (
    DDPM,
    GVP,
    FlowMatchingOT,
    Interpolant,
    Linear,
    Polynomial,
    VariancePreserving,
)
from harness.components.predictions import Velocity
from harness.core.registry import build

SHAPES = pytest.mark.parametrize("shape", [(3,), (2, 4, 4)], ids=str)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def batch(n: int, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return data and noise [n, ...]."""
    generator = torch.Generator().manual_seed(seed)
    x0, x1 = (torch.randn(n, *shape, dtype=dtype, generator=generator) for _ in range(2))
    return 0.5 * x0 + 1, x1


# torchcfm: its x0 is noise, its x1 data

MATCHERS = {
    "linear": (Linear(), ConditionalFlowMatcher(sigma=0.0)),
    "fm_ot-0.1": (FlowMatchingOT(sigma_min=0.1), TargetConditionalFlowMatcher(sigma=0.1)),
    "fm_ot": (FlowMatchingOT(), TargetConditionalFlowMatcher(sigma=1e-4)),
    "fm_ot-0": (FlowMatchingOT(sigma_min=0), TargetConditionalFlowMatcher(sigma=0.0)),
    "gvp": (GVP(), VariancePreservingConditionalFlowMatcher(sigma=0.0)),
}


@SHAPES
@pytest.mark.parametrize(("path", "matcher"), MATCHERS.values(), ids=MATCHERS)
def test_paths_and_velocities_are_torchcfms(
    path: Interpolant, matcher: ConditionalFlowMatcher, shape: tuple[int, ...]
) -> None:
    t = torch.linspace(
        0, 0.999, 101, dtype=torch.float64
    )  # the target matcher divides by 1 - (1 - sigma) t, with their t
    t = t.clamp(min=1e-3) if isinstance(matcher, TargetConditionalFlowMatcher) else t
    data, noise = batch(len(t), shape)
    torch.manual_seed(0)
    _, theirs, velocity, drawn = matcher.sample_location_and_conditional_flow(noise, data, 1 - t, return_noise=True)
    if isinstance(matcher, TargetConditionalFlowMatcher):
        noise = drawn  # it ignores the given noise and draws other noise
    close(path.interpolate(data, noise, t), theirs)
    close(path.velocity(data, noise, t), -velocity)
    close(Velocity().target(data, noise, t, path), -velocity)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [16, 100])
def test_exact_ot_costs_what_torchcfms_plan_does(seed: int, n: int) -> None:
    data, noise = batch(n, (2, 2), seed)
    plan = ExactOptimalTransportConditionalFlowMatcher().ot_sampler.get_map(data, noise)
    cost = (plan * torch.cdist(data.flatten(1), noise.flatten(1)).square().numpy()).sum()
    assert transport_cost(*ExactOT().pair(data, noise, torch.Generator())[:2]).item() == pytest.approx(cost, rel=1e-6)


def test_exact_ot_pairs_as_torchcfm_does() -> None:
    """Drawn without replacement, its n pairs equal ours."""
    data, noise = batch(50, (3,))
    np.random.seed(0)
    theirs = torch.cat(OTPlanSampler("exact").sample_plan(data, noise, replace=False), 1)
    ours = torch.cat(ExactOT().pair(data, noise, torch.Generator())[:2], 1)
    assert torch.equal(ours[ours[:, 0].argsort()], theirs[theirs[:, 0].argsort()])


@pytest.mark.parametrize("reg", [0.05, 0.5])
def test_sinkhorn_draws_from_torchcfms_plan(reg: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its regularisation is absolute; ours is in medians of the squared distances."""
    data, noise = batch(32, (3,))
    draw = Mock(wraps=torch.multinomial)
    monkeypatch.setattr(torch, "multinomial", draw)
    Sinkhorn(reg=reg).pair(data, noise, torch.Generator())
    median = np.median(torch.cdist(data, noise).square().numpy())
    plan = OTPlanSampler("sinkhorn", reg=reg * median).get_map(data, noise)
    torch.testing.assert_close(
        draw.call_args_list[0].args[0], torch.from_numpy(plan / plan.sum(1, keepdims=True)), rtol=1e-3, atol=1e-6
    )


# flow_matching: its x_0 is noise, its x_1 data

SCHEDULERS: dict[str, tuple[Interpolant, Scheduler]] = {
    "linear": (Linear(), CondOTScheduler()),
    "polynomial-1": (Polynomial(power=1), PolynomialConvexScheduler(1)),
    "polynomial-2": (Polynomial(), PolynomialConvexScheduler(2)),
    "polynomial-3.5": (Polynomial(power=3.5), PolynomialConvexScheduler(3.5)),
    "gvp": (GVP(), CosineScheduler()),
    "vp_ddpm": (DDPM(), VPScheduler()),
    "vp_ddpm-1-10": (DDPM(beta_min=1, beta_max=10), VPScheduler(beta_min=1, beta_max=10)),
}
every_scheduler = pytest.mark.parametrize(("path", "scheduler"), SCHEDULERS.values(), ids=SCHEDULERS)
BOUNDED = [name for name in SCHEDULERS if not name.startswith("vp_ddpm")]


@every_scheduler
def test_factors_and_their_derivatives_are_flow_matchings(path: Interpolant, scheduler: Scheduler) -> None:
    t = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    theirs = scheduler(1 - t)
    close(path.alpha(t), theirs.alpha_t)
    close(path.sigma(t), theirs.sigma_t)
    close(path.alpha_dot(t), -theirs.d_alpha_t)
    close(path.sigma_dot(t), -theirs.d_sigma_t)


@pytest.mark.parametrize("name", BOUNDED)
def test_they_agree_at_both_ends_too(name: str) -> None:
    path, scheduler = SCHEDULERS[name]
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    theirs = scheduler(1 - t)
    close(path.alpha(t), theirs.alpha_t)
    close(path.sigma(t), theirs.sigma_t)
    close(path.alpha_dot(t), -theirs.d_alpha_t)
    close(path.sigma_dot(t), -theirs.d_sigma_t)


@every_scheduler
@SHAPES
def test_paths_and_velocities_are_flow_matchings(
    path: Interpolant, scheduler: Scheduler, shape: tuple[int, ...]
) -> None:
    t = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    data, noise = batch(len(t), shape)
    paths = [AffineProbPath(scheduler), *([CondOTProbPath()] if isinstance(path, Linear) else [])]
    for theirs in (other.sample(x_0=noise, x_1=data, t=1 - t) for other in paths):
        close(path.interpolate(data, noise, t), theirs.x_t)
        close(path.velocity(data, noise, t), -theirs.dx_t)


@every_scheduler
def test_times_of_a_signal_to_noise_ratio_are_flow_matchings(path: Interpolant, scheduler: Scheduler) -> None:
    """Their ratio is alpha / sigma; ours is the square."""
    log_snr = path.log_snr(torch.linspace(0.02, 0.98, 49, dtype=torch.float64))
    close(path.time_of_log_snr(log_snr), 1 - scheduler.snr_inverse(torch.exp(log_snr / 2)))


CONVERSIONS = [
    ("data", "velocity", "target_to_velocity"),
    ("noise", "velocity", "epsilon_to_velocity"),
    ("velocity", "data", "velocity_to_target"),
    ("velocity", "noise", "velocity_to_epsilon"),
    ("noise", "data", "epsilon_to_target"),
    ("data", "noise", "target_to_epsilon"),
]
every_conversion = pytest.mark.parametrize(
    ("predicted", "to", "theirs"), CONVERSIONS, ids=[theirs for _, _, theirs in CONVERSIONS]
)


def sign(quantity: str) -> int:
    return -1 if quantity == "velocity" else 1


@every_conversion
@every_scheduler
def test_conversions_are_flow_matchings(
    predicted: str, to: str, theirs: str, path: Interpolant, scheduler: Scheduler
) -> None:
    """For any output at any x, not only for targets on the path."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    output, x = batch(len(t), (3,))
    convert = getattr(AffineProbPath(scheduler), theirs)
    expected = sign(to) * convert(sign(predicted) * output, x, 1 - t[:, None])
    close(build("prediction", predicted).convert(output, x, t, path, to), expected)


# flow_matching's LinearVPScheduler is linear in the data's factor, `vp` in the noise's: they mirror each other


def test_vp_is_flow_matchings_linear_vp_with_data_and_noise_exchanged() -> None:
    t = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    path = VariancePreserving()
    theirs = LinearVPScheduler()(t)
    close(path.sigma(t), theirs.alpha_t)
    close(path.alpha(t), theirs.sigma_t)
    close(path.sigma_dot(t), theirs.d_alpha_t)
    close(path.alpha_dot(t), theirs.d_sigma_t)
    assert not torch.allclose(path.alpha(t), LinearVPScheduler()(1 - t).alpha_t, atol=0.1)


def test_vp_goes_through_flow_matchings_linear_vp_at_another_speed() -> None:
    """The factors are equal where the SNR is equal."""
    t = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    path = VariancePreserving()
    scheduler = LinearVPScheduler()
    theirs = scheduler(scheduler.snr_inverse(path.snr(t).sqrt()))
    close(path.alpha(t), theirs.alpha_t)
    close(path.sigma(t), theirs.sigma_t)


EXCHANGED = {"data": "noise", "noise": "data", "velocity": "velocity"}


@every_conversion
def test_vps_conversions_are_linear_vps_with_data_and_noise_exchanged(predicted: str, to: str, theirs: str) -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    output, x = batch(len(t), (3,))
    expected = getattr(AffineProbPath(LinearVPScheduler()), theirs)(output, x, t[:, None])
    close(
        build("prediction", EXCHANGED[predicted]).convert(output, x, t, VariancePreserving(), EXCHANGED[to]), expected
    )
