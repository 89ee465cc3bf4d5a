"""Base distributions: moments, shares and determinism."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from harness.components.noises import Gaussian, Matched, Noise, Sparse
from harness.registry import build, names

SCALES = torch.tensor([0.1, 1.0, 4.0])
DATA = 3 + SCALES * torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
NOISES = [build("noise", name) for name in names("noise")]


def sample(noise: Noise, n: int, seed: int = 1) -> torch.Tensor:
    return noise.sample((n, 3), torch.Generator().manual_seed(seed), noise.fit(DATA))


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_the_generator_alone_decides(noise: Noise) -> None:
    first, again, other = sample(noise, 5, 1), sample(noise, 5, 1), sample(noise, 5, 2)
    assert (first.shape, first.dtype) == ((5, 3), torch.float32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_entries_are_centred_and_uncorrelated(noise: Noise) -> None:
    x1 = sample(noise, 50_000)
    x1 = x1 / x1.std(0)
    assert x1.mean(0).abs().max() < 0.02
    assert (x1.T.corrcoef() - torch.eye(3)).abs().max() < 0.02


def test_gaussian_is_standard_normal() -> None:
    assert kstest(sample(Gaussian(), 20_000).flatten(), "norm").pvalue > 1e-3


def test_matched_has_the_standard_deviation_of_all_data() -> None:
    noise = Matched(per_feature=False)
    x1, std = sample(noise, 50_000), DATA.std()
    torch.testing.assert_close(noise.fit(DATA), {"std": std})
    torch.testing.assert_close(x1.std(0), std.expand(3), rtol=0.02, atol=0)


def test_matched_per_feature_has_the_standard_deviation_of_each() -> None:
    noise = Matched(per_feature=True)
    torch.testing.assert_close(noise.fit(DATA), {"std": DATA.std(0)})
    torch.testing.assert_close(sample(noise, 50_000).std(0), SCALES, rtol=0.05, atol=0)


@pytest.mark.parametrize("rate", [0, 0.1, 0.75])
def test_sparse_drops_the_given_share_and_leaves_the_rest_normal(rate: float) -> None:
    x1 = sample(Sparse(dropout_rate=rate), 30_000).flatten()
    assert (x1 == 0).float().mean() == pytest.approx(rate, abs=0.01)
    assert kstest(x1[x1 != 0], "norm").pvalue > 1e-3
