"""Training times: the draws follow the declared density, for every way of drawing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from harness.components.interpolants import Interpolant, Linear, Scaled
from harness.components.time_samplers import (
    Beta,
    CosMap,
    EDMLogNormal,
    LogitNormal,
    LogUniform,
    LowDiscrepancy,
    Mode,
    Power,
    Shifted,
    Stratified,
    TimeSampler,
    Truncated,
    Uniform,
    UShaped,
)
from harness.core.errors import ConfigError
from harness.core.registry import build, find, names

N = 100_000
INDEPENDENT = 1.95 / N**0.5
"""Kolmogorov-Smirnov distance that independent draws stay below in 999 of 1000 cases."""
EVEN = 3e-4
"""The same for one draw in each of N intervals; most of it comes from float32 times that round to the end of an
interval.
"""

EDGES = [s**3 * (10 - 15 * s + 6 * s**2) for s in (1 / 8, 1 / 4, 3 / 4)]
"""Times between two points of `distribution`, where a density may jump."""
RATIOS = [t / (1 - t) for t in EDGES]
"""sigma / alpha of the linear path there."""

PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "uniform": [{}],
    "stratified": [{}],
    "low_discrepancy": [{}, {"of": {"name": "logit_normal", "mean": 0.5}}, {"of": "edm_lognormal"}, {"of": "shifted"}],
    "power": [{"p": 0.5}, {"p": 1}, {}, {"p": 3}],
    "logit_normal": [{}, {"mean": -0.5, "std": 0.5}, {"mean": 1, "std": 2}],
    "mode": [{"scale": -0.9}, {"scale": 0}, {}, {"scale": 1.6}],
    "cosmap": [{}],
    "beta": [{}, {"a": 1, "b": 1.5}, {"a": 0.5, "b": 0.5}, {"a": 2, "b": 5}],
    "u_shaped": [{"a": 0.5}, {}, {"a": 12}],
    "edm_lognormal": [{}, {"mean": 0, "std": 1}, {"mean": -1.1, "std": 2}],
    "shifted": [
        {},
        {"shift": 0.5},
        {"of": "logit_normal"},
        {"shift": 2, "of": {"name": "power", "p": 2}},
        {"of": "edm_lognormal"},
    ],
    "log_uniform": [
        {"sigma_min": RATIOS[0], "sigma_max": RATIOS[2]},
        {"sigma_min": RATIOS[1], "sigma_max": RATIOS[2]},
    ],
    "truncated": [
        {},
        {"low": EDGES[0], "high": EDGES[2]},
        {"low": EDGES[1], "of": "edm_lognormal"},
        {"low": 0, "high": EDGES[1], "of": {"name": "shifted", "shift": 2}},
    ],
}
SPECS = [{"name": name, **fields} for name, several in PARAMETERS.items() for fields in several]
SAMPLERS = {"-".join(map(str, spec.values())): build("time_sampler", spec) for spec in SPECS}
PATHS = {name: build("interpolant", name) for name in names("interpolant")} | {"scaled": Scaled(path=Linear(), std=0.3)}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def support(sampler: TimeSampler) -> list[float]:
    """The earliest and the latest time on the linear path."""
    if isinstance(sampler, LogUniform):
        return [level / (1 + level) for level in (sampler.sigma_min, sampler.sigma_max)]
    return [sampler.low, sampler.high] if isinstance(sampler, Truncated) else [0, 1]


def stratified(sampler: TimeSampler) -> TimeSampler:
    return sampler if isinstance(sampler, LowDiscrepancy) else dataclasses.replace(sampler, stratify=True)


def draw(sampler: TimeSampler, n: int = N, seed: int = 0, path: Interpolant | None = None) -> Tensor:
    return sampler.sample(n, torch.Generator().manual_seed(seed), "cpu", path)


def distribution(sampler: TimeSampler, path: Interpolant | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return times and the integral of the density up to each: midpoints of t = s^3 (10 - 15 s + 6 s^2), fine at both
    ends.
    """
    s = torch.linspace(0, 1, 40_001, dtype=torch.float64)
    middle = (s[1:] + s[:-1]) / 2
    t = middle**3 * (10 - 15 * middle + 6 * middle**2)
    dt = 30 * (middle * (1 - middle)) ** 2 / 40_000
    edges = s**3 * (10 - 15 * s + 6 * s**2)
    return edges.numpy(), np.concatenate([[0], (sampler.density(t, path) * dt).cumsum(0).numpy()])


def distance(t: Tensor, distribution_function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the Kolmogorov-Smirnov distance between the draws' distribution function and another."""
    expected = distribution_function(t.double().sort().values.numpy())
    n = len(t)
    return max((np.arange(1, n + 1) / n - expected).max(), (expected - np.arange(n) / n).max())


def declared(sampler: TimeSampler, path: Interpolant | None = None) -> Callable[[np.ndarray], np.ndarray]:
    times, integral = distribution(sampler, path)
    return lambda x: np.interp(x, times, integral)


def test_every_member_is_tested_here() -> None:
    own = {name for name in names("time_sampler") if find("time_sampler", name).__module__.startswith("harness.")}
    assert own == set(PARAMETERS)


# The density, its integral and its inverse


@every_sampler
def test_draws_follow_the_density(sampler: TimeSampler) -> None:
    t = draw(sampler)
    assert (t.dtype, t.shape) == (torch.float32, (N,))
    assert ((t >= 0) & (t <= 1)).all()
    assert distance(t, declared(sampler)) < INDEPENDENT


@every_sampler
def test_stratified_draws_follow_it_evenly(sampler: TimeSampler) -> None:
    assert distance(draw(stratified(sampler)), declared(sampler)) < EVEN


@every_sampler
def test_the_density_is_not_negative_and_integrates_to_one(sampler: TimeSampler) -> None:
    _, integral = distribution(sampler)
    assert (np.diff(integral) >= 0).all()
    assert integral[-1] == pytest.approx(1, abs=1e-6)


@every_sampler
def test_the_quantile_function_inverts_the_distribution(sampler: TimeSampler) -> None:
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    t = sampler.quantile(u)
    assert t.dtype == torch.float64
    assert (t.diff() > 0).all()
    assert t[[0, -1]].tolist() == pytest.approx(support(sampler), abs=1e-15)
    np.testing.assert_allclose(declared(sampler)(t.numpy()), u.numpy(), atol=1e-6)


SCIPY = {
    "beta": (Beta(), stats.beta(1.5, 1).cdf),
    "beta-2-5": (Beta(a=2, b=5), stats.beta(2, 5).cdf),
    "beta-arcsine": (Beta(a=0.5, b=0.5), stats.arcsine.cdf),
    "power": (Power(p=3), stats.powerlaw(1 / 3).cdf),
    "power-0.5": (Power(p=0.5), stats.powerlaw(2).cdf),
    "logit_normal": (LogitNormal(), lambda t: stats.norm.cdf(np.log(t / (1 - t)))),
    "logit_normal-shifted": (LogitNormal(mean=-0.7, std=1.5), lambda t: stats.norm(-0.7, 1.5).cdf(np.log(t / (1 - t)))),
    "edm_lognormal": (EDMLogNormal(), lambda t: stats.norm(-1.2, 1.2).cdf(np.log(t / (1 - t)))),
    "cosmap": (CosMap(), lambda t: stats.halfcauchy.cdf(t / (1 - t))),  # sigma / alpha = tan(pi u / 2)
    "uniform": (Uniform(), stats.uniform.cdf),
    "log_uniform": (LogUniform(sigma_min=0.1, sigma_max=9), lambda t: stats.loguniform(0.1, 9).cdf(t / (1 - t))),
    "truncated": (Truncated(low=0.2, high=0.7), stats.uniform(0.2, 0.5).cdf),
    "truncated-logit_normal": (
        Truncated(low=0.2, high=0.7, of=LogitNormal()),
        lambda t: stats.truncnorm(math.log(0.2 / 0.8), math.log(0.7 / 0.3)).cdf(np.log(t / (1 - t))),
    ),
}


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize(("sampler", "distribution_function"), SCIPY.values(), ids=SCIPY)
def test_draws_follow_scipys_distribution(
    sampler: TimeSampler, distribution_function: Callable, stratify: bool
) -> None:
    t = draw(dataclasses.replace(sampler, stratify=stratify), seed=2)
    with np.errstate(divide="ignore"):
        assert distance(t, distribution_function) < (EVEN if stratify else INDEPENDENT)


@every_sampler
def test_draws_are_finite_at_the_ends_of_the_random_numbers(
    sampler: TimeSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (0.0, 1 - 2**-24):  # torch.rand returns values between these
        monkeypatch.setattr(torch, "rand", lambda n, value=value, **_: torch.full((n,), value))
        for t in (
            draw(sampler, 8),
            draw(stratified(sampler), 8),
            sampler.quantile(torch.tensor([value], dtype=torch.float64)),
        ):
            assert ((t >= 0) & (t <= 1)).all()


# The spread of draws


@every_sampler
def test_stratified_draws_fall_one_into_each_interval_in_random_order(sampler: TimeSampler) -> None:
    for n in (1, 7, 128, 1000):
        t = draw(stratified(sampler), n, seed=3).double()
        edges = sampler.quantile(torch.linspace(0, 1, n + 1, dtype=torch.float64))
        assert np.histogram(t.numpy(), edges.numpy())[0].tolist() == [1] * n
        assert n == 1 or not torch.equal(t, t.sort().values), n
        assert n == 1 or not torch.equal(t.argsort(), draw(stratified(sampler), n, seed=4).argsort()), n


@pytest.mark.parametrize(
    "sampler", [Uniform(), Uniform(stratify=True), LowDiscrepancy()], ids=["plain", "stratified", "low_discrepancy"]
)
@pytest.mark.parametrize("n", [7, 128, 1000])
def test_the_random_numbers_stay_below_one(sampler: TimeSampler, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `uniforms` promises, also for the largest number that torch.rand can return."""
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), 1 - 2**-24))
    u = sampler.uniforms(n, torch.Generator().manual_seed(0), "cpu")
    assert 0 <= u.min() <= u.max() < 1


def test_stratified_is_uniform_stratified() -> None:
    assert torch.equal(draw(Stratified(), 16), draw(Uniform(stratify=True), 16))
    assert draw(Stratified(), 16).mul(16).floor().sort().values.tolist() == list(range(16))


@pytest.mark.parametrize(
    "of", [Uniform(), LogitNormal(mean=1), EDMLogNormal()], ids=["uniform", "logit_normal", "edm_lognormal"]
)
def test_low_discrepancy_draws_are_equally_spaced_quantiles(of: TimeSampler) -> None:
    sampler = LowDiscrepancy(of=of)
    u = sampler.uniforms(64, torch.Generator().manual_seed(1), "cpu").sort().values
    torch.testing.assert_close(u.diff(), torch.full((63,), 1 / 64))
    torch.testing.assert_close(draw(sampler, 64, seed=1).sort().values, of.quantile(u))
    shifts = [sampler.uniforms(64, torch.Generator().manual_seed(seed), "cpu").min().item() * 64 for seed in range(500)]
    assert distance(torch.tensor(shifts), lambda x: x) < 1.95 / 500**0.5


EVENLY = {
    "stratified": Stratified(),
    "logit_normal": LogitNormal(stratify=True),
    "low_discrepancy": LowDiscrepancy(of=Beta(a=2, b=5)),
    "shifted-outside": Shifted(of=Uniform(), stratify=True),
    "shifted-inside": Shifted(of=LowDiscrepancy(of=UShaped())),
    "truncated-inside": Truncated(low=0.1, of=LowDiscrepancy(of=UShaped())),
}


@pytest.mark.parametrize("ranks", [2, 5])
@pytest.mark.parametrize("sampler", EVENLY.values(), ids=EVENLY)
def test_every_ranks_share_of_an_even_batch_follows_the_density(sampler: TimeSampler, ranks: int) -> None:
    """Each slice is as even as independent draws or better, and the union is even."""
    t = draw(sampler)
    function = declared(sampler)
    for share in [*t.chunk(ranks), *(t[rank::ranks] for rank in range(ranks))]:
        assert distance(share, function) < 1.95 / len(share) ** 0.5
    assert distance(torch.cat(t.chunk(ranks)), function) < EVEN


@pytest.mark.parametrize("sampler", EVENLY.values(), ids=EVENLY)
def test_each_place_in_a_small_even_batch_follows_the_density(sampler: TimeSampler) -> None:
    """Over the steps of a run, a rank must see all of [0, 1], whatever its place in the batch."""
    batches = torch.stack([draw(sampler, 4, seed) for seed in range(2000)])
    function = declared(sampler)
    for place in range(4):
        assert distance(batches[:, place], function) < 2.2 / 2000**0.5


@every_sampler
def test_the_generator_alone_decides(sampler: TimeSampler) -> None:
    for kind in (sampler, stratified(sampler)):
        first, again, other = (draw(kind, 32, seed) for seed in (5, 5, 6))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_even_draws_lower_the_variance_of_a_mean() -> None:
    for even in (Stratified(), LowDiscrepancy()):
        spread = [
            torch.stack([draw(sampler, 32, seed).mean() for seed in range(200)]).std() for sampler in (even, Uniform())
        ]
        assert spread[0] < spread[1] / 4


# Samplers over other samplers


def test_nothing_is_stratified_twice() -> None:
    for fields in ({"stratify": True}, {"of": Stratified()}, {"of": LogitNormal(stratify=True)}):
        with pytest.raises(ConfigError, match="stratify"):
            LowDiscrepancy(**fields)
    for of in (Stratified(), LowDiscrepancy(), Shifted(of=LowDiscrepancy()), Truncated(of=Stratified())):
        for outer in (Shifted, Truncated):
            with pytest.raises(ConfigError, match=rf"^stratify: {of.name} draws one time in each interval already\."):
                outer(of=of, stratify=True)


@pytest.mark.parametrize("outer", [LowDiscrepancy, Shifted, Truncated])
def test_the_correction_belongs_to_the_outermost(outer: type) -> None:
    with pytest.raises(ConfigError, match=r"^of\.importance_correct"):
        outer(of=LogitNormal(importance_correct=True))
    t = torch.tensor([0.3])
    sampler = outer(of=LogitNormal(), importance_correct=True)
    torch.testing.assert_close(sampler.correction(t), 1 / sampler.density(t))


@pytest.mark.parametrize(
    "of", [Uniform(), LogitNormal(), Beta(), EDMLogNormal()], ids=["uniform", "logit_normal", "beta", "edm_lognormal"]
)
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_shifted_multiplies_the_level_of_the_linear_path(of: TimeSampler, shift: float) -> None:
    """sigma / alpha = t / (1 - t) grows by the shift (SD3, eq. 23)."""
    u = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    t = Shifted(shift=shift, of=of).quantile(u)
    s = of.quantile(u)
    torch.testing.assert_close(t / (1 - t), shift * s / (1 - s))
    torch.testing.assert_close(
        draw(Shifted(shift=shift, of=of), 50), shift * (s := draw(of, 50)) / (1 + (shift - 1) * s)
    )


@every_path
def test_samplers_pass_the_path_on(path: Interpolant) -> None:
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    inner = EDMLogNormal()
    t = inner.quantile(u, path)
    torch.testing.assert_close(LowDiscrepancy(of=inner).quantile(u, path), t)
    torch.testing.assert_close(LowDiscrepancy(of=inner).density(t, path), inner.density(t, path))
    torch.testing.assert_close(Shifted(shift=2, of=inner).quantile(u, path), 2 * t / (1 + t))
    torch.testing.assert_close(
        Shifted(shift=2, of=inner).density(2 * t / (1 + t), path), inner.density(t, path) * (1 + t) ** 2 / 2
    )
    torch.testing.assert_close(Truncated(low=0, of=inner).quantile(u, path), t)
    torch.testing.assert_close(Truncated(low=0, of=inner).density(t, path), inner.density(t, path))


@every_sampler
def test_no_interpolant_means_the_linear_one(sampler: TimeSampler) -> None:
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    for function in (
        sampler.quantile,
        sampler.density,
        dataclasses.replace(sampler, importance_correct=True).correction,
    ):
        assert torch.equal(function(t), function(t, Linear()))
    assert torch.equal(draw(sampler, 9), draw(sampler, 9, path=Linear()))


# The density over noise levels


def level(path: Interpolant, t: Tensor) -> Tensor:
    """Return ln(sigma / alpha)."""
    return path.sigma(t).log() - path.alpha(t).log()


def truncated(path: Interpolant, sampler: EDMLogNormal) -> stats.rv_continuous:
    low, high = (level(path, torch.tensor([0.0, 1.0], dtype=torch.float64)) - sampler.mean) / sampler.std
    return stats.truncnorm(low, high, loc=sampler.mean, scale=sampler.std)


LEVELS = [EDMLogNormal(), EDMLogNormal(mean=0.5, std=0.7), EDMLogNormal(mean=-1.1, std=2)]
every_level = pytest.mark.parametrize("sampler", LEVELS, ids=["edm", "noisier", "ict"])


@every_path
@every_level
@pytest.mark.parametrize("stratify", [False, True])
def test_noise_levels_are_log_normal_on_every_path(path: Interpolant, sampler: EDMLogNormal, stratify: bool) -> None:
    """Karras et al. 2022, restricted to the levels that the path has."""
    t = draw(dataclasses.replace(sampler, stratify=stratify), path=path).double()
    assert ((t >= 0) & (t <= 1)).all()
    levels = level(path, t.clamp(1e-12, 1 - 1e-9))
    assert distance(levels, truncated(path, sampler).cdf) < (EVEN if stratify else INDEPENDENT)


@every_path
@every_level
def test_the_density_over_levels_is_scipys_on_every_path(path: Interpolant, sampler: EDMLogNormal) -> None:
    """p(t) = p(l) |dl / dt| by autograd, also close to both ends."""
    inside = torch.logspace(-6, -0.31, 60, dtype=torch.float64)
    t = torch.cat([inside, 1 - inside.flip(0)]).requires_grad_()
    levels = level(path, t)
    slope = torch.autograd.grad(levels.sum(), t)[0]
    expected = torch.from_numpy(truncated(path, sampler).pdf(levels.detach().numpy())) * slope
    torch.testing.assert_close(sampler.density(t.detach(), path), expected, rtol=1e-5, atol=1e-9)


@every_path
@every_level
def test_the_density_over_levels_integrates_to_one_on_every_path(path: Interpolant, sampler: EDMLogNormal) -> None:
    assert distribution(sampler, path)[1][-1] == pytest.approx(1, abs=1e-4)


@every_path
def test_the_quantiles_of_levels_run_from_end_to_end(path: Interpolant) -> None:
    t = EDMLogNormal().quantile(torch.linspace(0, 1, 101, dtype=torch.float64), path)
    assert (t.diff() > 0).all()
    assert t[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-9)


# The correction


@every_sampler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_correction_is_one_over_the_density_with_a_floor(sampler: TimeSampler, dtype: torch.dtype) -> None:
    t = torch.tensor(
        [0, torch.finfo(dtype).tiny, 1e-12, 1e-6, *np.linspace(0.01, 0.99, 21), 1 - torch.finfo(dtype).eps, 1],
        dtype=dtype,
    )
    assert torch.equal(sampler.correction(t), torch.ones_like(t))
    for floor in (1e-3, 0.5):
        correction = dataclasses.replace(sampler, importance_correct=True, density_floor=floor).correction(t)
        expected = [1 / max(p, floor) for p in sampler.density(t).tolist()]
        torch.testing.assert_close(correction, torch.tensor(expected, dtype=dtype))
        assert ((correction >= 0) & (correction <= 1 / floor)).all()


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_correction_is_finite_on_every_path(path: Interpolant, dtype: torch.dtype) -> None:
    t = torch.tensor([0, torch.finfo(dtype).tiny, 1e-12, 1e-6, 0.5, 1 - torch.finfo(dtype).eps, 1], dtype=dtype)
    correction = EDMLogNormal(importance_correct=True).correction(t, path)
    assert ((correction >= 0) & (correction <= 1000.001)).all()


FLAT = [CosMap(), UShaped(), Mode(), Mode(scale=-0.5), Shifted(), Power(p=2), Beta(a=0.5, b=0.5)]


@pytest.mark.parametrize("sampler", FLAT, ids=lambda sampler: sampler.name)
def test_corrected_means_are_means_over_uniform_times(sampler: TimeSampler) -> None:
    """E[f / p] = the integral of f, if p stays above the floor."""
    t = sampler.quantile((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    corrected = t.square() * dataclasses.replace(sampler, importance_correct=True).correction(t)
    assert corrected.mean().item() == pytest.approx(1 / 3, abs=1e-4)


# The papers' formulas, written out


U = np.linspace(0.0005, 0.9995, 1000)


def quantiles(sampler: TimeSampler, u: np.ndarray) -> np.ndarray:
    return sampler.quantile(torch.from_numpy(u)).numpy()


def density(sampler: TimeSampler, t: np.ndarray) -> np.ndarray:
    return sampler.density(torch.from_numpy(t)).numpy()


@pytest.mark.parametrize("s", [-0.9, 0, 0.81, 1.29, 1.75])
def test_mode_is_sd3s(s: float) -> None:
    """f_mode(u; s) falls in u: its quantile function is f_mode(1 - u), its density 1 / |f_mode'|."""

    def f_mode(u: np.ndarray) -> np.ndarray:
        return 1 - u - s * (np.cos(math.pi / 2 * u) ** 2 - 1 + u)

    np.testing.assert_allclose(quantiles(Mode(scale=s), 1 - U), f_mode(U), atol=1e-14)
    slope = (f_mode(U + 1e-6) - f_mode(U - 1e-6)) / 2e-6
    np.testing.assert_allclose(density(Mode(scale=s), f_mode(U)), -1 / slope, rtol=1e-5)
    drawn = f_mode(np.random.default_rng(0).random(N))
    assert stats.ks_2samp(draw(Mode(scale=s)).numpy(), drawn, method="asymp").pvalue > 1e-3
    shares, edges = np.histogram(drawn, 20, (0, 1))
    np.testing.assert_allclose(np.diff(declared(Mode(scale=s))(edges)), shares / N, atol=5 * (shares.max() ** 0.5) / N)


@pytest.mark.parametrize("scale", [-1, -1.5, 2 / (math.pi - 2), 1.76])
def test_mode_refuses_scales_without_a_density(scale: float) -> None:
    with pytest.raises(ConfigError, match=rf"^scale: {scale}.*\(-1, 1.75"):
        Mode(scale=scale)


def test_cosmap_is_sd3s() -> None:
    f = 1 - 1 / (np.tan(math.pi / 2 * U) + 1)
    np.testing.assert_allclose(quantiles(CosMap(), U), f, atol=1e-12)
    np.testing.assert_allclose(density(CosMap(), U), 2 / (math.pi - 2 * math.pi * U + 2 * math.pi * U**2), rtol=1e-12)
    np.testing.assert_allclose(
        np.log(f / (1 - f)), np.log(np.tan(math.pi / 2 * U)), atol=1e-10
    )  # the cosine schedule's level


@pytest.mark.parametrize(("m", "s"), [(0, 1), (-0.5, 1), (0.5, 0.6), (1, 2)])
def test_logit_normal_is_sd3s(m: float, s: float) -> None:
    expected = np.exp(-((np.log(U / (1 - U)) - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi) * U * (1 - U))
    np.testing.assert_allclose(density(LogitNormal(mean=m, std=s), U), expected, rtol=1e-10)
    assert density(LogitNormal(mean=m, std=s), np.array([0.0, 1.0])).tolist() == [0, 0]


@pytest.mark.parametrize("a", [1, 4, 10])
def test_u_shaped_is_the_papers(a: float) -> None:
    expected = (np.exp(a * U) + np.exp(a * (1 - U))) * a / (2 * (math.exp(a) - 1))
    np.testing.assert_allclose(density(UShaped(a=a), U), expected, rtol=1e-10)
    t = quantiles(UShaped(a=a), U)
    np.testing.assert_allclose(
        (np.exp(a * t) - np.exp(a * (1 - t)) + math.exp(a) - 1) / (2 * (math.exp(a) - 1)), U, atol=1e-12
    )
    # as in their code: t or 1 - t, with t from exp(a t)
    rng = np.random.default_rng(0)
    ends = np.log1p(rng.random(N) * (math.exp(a) - 1)) / a
    drawn = np.where(rng.random(N) < 0.5, ends, 1 - ends)
    assert stats.ks_2samp(draw(UShaped(a=a)).numpy(), drawn, method="asymp").pvalue > 1e-3
    assert UShaped().a == 4


def test_beta_is_pi0s() -> None:
    """Their tau is 1 - t: (s - tau) / s ~ Beta(1.5, 1), here at s = 1."""
    assert (Beta().a, Beta().b) == (1.5, 1)
    np.testing.assert_allclose(density(Beta(), U), 1.5 * np.sqrt(U), rtol=1e-12)
    np.testing.assert_allclose(quantiles(Beta(), U), U ** (2 / 3), rtol=1e-10)
    assert distance(1 - draw(Beta()), lambda tau: 1 - (1 - tau) ** 1.5) < INDEPENDENT


@every_path
def test_log_uniform_levels_are_those_of_the_path(path: Interpolant) -> None:
    """ln(sigma / alpha) is uniform on what the path and the bounds share."""
    ends = level(path, torch.tensor([0.0, 1.0], dtype=torch.float64))
    low, high = max(math.log(0.1), ends[0].item()), min(math.log(9.0), ends[1].item())
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    found = level(path, LogUniform(sigma_min=0.1, sigma_max=9).quantile(u, path))
    torch.testing.assert_close(found, low + u * (high - low))


def test_bounds_that_hold_no_time_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^low: 0\.5 is not below high = 0\.5\. Choose an earlier time\.$"):
        Truncated(low=0.5, high=0.5)
    with pytest.raises(ConfigError, match=r"^sigma_min: 3 is not below sigma_max, 2\. Choose a smaller one\.$"):
        LogUniform(sigma_min=3, sigma_max=2)
    with pytest.raises(ConfigError, match=r"^time_sampler\.sigma_min: ve has no noise level in \[60, 80\]\. Choose"):
        LogUniform(sigma_min=60, sigma_max=80).quantile(torch.rand(2), PATHS["ve"])
