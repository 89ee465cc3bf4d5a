"""The weight of an error at a time: the papers' objectives in every loss space, means over times, effective shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.special import expit

from harness.core.errors import ConfigError
from harness.core.registry import build, names
from harness.data.images import Digits
from harness.flow.formulation import Formulation
from harness.flow.time_weight import TimeWeight
from harness.runs.config import RunConfig
from harness.runs.explain import LOG_SNR, Explained

Curve = Callable[[np.ndarray], np.ndarray]

SPACES = ("output", "velocity", "data", "noise")
LAMBDA = LOG_SNR.numpy()
SNR = np.exp(LAMBDA)


def weight_of(space: str = "output", normalise: bool = False, **parts: Any) -> TimeWeight:
    return TimeWeight(Formulation.parse({**parts, "objective": {"space": space, "normalise_weight": normalise}}), {})


# The papers' objectives, as weights of the noise error over log SNR


def cosine(t: np.ndarray) -> np.ndarray:
    return np.cos(math.pi / 2 * (t + 0.008) / 1.008) / math.cos(math.pi / 2 * 0.008 / 1.008)


def ddpm(t: np.ndarray) -> np.ndarray:
    return np.exp(-(0.1 * t + 19.9 * t**2 / 2) / 2)


def latent_diffusion(t: np.ndarray) -> np.ndarray:
    low, high = math.sqrt(0.85), math.sqrt(12)
    return np.exp(-((low + (high - low) * t) ** 3 - low**3) / (3 * (high - low)) / 2)


def preserving(alpha: Curve) -> tuple[Curve, Curve]:
    return alpha, lambda t: np.sqrt(1 - alpha(t) ** 2)


PATHS: dict[str, tuple[Curve, Curve]] = {
    "linear": (lambda t: 1 - t, lambda t: t),
    "fm_ot": (lambda t: 1 - t, lambda t: t + (1 - t) * 1e-4),
    "polynomial": (lambda t: (1 - t) ** 2, lambda t: 1 - (1 - t) ** 2),
    "sub_vp": (ddpm, lambda t: 1 - ddpm(t) ** 2),
    "edm": (np.ones_like, lambda t: 80 * t),
    "ve": (np.ones_like, lambda t: 0.01 * 5000**t),
    "vp": preserving(lambda t: np.sqrt(1 - t**2)),
    "gvp": preserving(lambda t: np.cos(math.pi / 2 * t)),
    "vp_ddpm": preserving(ddpm),
    "vp_ldm": preserving(latent_diffusion),
    "cosine": preserving(cosine),
}
"""alpha and sigma with their defaults, written out."""
VARIANCE_PRESERVING = ("vp", "gvp", "vp_ddpm", "vp_ldm", "cosine")

OF_DATA = {
    "snr": SNR,
    "min_snr": np.minimum(SNR, 5),
    "truncated_snr": np.maximum(SNR, 1),
    "edm": (1 / SNR + 0.25) / (0.25 / SNR),
}
OF_NOISE = {"p2": 1 / (1 + SNR)}
OVER_LOG_SNR = {"sigmoid": expit(2 - LAMBDA), "likelihood": np.ones_like(LAMBDA)}
"""Densities over log SNR: that of Kingma & Gao, and that of VDM, whose bound counts every level equally."""
OF_VELOCITY: dict[str, Curve] = {
    "cosmap": lambda t: 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2),
    "logit_normal": lambda t: np.exp(-(np.log(t / (1 - t)) ** 2) / 2) / (t * (1 - t)),
}


def published(weighting: str, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the paper's weight of the noise error over `LAMBDA`, and the levels inside all clamps.

    Given x_t = alpha x0 + sigma x1, the error of x0 is sigma / alpha times the error of x1, and the error of the
    velocity is sigma' - sigma alpha' / alpha = sigma |lambda'| / 2 times it. A uniform time has density 1 / |lambda'|
    over log SNR.
    """
    alpha, sigma = PATHS[path]
    t = np.linspace(1e-4, 1 - 1e-4, 400_001)
    falling = 2 * np.log(alpha(t) / sigma(t))
    at = np.interp(-LAMBDA, -falling, t)
    slope = np.interp(at, t, -np.gradient(falling, t))
    inside = (at > 0.011) & (at < 0.989)
    if weighting in OF_DATA:
        return OF_DATA[weighting] / SNR / slope, inside
    if weighting in OF_VELOCITY:
        return OF_VELOCITY[weighting](at) * (sigma(at) * slope / 2) ** 2 / slope, inside
    return OVER_LOG_SNR.get(weighting, OF_NOISE.get(weighting, np.nan) / slope), inside


STATED = [name for name in names("weighting") if build("weighting", name).stated_for != "any"]


def test_every_stated_weighting_has_its_papers_formula_here() -> None:
    assert set(STATED) == {*OF_DATA, *OF_NOISE, *OVER_LOG_SNR, *OF_VELOCITY}
    assert set(names("interpolant")) == PATHS.keys()


CORRECTED = {"name": "u_shaped", "importance_correct": True}
WAYS: list[tuple[str, str, Any]] = [
    ("velocity", "output", CORRECTED),
    ("velocity", "data", "uniform"),
    ("velocity", "noise", "uniform"),
    ("data", "output", "uniform"),
    ("noise", "velocity", "uniform"),
    ("score", "output", "uniform"),
    ("edm", "output", "uniform"),
]
"""Prediction, the space of the error, times."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weighting", STATED)
def test_every_weighting_is_its_papers_objective_in_every_space(weighting: str, path: str) -> None:
    """For every prediction and every measured error, its weight over log SNR is the same curve."""
    expected, inside = published(weighting, path)
    assert inside.sum() > 300
    for prediction, space, times in WAYS:
        parts = {"weighting": weighting, "interpolant": path, "prediction": prediction, "time_sampler": times}
        measured = {"space": space, "normalise_weight": False}
        config = RunConfig.parse({"dataset": Digits(), **parts, "objective": measured})
        ratio = Explained(config, {}).effective_weight().numpy()[inside] / expected[inside]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4, err_msg=f"{prediction} {space}")


T = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("path", PATHS)
def test_min_snr_is_hangs_weight_of_the_noise_error(path: str, gamma: float) -> None:
    """Hang et al. 2023: min(SNR, gamma) / SNR."""
    weighting = {"name": "min_snr", "gamma": gamma}
    weight = weight_of(interpolant=path, prediction="noise", weighting=weighting)(T)
    alpha, sigma = (factor(T.numpy()) for factor in PATHS[path])
    snr = (alpha / sigma) ** 2
    np.testing.assert_allclose(weight.numpy(), np.minimum(snr, gamma) / snr, rtol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("path", VARIANCE_PRESERVING)
def test_min_snr_is_hangs_weight_of_v(path: str, gamma: float) -> None:
    """Hang et al. 2023: min(SNR, gamma) / (SNR + 1) on v = alpha x1 - sigma x0.

    The velocity is v times the speed of the angle whose cosine is alpha.
    """
    weight = weight_of(interpolant=path, weighting={"name": "min_snr", "gamma": gamma})(T).numpy()
    t = T.numpy()
    alpha, sigma = PATHS[path]
    speed = (np.arctan2(sigma(t + 1e-6), alpha(t + 1e-6)) - np.arctan2(sigma(t - 1e-6), alpha(t - 1e-6))) / 2e-6
    snr = (alpha(t) / sigma(t)) ** 2
    np.testing.assert_allclose(weight * speed**2, np.minimum(snr, gamma) / (snr + 1), rtol=1e-6)


def test_a_weighting_of_the_measured_error_is_not_converted() -> None:
    for name in set(names("weighting")) - set(STATED):
        plain = build("weighting", name)
        for space in SPACES:
            made = weight_of(space, interpolant="gvp", weighting=name)
            assert torch.equal(made(T), plain.weight(T, made.path)), (name, space)


def test_a_weighting_is_unchanged_if_its_error_is_measured() -> None:
    """Unchanged to the last bit, up to the ends, where a conversion there and back would be unbounded."""
    t = torch.linspace(0, 1, 101)
    for name in STATED:
        weighting = build("weighting", name)
        stated = weighting.stated_for
        for parts in (
            {"space": stated, "prediction": {"name": "velocity", "t_min": 0, "t_max": 1}},
            {"prediction": stated},
        ):
            made = weight_of(weighting=weighting, **parts)
            assert torch.equal(made(t), weighting.weight(t, made.path)), (name, parts)


def test_beyond_the_clamps_of_conversions_the_factor_is_constant() -> None:
    t = torch.tensor([0, 0.005, 0.03, 0.05, 0.97, 0.999, 1], dtype=torch.float64)
    clamps = {"name": "velocity", "t_min": 0.03, "t_max": 0.97}
    of_data = weight_of(prediction=clamps, weighting={"name": "snr", "t_min": 0.01})(t)
    snr = ((1 - t) / t.clamp(min=0.01)).square()
    snr[:2] = 99**2
    torch.testing.assert_close(of_data, snr * t.clamp(0.03, 0.97).square())
    of_noise = weight_of(prediction=clamps, weighting="p2")(t)
    torch.testing.assert_close(of_noise, t**2 / (t**2 + (1 - t) ** 2) * (1 - t.clamp(0.03, 0.97)).square())


def test_different_noise_per_feature_leaves_no_single_weight_of_the_scores_error() -> None:
    parts = {"prediction": "score", "weighting": "min_snr", "noise": {"name": "matched", "per_feature": True}}
    std = torch.tensor([0.6, 0.8])
    with pytest.raises(
        ConfigError, match=r"^objective\.space: min_snr weights the data error, .* differs between features"
    ):
        TimeWeight(Formulation.parse(parts), {"std": std})
    of_one = TimeWeight(Formulation.parse(parts), {"std": std[:1]})(T)
    measured = (T * 0.6**2).square() * (T / (1 - T)).square()  # x0 errs by sigma / alpha, x1 by sigma Var[x1]
    snr = ((1 - T) / (0.6 * T)).square()
    torch.testing.assert_close(of_one / of_one[0], (snr.clamp(max=5) * measured) / (snr.clamp(max=5) * measured)[0])


# The mean


def fine_times(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return times that are densest at both ends, and their weights: the mean of f times the weights integrates f."""
    s = (np.arange(number) + 0.5) / number
    return s**3 * (10 - 15 * s + 6 * s**2), 30 * (s * (1 - s)) ** 2


def corrected(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "importance_correct": True, **fields}


TIMES: dict[str, dict[str, Any]] = {
    "uniform": {"name": "uniform"},
    "power": {"name": "power", "p": 2},
    "power-0.5": {"name": "power", "p": 0.5},
    "logit_normal": {"name": "logit_normal", "mean": -0.3, "std": 0.8},
    "beta": {"name": "beta"},
    "edm_lognormal": {"name": "edm_lognormal"},
    "shifted": {"name": "shifted", "of": "cosmap"},
    "low_discrepancy": {"name": "low_discrepancy", "of": "logit_normal"},
    "corrected-cosmap": corrected("cosmap"),
    "corrected-logit_normal": corrected("logit_normal"),
    "corrected-floor": corrected("power", p=0.5, density_floor=0.4),
    "corrected-shifted": corrected("shifted", of="logit_normal"),
    "corrected-edm": corrected("edm_lognormal"),
}
MEANS: dict[str, tuple[dict[str, Any], Curve]] = {
    "clipped_snr": ({"weighting": "clipped_snr"}, lambda t: np.minimum((1 - t) ** 2 / t**2, 5)),
    "min_snr of the velocity": (
        {"weighting": "min_snr"},
        lambda t: np.minimum((1 - t) ** 2 / t**2, 5) * np.clip(t, 0.01, 0.99) ** 2,
    ),
    "inverse_snr on gvp": (
        {"weighting": {"name": "inverse_snr", "t_max": 0.98}, "interpolant": "gvp"},
        lambda t: np.tan(math.pi / 2 * np.minimum(t, 0.98)) ** 2,
    ),
    "edm on vp_ddpm": (
        {"weighting": "edm", "interpolant": "vp_ddpm", "space": "data"},
        lambda t: 4 + ddpm(np.maximum(t, 0.01)) ** 2 / (1 - ddpm(np.maximum(t, 0.01)) ** 2),
    ),
}  # fmt: skip
STEEP = {"corrected-logit_normal", "corrected-shifted", "corrected-edm"}
"""Where a density falls below its floor, the first and last of the 2^20 quantiles have up to 0.4 % of a large weight's
mean.
"""


@pytest.mark.parametrize("case", MEANS)
@pytest.mark.parametrize("times", TIMES)
def test_the_mean_is_the_integral_over_the_time_density(case: str, times: str) -> None:
    """With importance correction, the mean of w p / max(p, floor)."""
    parts, formula = MEANS[case]
    made = weight_of(normalise=True, time_sampler=TIMES[times], **parts)
    sampler = made.formulation.time_sampler
    grid, spacing = fine_times(2**15)
    p = sampler.density(torch.from_numpy(grid), made.path).numpy()
    density = p / np.maximum(p, sampler.density_floor) if sampler.importance_correct else p
    integral = (formula(grid) * density * spacing).mean()
    assert made.mean == pytest.approx(integral, rel=5e-3 if times in STEEP else 1e-4)


@pytest.mark.parametrize("weighting", names("weighting"))
def test_a_correction_without_a_floor_gives_the_mean_over_uniform_times(weighting: str) -> None:
    uniform, plain, without = (
        weight_of(normalise=True, weighting=weighting, time_sampler=times).mean
        for times in ("uniform", "shifted", corrected("shifted"))
    )
    assert without == pytest.approx(uniform, rel=1e-4)
    assert plain != pytest.approx(uniform, rel=1e-3) or weighting == "uniform"


# The share of a batch that counts


def test_the_effective_share_of_a_power_of_the_time() -> None:
    """(2 p + 1) / (p + 1)^2, which is 5 / 9 for the square, at either end."""
    for name in ("data_end", "noise_end"):
        for power in (0.5, 2, 5):
            made = weight_of(weighting={"name": name, "power": power})
            assert made.effective_share() == pytest.approx((2 * power + 1) / (power + 1) ** 2, rel=1e-6)


def test_the_effective_share_of_an_unbounded_weight_depends_on_its_clamp() -> None:
    """1 / SNR up to t = 0.999, by SciPy's quadrature: 0.3 % of a batch."""

    def moment(power: int) -> float:
        below = integrate.quad(lambda t: (t / (1 - t)) ** (2 * power), 0, 0.999, limit=200)[0]
        return below + 0.001 * (0.999 / 0.001) ** (2 * power)

    share = weight_of(weighting="inverse_snr").effective_share()
    assert share == pytest.approx(moment(1) ** 2 / moment(2), rel=1e-3)
    assert f"{share:.1%}" == "0.3%"


def share(weight: Callable[[float], float], *breaks: float) -> float:
    """Return (E w)^2 / E w^2 over uniform times, by SciPy's quadrature."""
    first, second = (
        integrate.quad(lambda t, power=power: weight(t) ** power, 0, 1, points=breaks, limit=200)[0] for power in (1, 2)
    )
    return first**2 / second


def test_conversions_count_in_the_effective_share() -> None:
    """min(SNR, 5) of the data error is 5 t^2 or (1 - t)^2 of the velocity error on the straight path."""
    turn = 1 / (1 + math.sqrt(5))
    of_velocity = weight_of(weighting="min_snr").effective_share()
    assert of_velocity == pytest.approx(share(lambda t: min(5 * t**2, (1 - t) ** 2), turn), rel=1e-4)
    of_data = weight_of(prediction="data", weighting="min_snr").effective_share()
    assert of_data == pytest.approx(share(lambda t: min(5, (1 - t) ** 2 / max(t, 0.1) ** 2), turn), rel=1e-4)
    assert of_velocity > of_data + 0.05


def test_corrections_count_in_the_effective_share() -> None:
    """At times of density 2 t, the corrected weight is 1 / max(2 t, 0.4)."""
    power = {"name": "power", "p": 0.5}
    assert weight_of(time_sampler=power).effective_share() == 1
    total = integrate.quad(lambda t: 2 * t / max(2 * t, 0.4), 0, 1, points=(0.2,))[0]
    squares = integrate.quad(lambda t: 2 * t / max(2 * t, 0.4) ** 2, 0, 1, points=(0.2,))[0]
    made = weight_of(time_sampler={**power, "importance_correct": True, "density_floor": 0.4})
    assert made.effective_share() == pytest.approx(total**2 / squares, rel=1e-5)


def test_the_effective_share_does_not_depend_on_the_scale() -> None:
    for weighting in ("edm", "p2"):
        normalised, plain = (weight_of(normalise=normalise, weighting=weighting) for normalise in (True, False))
        assert normalised.effective_share() == pytest.approx(plain.effective_share(), rel=1e-9)
