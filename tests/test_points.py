"""Points in the plane against the densities that they are drawn from, and the distance that judges them."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from harness.components.backbones.mlp import MLP
from harness.data.base import load
from harness.data.points import Checkerboard, EightGaussians, Points
from harness.errors import ConfigError
from harness.evaluation.distances import sliced_wasserstein
from harness.runs import RunConfig, check

BOTH = [EightGaussians(number=50_000), Checkerboard(number=50_000)]


@pytest.mark.parametrize("points", BOTH)
def test_coordinates_have_mean_zero_and_variance_one(points: Points) -> None:
    x = load(points).train.double()
    n = len(x)
    assert (x.mean(0).abs() < 4 / math.sqrt(n)).all()
    fourth = (x**4).mean(0) - 1
    assert ((x.square().mean(0) - 1).abs() < 4 * (fourth / n).sqrt()).all()


@pytest.mark.parametrize("points", BOTH)
def test_training_and_held_out_points_differ(points: Points) -> None:
    data = load(points)
    assert len(data.held_out) == len(data.train) // 5
    assert not (data.train[: len(data.held_out)] == data.held_out).any()


def test_eight_gaussians_are_gaussian_around_their_centres() -> None:
    data = load(BOTH[0])
    assert data.classes is not None
    for component in range(8):
        x = data.train[data.classes == component].double()
        angle = component * math.pi / 4
        centre = math.sqrt(2 * 0.99) * torch.tensor([math.cos(angle), math.sin(angle)])
        for k in range(2):
            assert stats.kstest(x[:, k].numpy(), stats.norm(centre[k].item(), 0.1).cdf).pvalue > 1e-4
    assert stats.chisquare(torch.bincount(data.classes).numpy()).pvalue > 1e-4


def test_the_checkerboard_fills_every_other_square_evenly() -> None:
    x = load(BOTH[1]).train.double()
    side = math.sqrt(3)
    column, row = ((x / side * 2 + 2).floor().long()).unbind(1)
    assert ((column + row) % 2 == 0).all()
    assert stats.chisquare(torch.bincount(column + 4 * row, minlength=16)[[0, 2, 5, 7, 8, 10, 13, 15]].numpy()).pvalue > 1e-4
    for k in range(2):
        assert stats.kstest(x[:, k].numpy(), stats.uniform(-side, 2 * side).cdf).pvalue > 1e-4


def test_sliced_wasserstein_of_a_shift() -> None:
    """Shifting by d moves every projection by its share: sqrt(|d|^2 / D) on average over directions."""
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert sliced_wasserstein(x, x) == pytest.approx(0, abs=1e-12)
    assert sliced_wasserstein(x, x + shift, projections=500) == pytest.approx(math.sqrt(25 / 4), rel=0.1)


def test_a_network_for_vectors_refuses_images() -> None:
    with pytest.raises(ConfigError, match=r"mlp takes vectors \[D\], not \[1, 8, 8\]. Choose another backbone."):
        MLP().build((1, 8, 8))


def test_points_are_not_judged_as_images(tiny: RunConfig) -> None:
    import dataclasses

    with pytest.raises(ConfigError, match=r"evaluate.extractor: digits reads images \[C, H, W\], not \[2\]. Choose images."):
        check(dataclasses.replace(tiny, dataset=EightGaussians(), backbone=MLP()))
