"""Base distributions: distributions and moments, what they learn from the data, and determinism."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from sklearn.decomposition import PCA
from torch import Tensor

from harness.components.noises import Gaussian, Laplace, Matched, Noise, Pruned, Sparse, StudentT, UniformNoise
from harness.core.errors import ConfigError, UserError
from harness.core.registry import build, names
from harness.data.base import Data

SCALES = torch.tensor([0.1, 1.0, 4.0])
DATA = 3 + SCALES * torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
OF_DATA = {"population"}
"""Noises with the distribution of a data set; test_population.py tests them."""
NOISES: dict[str, Noise] = {name: build("noise", name) for name in names("noise") if name not in OF_DATA}
NOISES |= {
    "matched-per_feature": Matched(per_feature=True),
    "sparse-0": Sparse(dropout_rate=0),
    "sparse-0.75": Sparse(dropout_rate=0.75),
    "student_t-2.5": StudentT(df=2.5),
    "student_t-30": StudentT(df=30),
}
every_noise = pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
N = 100_000


def sample(noise: Noise, n: int, seed: int = 1) -> Tensor:
    return noise.sample((n, 3), torch.Generator().manual_seed(seed), noise.fit(DATA))


def distance(x: Tensor, distribution_function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the Kolmogorov-Smirnov statistic times sqrt(n): below 1.95 for 999 samples in 1000 of the right
    distribution.
    """
    expected = distribution_function(x.double().flatten().sort().values.numpy())
    n = x.numel()
    return n**0.5 * max((np.arange(1, n + 1) / n - expected).max(), (expected - np.arange(n) / n).max())


# Their distributions


LAWS = {
    "gaussian": (Gaussian(), stats.norm),
    "sparse": (Sparse(dropout_rate=0), stats.norm),
    "pruned": (Pruned(), stats.norm),  # of data in every direction
    "student_t": (StudentT(), stats.t(5, scale=math.sqrt(3 / 5))),
    "student_t-2.5": (StudentT(df=2.5), stats.t(2.5, scale=math.sqrt(0.5 / 2.5))),
    "student_t-30": (StudentT(df=30), stats.t(30, scale=math.sqrt(28 / 30))),
    "laplace": (Laplace(), stats.laplace(scale=1 / math.sqrt(2))),
    "uniform": (UniformNoise(), stats.uniform(-math.sqrt(3), 2 * math.sqrt(3))),
}


def test_narrow_noise_is_scaled() -> None:
    """SourceFM's norm-aligned noise."""
    noise = Gaussian(std=0.4908)
    assert distance(sample(noise, N), stats.norm(scale=0.4908).cdf) < 1.95
    assert noise.variance({}).item() == pytest.approx(0.4908**2)


@pytest.mark.parametrize(("noise", "law"), LAWS.values(), ids=LAWS)
def test_entries_follow_scipys_distribution(noise: Noise, law: stats.rv_continuous) -> None:
    assert law.var() == pytest.approx(1)
    assert distance(sample(noise, N), law.cdf) < 1.95


@pytest.mark.parametrize(
    "law", [stats.t(5, scale=math.sqrt(3 / 5)), stats.laplace(scale=1 / math.sqrt(2))], ids=["student_t", "laplace"]
)
def test_the_tails_are_theirs_too(law: stats.rv_continuous) -> None:
    """Shares beyond 4 and 6, to which the distance is hardly sensitive."""
    noise = StudentT() if law.dist.name == "t" else Laplace()
    x = sample(noise, 1_000_000, seed=3).flatten()
    for bound in (4.0, 6.0):
        expected = law.sf(bound) * x.numel()
        for count in ((x > bound).sum().item(), (x < -bound).sum().item()):
            assert abs(count - expected) < 4 * expected**0.5


@pytest.mark.parametrize("rate", [0, 0.1, 0.75])
def test_sparse_drops_its_share_and_the_rest_is_normal(rate: float) -> None:
    x1 = sample(Sparse(dropout_rate=rate), N).flatten()
    assert (x1 == 0).float().mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / x1.numel()) ** 0.5 + 1e-7)
    assert distance(x1[x1 != 0], stats.norm.cdf) < 1.95


@every_noise
def test_gaussian_says_whether_it_is_normal(noise: Noise) -> None:
    """By the Kolmogorov-Smirnov test on entries divided by their standard deviation.

    Sparse noise is normal if it drops nothing, and pruned noise if no cosine is as large as `reject`.
    """
    state = noise.fit(DATA)
    x1 = sample(noise, N) / noise.variance(state).sqrt()
    normal = distance(x1, stats.norm.cdf) < 1.95
    assert normal == (noise.gaussian or noise in (Sparse(dropout_rate=0), Pruned()))


# Moments and independence


@every_noise
def test_the_declared_variance_and_the_mean_are_the_samples(noise: Noise) -> None:
    state = noise.fit(DATA)
    variance = noise.variance(state)
    assert variance.shape in ((), (3,))
    if noise == StudentT(df=2.5):  # its sample variance has no variance; another test covers the distribution
        assert variance == 1
        return
    x1 = sample(noise, N).double()
    fourth = x1.pow(4).mean(0).sqrt()
    assert (x1.square().mean(0) - variance).abs().le(5 * fourth / N**0.5).all()
    assert x1.mean(0).abs().le(5 * variance.sqrt() / N**0.5).all()


@every_noise
def test_entries_are_independent(noise: Noise) -> None:
    """Neither values nor magnitudes are correlated, across features and across rows."""
    x1 = sample(noise, N).double() / noise.variance(noise.fit(DATA)).sqrt()
    for values in (x1.clamp(-3, 3), x1.abs().clamp(max=3)):  # heavy tails would hide the correlations
        columns = torch.cat([values[1:], values[:-1]], 1)
        off = columns.T.corrcoef() - torch.eye(6)
        assert off.abs().max() < 5 / N**0.5


# Outputs


@every_noise
def test_the_generator_alone_decides(noise: Noise) -> None:
    first = sample(noise, 5, 1)
    again = sample(noise, 5, 1)
    other = sample(noise, 5, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(4, 3), (2, 1, 8, 8), (5, 2, 3), (0, 3)], ids=str)
@every_noise
def test_samples_have_the_shape_asked_for_in_float32(noise: Noise, shape: tuple[int, ...]) -> None:
    data = torch.randn(50, *shape[1:], generator=torch.Generator().manual_seed(0))
    for asked in (shape, torch.Size(shape), list(shape)):
        x1 = noise.sample(asked, torch.Generator().manual_seed(0), noise.fit(data))
        assert (tuple(x1.shape), x1.dtype, x1.device.type) == (shape, torch.float32, "cpu")


@every_noise
def test_a_million_draws_are_finite(noise: Noise) -> None:
    assert sample(noise, 1_000_000).isfinite().all()


@every_noise
@pytest.mark.parametrize("value", [0.0, 2**-24, 0.5, 1 - 2**-24])
def test_the_ends_of_the_random_numbers_are_finite(noise: Noise, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, value))
    assert sample(noise, 4).isfinite().all()


# Learning from the data


@pytest.mark.parametrize(
    "noise", [noise for noise in NOISES.values() if not isinstance(noise, Matched | Pruned)], ids=str
)
def test_the_others_learn_nothing_from_the_data(noise: Noise) -> None:
    assert noise.fit(DATA) == {}
    assert torch.equal(noise.sample((4, 3), torch.Generator().manual_seed(0), {}), sample(noise, 4, seed=0))


def test_data_are_read_only_where_something_is_learnt() -> None:
    """Reading part of a folder of pictures takes a while."""

    class Unread(Data):
        def some(self, number: int = 0) -> Tensor:
            pytest.fail("the data are read")

    read, unread = (kind(DATA, DATA, lambda x: x / 2, lambda x: 2 * x, "points") for kind in (Data, Unread))
    assert {noise.name for noise in NOISES.values() if noise.learn(read)} == {"matched", "pruned"}
    assert all(noise.learn(unread) == {} for noise in NOISES.values() if not isinstance(noise, Matched | Pruned))
    torch.testing.assert_close(Matched(per_feature=True).learn(read)["std"], DATA.std(0) / 2)


def test_matched_has_the_standard_deviation_of_all_data() -> None:
    noise = Matched()
    torch.testing.assert_close(noise.fit(DATA), {"std": DATA.std()})
    assert noise.fit(DATA)["std"].item() == pytest.approx(np.std(DATA.double().numpy(), ddof=1), rel=1e-6)
    assert distance(sample(noise, N), stats.norm(scale=DATA.std().item()).cdf) < 1.95


def test_matched_per_feature_has_the_standard_deviation_of_each() -> None:
    noise = Matched(per_feature=True)
    torch.testing.assert_close(noise.fit(DATA), {"std": DATA.std(0)})
    x1 = sample(noise, N)
    for feature, std in enumerate(np.std(DATA.double().numpy(), 0, ddof=1)):
        assert distance(x1[:, feature], stats.norm(scale=std).cdf) < 1.95


def test_matched_per_feature_keeps_the_features_places_in_images() -> None:
    data = torch.randn(500, 2, 3, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 25).view(2, 3, 4)
    noise = Matched(per_feature=True)
    x1 = noise.sample((20_000, 2, 3, 4), torch.Generator().manual_seed(1), noise.fit(data))
    torch.testing.assert_close(x1.std(0), data.std(0), rtol=0.03, atol=0)
    torch.testing.assert_close(noise.variance(noise.fit(data)), data.var(0))


def test_constant_features_keep_a_little_noise() -> None:
    data = torch.cat([torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)), torch.full((1000, 1), 7.0)], 1)
    std = Matched(per_feature=True).fit(data)["std"]
    torch.testing.assert_close(std[:2], data[:, :2].std(0))
    assert std[2].item() == pytest.approx(1e-3 * data.std().item(), rel=1e-5)


def test_matched_refuses_constant_data() -> None:
    with pytest.raises(UserError, match=r"^noise: all data are equal, .*\. Choose gaussian\.$"):
        Matched().fit(torch.full((9, 3), 0.1))


def test_matched_keeps_its_digits_far_from_zero() -> None:
    data = 1e4 + torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    for per_feature in (False, True):
        assert Matched(per_feature=per_feature).fit(data)["std"].item() == pytest.approx(
            data.double().std().item(), rel=1e-6
        )


@pytest.mark.parametrize("per_feature", [False, True])
def test_the_state_survives_a_file(per_feature: bool, tmp_path: Path) -> None:
    noise = Matched(per_feature=per_feature)
    state = noise.fit(DATA)
    save_file(state, tmp_path / "state.safetensors")
    loaded = load_file(tmp_path / "state.safetensors")
    draws = [noise.sample((8, 3), torch.Generator().manual_seed(0), s) for s in (state, loaded)]
    assert torch.equal(*draws)
    assert torch.equal(noise.variance(state), noise.variance(loaded))


@pytest.mark.parametrize(
    ("noise", "fields", "message"),
    [
        (StudentT, {"df": 2}, r"^df: 2\.0 is outside \(2, 1e\+150\]"),
        (Sparse, {"dropout_rate": 1}, r"^dropout_rate: 1\.0 is outside \[0, 1\)"),
        (Sparse, {"dropout_rate": -0.1}, r"^dropout_rate: -0\.1 is outside \[0, 1\)"),
    ],
)
def test_noise_without_variance_is_refused(noise: type[Noise], fields: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        noise(**fields)


def test_sparse_noise_drops_to_the_encoding_of_the_datas_zero() -> None:
    mean = torch.tensor([1.0, 2.0, 4.0])
    std = torch.tensor([0.5, 1.0, 8.0])
    data = Data(
        DATA.abs(), DATA[:2].abs(), encode=lambda x: (x - mean) / std, decode=lambda x: x * std + mean, kind="cells"
    )
    noise = Sparse(dropout_rate=0.3, stored_zero=True)
    rate = 0.3
    zero = -mean / std
    state = noise.learn(data)
    torch.testing.assert_close(state, {"zero": zero})
    x1 = noise.sample((50_000, 3), torch.Generator().manual_seed(0), state)
    assert ((x1 == zero).float().mean(0) - rate).abs().max() < 0.01
    torch.testing.assert_close(x1.mean(0), rate * zero, atol=0.03, rtol=0)
    torch.testing.assert_close(noise.variance(state), x1.var(0), atol=0, rtol=0.03)
    assert Sparse(dropout_rate=0.3).learn(data) == {}


# noise without the empty directions


def cone(n: int, dimensions: int) -> Tensor:
    """Data whose first entry is positive and whose last hardly varies."""
    x = torch.randn(n, dimensions, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x[:, 0] = 10 + 3 * x[:, 0]
    x[:, -1] *= 1e-4
    return x


def test_pruned_noise_avoids_the_axes_that_no_sample_points_along() -> None:
    """The axes are scikit-learn's; noise is normal, given that none of its cosines with the empty ones is too large."""
    data = cone(500, 6)
    unit = (data / data.norm(dim=1, keepdim=True)).numpy()
    axes = np.concatenate([PCA().fit(unit).components_, -PCA().fit(unit).components_])
    empty = axes[(unit @ axes.T).max(0) <= 0.01]
    assert 2 <= len(empty) < len(axes)
    noise = Pruned(reject=1.0)
    state = noise.fit(data)
    found = state["axes"].T.double().numpy()
    assert len(found) == len(empty)
    assert (found @ empty.T).max(1) == pytest.approx(np.ones(len(found)), abs=1e-5)  # the same, in any order
    x1 = noise.sample((20_000, 6), torch.Generator().manual_seed(0), state).double().numpy()

    def kept(x: np.ndarray) -> np.ndarray:
        return x[(x @ empty.T <= np.linalg.norm(x, axis=1, keepdims=True) / 6**0.5 + 1e-6).all(1)]

    assert len(kept(x1)) == len(x1)
    plain = np.random.default_rng(1).standard_normal((60_000, 6))
    assert 0.2 < len(kept(plain)) / len(plain) < 0.9
    for axis in empty:
        assert stats.ks_2samp(x1 @ axis, kept(plain) @ axis).pvalue > 1e-3


def test_data_in_every_direction_leave_nothing_to_prune() -> None:
    data = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    around = Data(data, data, torch.Tensor.float, torch.Tensor.float, "points")
    with pytest.raises(ConfigError, match=r"^noise\.empty: in each of its principal directions .* Raise it, or choose"):
        Pruned().check(around)
    noise = Pruned(empty=0.9999999, reject=0.1)
    with pytest.raises(ConfigError, match=r"^noise\.reject: \d+ of 9 draws lay along one of 6 empty axes, 1000 times"):
        noise.sample((9, 3), torch.Generator().manual_seed(0), noise.fit(data))
