"""Training times: the draws follow the declared density."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from harness.components.time_samplers import Power, TimeSampler
from harness.registry import build, names

SAMPLERS = [build("time_sampler", name) for name in names("time_sampler")] + [Power(p=0.5), Power(p=3)]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
N = 100_000


def distribution(sampler: TimeSampler) -> tuple[np.ndarray, np.ndarray]:
    """Times and the integral of the density up to each, by the midpoint rule on a grid of t = s^4, fine near 0."""
    edges = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    s = (edges[1:] + edges[:-1]) / 2
    mass = sampler.density(s**4) * (edges[1:] ** 4 - edges[:-1] ** 4)
    return (edges**4).numpy(), np.concatenate([[0], mass.cumsum(0).numpy()])


@every_sampler
@pytest.mark.parametrize("stratify", [False, True])
def test_draws_follow_the_density(sampler: TimeSampler, stratify: bool) -> None:
    t = dataclasses.replace(sampler, stratify=stratify).sample(N, torch.Generator().manual_seed(0), "cpu")
    assert (t.dtype, t.shape) == (torch.float32, (N,))
    assert ((t >= 0) & (t <= 1)).all()
    times, integral = distribution(sampler)
    distance = kstest(t.double().numpy(), lambda x: np.interp(x, times, integral)).statistic
    assert distance < (1e-4 if stratify else 1.95 / N**0.5)  # independent draws pass 999 times in 1000


@every_sampler
def test_the_density_integrates_to_one(sampler: TimeSampler) -> None:
    assert distribution(sampler)[1][-1] == pytest.approx(1, abs=1e-4)


@every_sampler
def test_the_quantile_function_inverts_the_distribution(sampler: TimeSampler) -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    t = sampler.quantile(u)
    assert t.dtype == torch.float64
    np.testing.assert_allclose(np.interp(t.numpy(), *distribution(sampler)), u.numpy(), atol=1e-4)


@every_sampler
@pytest.mark.parametrize("n", [1, 7, 128])
def test_stratified_draws_fall_one_into_each_interval_in_random_order(sampler: TimeSampler, n: int) -> None:
    stratified = dataclasses.replace(sampler, stratify=True)
    t = stratified.sample(n, torch.Generator().manual_seed(3), "cpu").double()
    edges = sampler.quantile(torch.linspace(0, 1, n + 1, dtype=torch.float64))
    assert np.histogram(t.numpy(), edges.numpy())[0].tolist() == [1] * n
    assert n == 1 or not torch.equal(t, t.sort().values)


def test_stratified_is_uniform_stratified() -> None:
    draws = [
        build("time_sampler", spec).sample(16, torch.Generator().manual_seed(0), "cpu")
        for spec in ("stratified", {"name": "uniform", "stratify": True})
    ]
    assert torch.equal(*draws)
    assert draws[0].mul(16).floor().sort().values.tolist() == list(range(16))


@every_sampler
def test_the_generator_alone_decides(sampler: TimeSampler) -> None:
    first, again, other = (sampler.sample(32, torch.Generator().manual_seed(seed), "cpu") for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
