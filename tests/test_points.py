"""Points, compared with their densities: closed forms, scikit-learn's toys, and numerical integration."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import make_moons, make_swiss_roll
from torch import Tensor

from harness.components.backbones.mlp import MLP
from harness.core.errors import ConfigError, UserError
from harness.core.registry import build
from harness.data.base import Data, load
from harness.data.points import Checkerboard, EightGaussians, GaussianMixture, Moons, Pinwheel, Points, SwissRoll
from harness.runs.config import RunConfig
from harness.runs.validate import check

BOTH = [EightGaussians(number=50_000), Checkerboard(number=50_000)]
IN_UNITS = [
    *BOTH,
    Pinwheel(number=400_000),
    GaussianMixture(number=50_000),
    GaussianMixture(number=50_000, dimensions=5, components=1, spread=1.0),
]
SCIKIT = [Moons(number=20_000), SwissRoll(number=20_000)]
ALL = [*IN_UNITS, *SCIKIT]


def named(points: Points) -> str:
    return points.name


def stored(samples: object) -> Tensor:
    assert isinstance(samples, Tensor)
    return samples


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    return stats.ks_2samp(a, b).pvalue > 1e-4


@pytest.mark.parametrize("points", IN_UNITS, ids=named)
def test_coordinates_have_mean_zero_and_variance_one(points: Points) -> None:
    data = load(points)
    x = stored(data.train).double()
    n = len(x)
    spread = (x**4).mean(0) - 1
    assert (x.mean(0).abs() < 4 / math.sqrt(n)).all()
    assert ((x.square().mean(0) - 1).abs() < 4 * (spread / n).sqrt() + 1e-12).all()
    assert torch.equal(data.encode(stored(data.train)), stored(data.train))
    assert torch.equal(data.decode(stored(data.train)), stored(data.train))


@pytest.mark.parametrize("points", SCIKIT, ids=named)
def test_the_toys_of_scikit_learn_are_trained_on_with_mean_zero_and_variance_one(points: Points) -> None:
    data = load(points)
    encoded = data.encode(stored(data.train)).double()
    torch.testing.assert_close(encoded.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(encoded.std(0), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert data.encode(stored(data.held_out)).double().std(0).sub(1).abs().max() < 0.05
    torch.testing.assert_close(
        data.decode(data.encode(stored(data.held_out))), stored(data.held_out), atol=1e-5, rtol=1e-5
    )
    assert data.encode(stored(data.train)).dtype == torch.float32
    assert data.statistics.keys() == {"mean", "std"}


@pytest.mark.parametrize("points", ALL, ids=named)
def test_the_draw_is_the_same_every_time_and_held_out_points_differ(points: Points) -> None:
    draws: list[Data] = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        draws.append(points.load())
    first, again = draws
    assert torch.equal(stored(first.train), stored(again.train))
    assert torch.equal(stored(first.held_out), stored(again.held_out))
    assert first.fingerprint == again.fingerprint
    assert stored(first.train).dtype == torch.float32
    assert len(first.train) == points.number
    assert len(first.held_out) == len(first.train) // 5
    assert not (stored(first.train)[: len(first.held_out)] == stored(first.held_out)).any()
    assert first.kind == "points"


def test_points_of_other_settings_are_other_data() -> None:
    settings: list[dict[str, Any]] = [
        *(
            {"name": name}
            for name in ("eight_gaussians", "checkerboard", "pinwheel", "moons", "swiss_roll", "gaussian_mixture")
        ),
        {"name": "moons", "noise": 0.1},
        {"name": "swiss_roll", "noise": 0.1},
        {"name": "gaussian_mixture", "spread": 0.1},
        {"name": "gaussian_mixture", "components": 5},
        {"name": "gaussian_mixture", "dimensions": 3},
    ]
    assert len({str(build("dataset", {"number": 100, **each}).load().fingerprint) for each in settings}) == len(
        settings
    )
    assert build("dataset", {"name": "swiss_roll", "number": 3}).load().held_out.shape == (1, 2)


@pytest.mark.parametrize("name", ["moons", "swiss_roll"])
def test_a_single_point_is_refused_or_encoded(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = build("dataset", {"name": name, "number": 1}).load()
        except UserError:
            return
        assert data.some().isfinite().all()


def test_eight_gaussians_are_gaussian_around_their_centres() -> None:
    data = load(BOTH[0])
    assert data.classes is not None
    for component in range(8):
        x = stored(data.train)[data.classes == component].double()
        angle = component * math.pi / 4
        centre = math.sqrt(2 * 0.99) * torch.tensor([math.cos(angle), math.sin(angle)])
        for k in range(2):
            assert stats.kstest(x[:, k].numpy(), stats.norm(centre[k].item(), 0.1).cdf).pvalue > 1e-4
    assert stats.chisquare(torch.bincount(data.classes).numpy()).pvalue > 1e-4


def test_the_checkerboard_fills_every_other_square_evenly() -> None:
    data = load(BOTH[1])
    x = stored(data.train).double()
    side = math.sqrt(3)
    column, row = ((x / side * 2 + 2).floor().long()).unbind(1)
    assert ((column + row) % 2 == 0).all()
    assert (
        stats.chisquare(torch.bincount(column + 4 * row, minlength=16)[[0, 2, 5, 7, 8, 10, 13, 15]].numpy()).pvalue
        > 1e-4
    )
    for k in range(2):
        assert stats.kstest(x[:, k].numpy(), stats.uniform(-side, 2 * side).cdf).pvalue > 1e-4
    assert data.classes is not None
    squares = [
        set(zip(column[data.classes == i].tolist(), row[data.classes == i].tolist(), strict=True)) for i in range(8)
    ]
    assert all(len(square) == 1 for square in squares)
    assert len(set.union(*squares)) == 8


def test_the_pinwheel_has_five_arms_that_are_one_turned() -> None:
    """Johnson et al.'s recipe in NumPy: radial sd 0.3, tangential sd 0.1, turned by 0.25 exp(radius)."""
    data = load(IN_UNITS[2])
    assert data.classes is not None
    assert stats.chisquare(torch.bincount(data.classes, minlength=5).numpy()).pvalue > 1e-4
    rng = np.random.default_rng(0)
    radius = 1 + 0.3 * rng.standard_normal(20_000)
    across = 0.1 * rng.standard_normal(20_000)
    arm = (radius + 1j * across) * np.exp(0.25j * np.exp(radius)) / math.sqrt(0.55)
    x = torch.view_as_complex(stored(data.train).double()).numpy()
    for k in range(5):
        unturned = x[data.classes.numpy() == k] * np.exp(-2j * math.pi * k / 5)
        assert alike(unturned.real, arm.real)
        assert alike(unturned.imag, arm.imag)
        assert alike(np.abs(unturned), np.abs(arm))
    assert not alike((x[data.classes.numpy() == 1]).real, arm.real)


def test_moons_are_scikit_learns() -> None:
    data = load(SCIKIT[0])
    noise = 0.05
    theirs, about = make_moons(20_000, noise=noise, random_state=12345)
    assert data.classes is not None
    assert torch.bincount(data.classes).tolist() == [10_000, 10_000]
    decoded = data.decode(data.encode(stored(data.train)))
    for moon, (x, y) in enumerate([(0.0, 0.0), (1.0, 0.5)]):
        ours = decoded[data.classes == moon].double().numpy()
        for k in range(2):
            assert alike(ours[:, k], theirs[about == moon][:, k])
        radius = np.hypot(ours[:, 0] - x, ours[:, 1] - y)
        assert radius.std() == pytest.approx(noise, rel=0.05)
        assert radius.mean() == pytest.approx(1, abs=0.005)


def test_moons_without_noise_are_half_circles() -> None:
    data = Moons(number=1000, noise=0).load()
    assert data.classes is not None
    x, y = stored(data.train).double().unbind(1)
    upper = data.classes == 0
    torch.testing.assert_close(
        (x[upper].square() + y[upper].square()), torch.ones(500, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert (y[upper] >= -1e-6).all()
    below = (x[~upper] - 1).square() + (y[~upper] - 0.5).square()
    torch.testing.assert_close(below, torch.ones(500, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (y[~upper] <= 0.5 + 1e-6).all()


def test_the_swiss_roll_is_scikit_learns_seen_from_its_side() -> None:
    data = load(SCIKIT[1])
    theirs = make_swiss_roll(20_000, noise=0.5, random_state=12345)[0]
    decoded = data.decode(data.encode(stored(data.train))).double().numpy()
    assert alike(decoded[:, 0], theirs[:, 0])
    assert alike(decoded[:, 1], theirs[:, 2])
    assert (data.classes, data.num_classes) == (None, 0)


def test_the_swiss_roll_without_noise_is_a_spiral() -> None:
    """Its radius is its angle, from 1.5 pi to 4.5 pi; the arms are 2 pi apart."""
    x, y = stored(SwissRoll(number=2000, noise=0).load().train).double().unbind(1)
    radius = torch.hypot(x, y)
    assert radius.min() >= 1.5 * math.pi - 1e-4
    assert radius.max() <= 4.5 * math.pi + 1e-4
    torch.testing.assert_close(x, radius * radius.cos(), atol=1e-4, rtol=0)
    torch.testing.assert_close(y, radius * radius.sin(), atol=1e-4, rtol=0)
    assert stats.kstest(radius.numpy(), stats.uniform(1.5 * math.pi, 3 * math.pi).cdf).pvalue > 1e-4


def mixtures() -> list[GaussianMixture]:
    return [
        GaussianMixture(),
        GaussianMixture(dimensions=2, components=3, spread=0.5),
        GaussianMixture(dimensions=1, components=2, spread=0.2),
        GaussianMixture(dimensions=6, components=5, spread=0.4),
        GaussianMixture(dimensions=2, components=1, spread=0.7),
        GaussianMixture(dimensions=3, components=4, spread=1.0),
    ]


@pytest.mark.parametrize("mixture", mixtures(), ids=str)
def test_the_means_of_a_mixture_supply_the_rest_of_the_variance(mixture: GaussianMixture) -> None:
    means = mixture.means()
    assert (means.shape, means.dtype) == ((mixture.components, mixture.dimensions), torch.float64)
    torch.testing.assert_close(means.mean(0), torch.zeros_like(means[0]), atol=1e-12, rtol=0)
    rest = 0 if mixture.components == 1 else 1 - mixture.spread**2
    torch.testing.assert_close(means.square().mean(0), torch.full_like(means[0], rest), atol=1e-12, rtol=1e-12)
    assert torch.equal(means, mixture.means())


@pytest.mark.parametrize("mixture", mixtures(), ids=str)
def test_a_mixture_is_drawn_from_its_density(mixture: GaussianMixture) -> None:
    """All components are equally frequent, each Gaussian around its mean."""
    data = dataclasses.replace(mixture, number=20_000).load()
    assert data.classes is not None
    counts = torch.bincount(data.classes, minlength=mixture.components)
    assert mixture.components == 1 or stats.chisquare(counts.numpy()).pvalue > 1e-4
    for component, mean in enumerate(mixture.means()):
        x = stored(data.train)[data.classes == component].double()
        residual = ((x - mean) / mixture.spread).numpy()
        for k in range(mixture.dimensions):
            assert stats.kstest(residual[:, k], "norm").pvalue > 1e-4
        assert np.abs(np.corrcoef(residual, rowvar=False) - np.eye(mixture.dimensions)).max() < 4.5 / math.sqrt(len(x))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "gaussian_mixture", "spread": 0.0}, r"^dataset\.spread: 0\.0 is outside \(0, 1\]"),
        ({"name": "gaussian_mixture", "spread": 1.1}, r"^dataset\.spread: 1\.1 is outside"),
        ({"name": "gaussian_mixture", "components": 0}, r"^dataset\.components: 0 is outside \[1, 1000000\]"),
        ({"name": "moons", "noise": -0.1}, r"^dataset\.noise: -0\.1 is outside \[0, 1e\+150\]"),
        ({"name": "swiss_roll", "noise": -0.1}, r"^dataset\.noise: "),
        ({"name": "pinwheel", "number": 0}, r"^dataset\.number: 0 is outside"),
    ],
    ids=str,
)
def test_settings_of_points_outside_their_range_are_refused(fields: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build("dataset", fields)


def test_a_network_for_vectors_refuses_images() -> None:
    with pytest.raises(ConfigError, match=r"mlp takes vectors \[D\], not \[1, 8, 8\]. Choose another backbone."):
        MLP().build((1, 8, 8))


def test_points_are_not_judged_as_images(tiny: RunConfig) -> None:
    said = r"^evaluate\.extractor: digits reads images, and these data are points\. Set evaluate\.extractor=values"
    with pytest.raises(ConfigError, match=said):
        check(dataclasses.replace(tiny, dataset=EightGaussians(), backbone=MLP()))
