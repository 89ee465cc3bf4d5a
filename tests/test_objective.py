"""The loss: the formula of its components, the same draws in every arm, and which settings move the minimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_step import one_step
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from harness.components.interpolants import Interpolant, Linear, over
from harness.components.noises import Noise
from harness.components.time_samplers import TimeSampler
from harness.core.errors import ConfigError
from harness.core.registry import build, names
from harness.core.rng import Streams, stream
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective, Step, Task
from harness.flow.time_weight import TimeWeight

SPACES = ["output", "velocity", "data", "noise"]


class Network(nn.Module):
    """The network a x + b t, which records its last input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))
        self.b = nn.Parameter(torch.tensor(-0.25))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.given = x.detach(), t.detach()
        return self.a * x + self.b * over(t, x)

    @property
    def gradient(self) -> Tensor:
        return torch.stack([p.grad for p in (self.a, self.b) if p.grad is not None])


@dataclass(frozen=True, kw_only=True)
class FixedNoise(Noise):
    """The same x1 at every draw."""

    def sample(self, shape: Any, generator: torch.Generator, state: Any) -> Tensor:
        return torch.tensor([0.8, -1.2, 0.3, 0.5]).view(1, 1, 2, 2).expand(shape)


@dataclass(frozen=True, kw_only=True)
class Ends(TimeSampler):
    """Both ends in turn, exactly."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return (torch.arange(len(u)) % 2).to(u)

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return torch.ones_like(t)


def data(n: int) -> Tensor:
    return 2 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0)) - 1


def objective(normalise_weight: bool = True, space: str = "output", **components: Any) -> Objective:
    made = Formulation.parse({**components, "objective": {"space": space, "normalise_weight": normalise_weight}})
    return Objective(made, made.noise.fit(data(512)))


def step(made: Objective, n: int = 512, seed: int = 1, number: int = 2, network: nn.Module | None = None) -> Step:
    return one_step(made, network or Network(), data(n), seed, number)


def loss(made: Objective, n: int = 512) -> float:
    return step(made, n).loss.item()


def gradient(made: Objective, n: int = 512) -> Tensor:
    network = Network()
    step(made, n, network=network).loss.backward()
    return network.gradient


def edm_by_hand(x0: Tensor, xt: Tensor, alpha: float, sigma: float, std: float) -> tuple[Tensor, Tensor, float]:
    """Return, by Karras et al. 2022, eq. 7 and table 1: the network's input, its target, and the data error over its
    error.
    """
    s = sigma * std / alpha
    d = 0.5
    skip = d**2 / (s**2 + d**2)
    out = s * d / (s**2 + d**2) ** 0.5
    return xt / alpha / (s**2 + d**2) ** 0.5, (x0 - skip * xt / alpha) / out, out


Hand = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor, float, float]]
"""Maps x0, x1, t and the noise's standard deviation to the network's input, its target, the factor of its error and the
weight.
"""


def linear(x0: Tensor, x1: Tensor, t: float) -> Tensor:
    return (1 - t) * x0 + t * x1


def edm_on_vp(x0: Tensor, x1: Tensor, t: float, std: float) -> tuple[Tensor, Tensor, float, float]:
    alpha = math.sqrt(1 - t**2)
    given, target, out = edm_by_hand(x0, alpha * x0 + t * x1, alpha, t, std)
    s = t * std / alpha
    return given, target, out, (s**2 + 0.5**2) / (s * 0.5) ** 2


def velocity_on_gvp_as_data(x0: Tensor, x1: Tensor, t: float, std: float) -> tuple[Tensor, Tensor, float, float]:
    """x0 = cos x_t - (2 / pi) sin v on the circle."""
    c = math.cos(math.pi * t / 2)
    s = math.sin(math.pi * t / 2)
    return c * x0 + s * x1, math.pi / 2 * (c * x1 - s * x0), -2 / math.pi * s, min(c**2 / s**2, 5)


BY_HAND: dict[str, tuple[dict[str, Any], Hand]] = {
    "velocity": ({"weighting": "noise_end"}, lambda x0, x1, t, _: (linear(x0, x1, t), x1 - x0, 1, t**2)),
    "data, min_snr": (
        {"prediction": "data", "weighting": "min_snr"},
        lambda x0, x1, t, _: (linear(x0, x1, t), x0, 1, min(((1 - t) / t) ** 2, 5)),
    ),
    "noise, p2, huber": (
        {"prediction": "noise", "weighting": "p2", "loss": {"name": "pseudo_huber", "c": 0.3}},
        lambda x0, x1, t, _: (linear(x0, x1, t), x1, 1, t**2 / (t**2 + (1 - t) ** 2)),
    ),
    "noise as velocity": (
        {"prediction": "noise", "space": "velocity"},
        lambda x0, x1, t, _: (linear(x0, x1, t), x1, 1 / (1 - min(t, 0.99)), 1),
    ),
    "data as velocity, power": (
        {"prediction": {"name": "data", "t_min": 0.03}, "space": "velocity", "time_sampler": {"name": "power", "p": 3}},
        lambda x0, x1, t, _: (linear(x0, x1, t), x0, -1 / max(t, 0.03), 1),
    ),
    "velocity as noise, huber": (
        {"space": "noise", "loss": {"name": "pseudo_huber", "c": 0.3}, "weighting": "data_end"},
        lambda x0, x1, t, _: (linear(x0, x1, t), x1 - x0, 1 - t, (1 - t) ** 2),
    ),
    "velocity, cosmap, huber": (
        {"loss": {"name": "pseudo_huber", "c": 0.3}, "weighting": "cosmap"},
        lambda x0, x1, t, _: (linear(x0, x1, t), x1 - x0, 1, 2 / (math.pi * (1 - 2 * t + 2 * t**2))),
    ),
    "velocity, min_snr": (  # of the data error, which is t times the velocity error
        {"weighting": "min_snr"},
        lambda x0, x1, t, _: (linear(x0, x1, t), x1 - x0, 1, min(((1 - t) / t) ** 2, 5) * max(t, 0.01) ** 2),
    ),
    "velocity, clipped_snr": (
        {"weighting": "clipped_snr"},
        lambda x0, x1, t, _: (linear(x0, x1, t), x1 - x0, 1, min(((1 - t) / t) ** 2, 5)),
    ),
    "data as noise, sigmoid": (  # of the noise error, times -d lambda / dt = 2 / (t (1 - t))
        {"prediction": {"name": "data", "t_min": 0.001}, "space": "noise", "weighting": "sigmoid"},
        lambda x0, x1, t, _: (
            linear(x0, x1, t),
            x0,
            (1 - min(max(t, 0.001), 0.99)) / min(max(t, 0.001), 0.99),
            2 / (max(t, 0.01) * (1 - max(t, 0.01)) * (1 + math.exp(-2) * ((1 - max(t, 0.01)) / max(t, 0.01)) ** 2)),
        ),
    ),
    "velocity as data, gvp": ({"interpolant": "gvp", "space": "data", "weighting": "min_snr"}, velocity_on_gvp_as_data),
    "score as noise, matched": (
        {"prediction": "score", "space": "noise", "noise": "matched"},
        lambda x0, x1, t, s: (linear(x0, x1, t), -x1 / (max(t, 0.01) * s**2), -max(t, 0.01) * s**2, 1),
    ),
    "edm as data, vp, matched": (
        {"prediction": "edm", "space": "data", "interpolant": "vp", "noise": "matched", "weighting": "edm"},
        edm_on_vp,
    ),
    "importance correction": (
        {"time_sampler": {"name": "power", "p": 2, "importance_correct": True, "density_floor": 0.7}},
        lambda x0, x1, t, _: (linear(x0, x1, t), x1 - x0, 1, 1 / max(0.5 / math.sqrt(t), 0.7)),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_loss_is_the_formula(name: str) -> None:
    """The mean over sixteen samples of weight times loss, each written out separately."""
    parts, hand = BY_HAND[name]
    made = objective(False, **parts)
    n = 16
    c = parts.get("loss", {}).get("c")
    std = made.noise_state["std"].item() if made.noise_state else 1.0
    x0 = data(n).double()
    x1 = std * torch.randn(n, 1, 2, 2, generator=stream(1, "noise", 2)).double()
    t = torch.rand(n, generator=stream(1, "time", 2)).double() ** getattr(made.formulation.time_sampler, "p", 1)
    total = 0.0
    for i in range(n):
        given, target, factor, weight = hand(x0[i], x1[i], t[i].item(), std)
        square = (factor * (0.5 * given - 0.25 * t[i] - target)).square().mean().item()
        total += weight * (math.sqrt(square + c**2) - c if c else square) / n
    assert loss(made, n) == pytest.approx(total, rel=2e-4)
    assert std == 1 or abs(std - 1) > 0.2


@pytest.mark.parametrize("name", names("weighting"))
@pytest.mark.parametrize("time_sampler", ["uniform", "power", {"name": "cosmap", "importance_correct": True}], ids=str)
def test_normalising_divides_by_the_mean_under_the_time_density(name: str, time_sampler: Any) -> None:
    normalised, plain = (objective(choice, weighting=name, time_sampler=time_sampler) for choice in (True, False))
    mean = normalised.weight_mean
    assert (plain.weight_mean, mean) == (1, TimeWeight(normalised.formulation, {}).mean)
    assert loss(normalised) * mean == pytest.approx(loss(plain), rel=1e-5)
    t = plain.formulation.time_sampler.quantile((torch.arange(2**16) + 0.5) / 2**16, Linear())
    assert normalised.weight(t).double().mean().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("name", [name for name in names("weighting") if name != "uniform"])
@pytest.mark.parametrize("n", [1, 64])
def test_a_weighting_changes_the_gradient(name: str, n: int) -> None:
    """Also at batch size 1, where a weight divided by its batch's mean would always be 1."""
    assert not torch.allclose(gradient(objective(weighting=name), n), gradient(objective(), n), rtol=1e-2)


@pytest.mark.parametrize("noise", [{"name": "sparse", "dropout_rate": 0.75}, "matched"], ids=str)
def test_weights_of_the_snr_know_the_noises_variance(noise: Any) -> None:
    """SNR = alpha^2 / (sigma^2 Var[x1]): 4 times as large if three entries in four are zero."""
    made = objective(False, noise=noise, weighting={"name": "clipped_snr", "gamma": 3})
    variance = 0.25 if made.formulation.noise.name == "sparse" else data(512).var().item()
    t = torch.linspace(0.01, 0.99, 50)
    torch.testing.assert_close(
        made.weight(t), ((1 - t).square() / (t.square() * variance)).clamp(max=3), rtol=1e-4, atol=1e-6
    )
    network = Network()
    measured = step(made, 64, network=network).loss.item()
    t = network.given[1]
    assert measured != pytest.approx(
        step(objective(False, noise=noise, weighting={"name": "clipped_snr", "gamma": 6}), 64).loss.item()
    )
    torch.testing.assert_close(t, torch.rand(64, generator=stream(1, "time", 2)))


def test_times_of_a_noise_level_know_the_noises_variance() -> None:
    """ln(sigma sd / alpha) is N(-1.2, 1.2^2) for EDM's times, for any standard deviation of the noise."""
    made = objective(noise="matched", time_sampler={"name": "edm_lognormal", "stratify": True})
    network = Network()
    step(made, 4096, network=network)
    t = network.given[1].double()
    level = (t / (1 - t)).log() + made.noise_state["std"].double().log()
    assert level.mean().item() == pytest.approx(-1.2, abs=0.01)
    assert level.std().item() == pytest.approx(1.2, abs=0.01)


QUADRATURE = 2**13


def expected_gradient(normalise_weight: bool = True, **parts: Any) -> Tensor:
    """Return the expected gradient at one fixed pair, with one time in each of many equally likely intervals:
    quadrature over t.
    """
    made = Formulation.parse({**parts, "objective": {"normalise_weight": normalise_weight}, "noise": FixedNoise()})
    network = Network()
    one_step(Objective(made, {}), network, data(1).expand(QUADRATURE, 1, 2, 2), 1, 2).loss.backward()
    return network.gradient


def times(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "stratify": True, **fields}


UNIFORM: dict[str, Any] = {"time_sampler": times("uniform")}
LOGIT = {"mean": 0.4, "std": 0.8}
CORRECTED: dict[str, Any] = {"importance_correct": True, "density_floor": 1e-9}
UNEVEN: dict[str, dict[str, Any]] = {
    "mode": {}, "cosmap": {}, "u_shaped": {"a": 3}, "shifted": {"shift": 2}, "logit_normal": {"std": 2},
    "beta": {"a": 1.2},
    "power": {},
}  # fmt: skip
SAME: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "logit_normal": ({"time_sampler": times("logit_normal", **LOGIT)},
     {**UNIFORM, "weighting": {"name": "logit_normal", **LOGIT}}, 1),
    "cosmap": ({"time_sampler": times("cosmap")}, {**UNIFORM, "weighting": "cosmap"}, 1),
    "3 t^2": ({"time_sampler": times("power", p=1 / 3)}, {**UNIFORM, "weighting": "noise_end"}, 3),
    "3 (1 - t)^2": ({"time_sampler": times("beta", a=1, b=3)}, {**UNIFORM, "weighting": "data_end"}, 3),
    "t^0.5 at t^-0.5 / 2": ({"time_sampler": times("power", p=2), "weighting": {"name": "noise_end", "power": 0.5}},
     UNIFORM, 0.5),
    "corrected, weighted": (
        {"time_sampler": times("power", p=1.5, **CORRECTED), "weighting": {"name": "logit_normal", **LOGIT}},
        {"time_sampler": times("logit_normal", **LOGIT)},
        1,
    ),
    "corrected twice": (
        {"time_sampler": times("u_shaped", **CORRECTED), "weighting": "min_snr"},
        {"time_sampler": times("cosmap", **CORRECTED), "weighting": "min_snr"},
        1,
    ),
    **{
        f"corrected {name}": ({"time_sampler": times(name, **CORRECTED, **fields)}, UNIFORM, 1)
        for name, fields in UNEVEN.items()
    },
    "corrected low_discrepancy": ({"time_sampler": {"name": "low_discrepancy", "of": "cosmap", **CORRECTED}}, UNIFORM,
     1),
}  # fmt: skip
"""{case: (formulation, another with proportional w(t) p(t), the factor between them)}."""


@pytest.mark.parametrize("name", SAME)
def test_weight_times_density_alone_decides_the_expected_gradient(name: str) -> None:
    """Equivalence: (w, p) and (w', p') with w p = w' p' are one objective; without the weight, the
    other times are not.
    """
    one, other, factor = SAME[name]
    torch.testing.assert_close(expected_gradient(**one), expected_gradient(**other), rtol=2e-3, atol=5e-4)
    plain = [expected_gradient(normalise_weight=False, **parts) for parts in (one, other)]
    torch.testing.assert_close(plain[0], factor * plain[1], rtol=2e-3, atol=5e-4)
    uncorrected = {**one["time_sampler"], "importance_correct": False}
    moved = expected_gradient(**{**one, "time_sampler": uncorrected, "weighting": "uniform"})
    assert (moved - expected_gradient(**UNIFORM)).abs().max() > 0.02


@pytest.mark.parametrize("name", ["logit_normal", "3 t^2", "corrected cosmap"])
def test_the_equivalence_holds_over_random_pairs(name: str) -> None:
    """The same over 40 batches of independent noise, within five standard errors of the paired difference."""
    differences = []
    sizes = []
    made = [Objective(Formulation.parse(parts), {}) for parts in SAME[name][:2]]
    for number in range(40):
        both = []
        for one in made:
            network = Network()
            step(one, 1024, number=number, network=network).loss.backward()
            both.append(network.gradient)
        differences.append(both[0] - both[1])
        sizes.append(both[0])
    difference = torch.stack(differences)
    error = difference.std(0) / math.sqrt(len(difference))
    assert (difference.mean(0).abs() < 5 * error).all()
    assert (error < 0.02 * torch.stack(sizes).mean(0).abs()).all()


MEAN = torch.tensor([0.4, -0.7, 0.3])
STD = torch.tensor([0.5, 0.9, 0.3])
NORMALS = [torch.randn(512, 3, generator=torch.Generator().manual_seed(number)) for number in range(32)]


class Posterior(nn.Module):
    """c (A(t) x) + d B(t), where A x + B is the best prediction for data N(MEAN, STD^2): the optimum is c = d = 1."""

    def __init__(self, made: Formulation, c: float, d: float):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(float(c)))
        self.b = nn.Parameter(torch.tensor(float(d)))
        self.made = made

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        path = self.made.interpolant
        t = t[:, None]
        alpha = path.alpha(t)
        sigma = path.sigma(t)
        if self.made.prediction.name == "edm":
            x = x * (sigma.square() + (0.5 * alpha).square()).sqrt()
        q = (alpha * STD).square() + sigma.square()
        to_data, to_noise = self.made.prediction.coefficients(t, path, torch.ones(()))
        slope = (to_data * alpha * STD.square() + to_noise * sigma) / q
        return self.a * slope * x + self.b * (to_data * MEAN - slope * alpha * MEAN)

    @property
    def gradient(self) -> Tensor:
        return torch.stack([p.grad for p in (self.a, self.b) if p.grad is not None])


def standard_errors_from_zero(made: Formulation, *places: tuple[float, float]) -> list[Tensor]:
    """Return, for each c and d, the mean gradient over the same 32 batches, in units of its standard error."""
    run = Objective(made, {})
    tasks = [run.task(MEAN + STD * normals, Streams(3, number)) for number, normals in enumerate(NORMALS)]
    found = []
    for c, d in places:
        gradients = []
        for task in tasks:
            network = Posterior(made, c, d)
            run.measure(network, task).loss.backward()
            gradients.append(network.gradient)
        stacked = torch.stack(gradients).double()
        found.append(stacked.mean(0) / (stacked.std(0) / math.sqrt(len(stacked))))
    return found


MOVES_NOTHING: list[dict[str, Any]] = [
    *({"weighting": name} for name in names("weighting") if name != "inverse_snr"),
    {"weighting": {"name": "inverse_snr", "t_max": 0.97}},  # at 0.999, the times that count would be a millionth of all
    *({"time_sampler": name} for name in names("time_sampler")),
    {"time_sampler": {"name": "cosmap", "importance_correct": True}},
    *(
        {"prediction": prediction, "objective": {"space": space}}
        for prediction in names("prediction")
        for space in SPACES
    ),
    *({"interpolant": name, "objective": {"space": "data"}} for name in names("interpolant") if name != "ve"),
    {"loss": {"name": "pseudo_huber", "c": 0.3}},
]


@pytest.mark.parametrize("parts", MOVES_NOTHING, ids=str)
def test_the_minimiser_is_that_of_every_weight_density_and_space(parts: dict[str, Any]) -> None:
    """At the optimum the expected gradient is zero, and nowhere near it."""
    unnormalised = {"normalise_weight": False, **parts.get("objective", {})}
    made = Formulation.parse({"time_sampler": {"name": "stratified"}, **parts, "objective": unnormalised})
    optimum, other = standard_errors_from_zero(made, (1, 1), (1.3, 0.7))
    assert (optimum.abs() < 4.5).all()
    assert (other.abs() > 7).any()


class Converted(nn.Module):
    """One fixed velocity field as a network of any prediction: it solves for x0 and x1 in float64."""

    def __init__(self, made: Formulation, variance: Tensor):
        super().__init__()
        self.made = made
        self.variance = variance
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        path = self.made.interpolant
        prediction = self.made.prediction
        self.times = t
        x = x.double()
        t = over(t, x).double()
        variance = self.variance.double()
        alpha = path.alpha(t)
        sigma = path.sigma(t)
        alpha_dot = path.alpha_dot(t)
        sigma_dot = path.sigma_dot(t)
        if prediction.name == "edm":
            x = x * (sigma.square() * variance.mean() + (0.5 * alpha).square()).sqrt()
        v = self.scale * x + torch.sin(3 * t) - x.flip(-1).square() / 10
        x0 = (sigma_dot * x - sigma * v) / (alpha * sigma_dot - sigma * alpha_dot)
        x1 = (alpha * v - alpha_dot * x) / (alpha * sigma_dot - sigma * alpha_dot)
        if prediction.name == "edm":
            _, target, _ = edm_by_hand(x0, x, alpha, sigma, variance.mean().sqrt())  # type: ignore[arg-type]
            return target.float()
        said = {"velocity": v, "data": x0, "noise": x1, "score": -x1 / (sigma * variance)}
        return said[prediction.name].float()


INSIDE_THE_CLAMPS = {"time_sampler": {"name": "beta", "a": 6, "b": 6}}


def meant(prediction: str, space: str, **parts: Any) -> tuple[float, float]:
    """Return loss and gradient of the one velocity field, expressed by a network of a prediction."""
    x0 = data(64) * torch.tensor([1.0, 0.7, 0.4, 0.2]).view(1, 1, 2, 2)
    choices = {"space": space, "normalise_weight": False}
    clamps = {"t_min": 1e-6, "t_max": 1 - 1e-6}
    made = Formulation.parse(
        {**INSIDE_THE_CLAMPS, **parts, "prediction": {"name": prediction, **clamps}, "objective": choices}
    )
    state = made.noise.fit(x0)
    network = Converted(made, made.noise.variance(state))
    result = one_step(Objective(made, state), network, x0, 1, 2).loss
    result.backward()
    assert ((network.times > 0.02) & (network.times < 0.98)).all()
    return result.item(), network.scale.grad.item()  # type: ignore[union-attr]


OTHERS = [name for name in names("prediction") if name != "velocity"]


@pytest.mark.parametrize("noise", ["gaussian", "matched"])
@pytest.mark.parametrize("prediction", OTHERS)
@pytest.mark.parametrize("interpolant", names("interpolant"))
def test_in_one_space_all_predictions_have_one_loss(interpolant: str, prediction: str, noise: str) -> None:
    """Networks with different predictions of the same velocity have the same error."""
    parts = {"interpolant": interpolant, "noise": noise, "weighting": "clipped_snr"}
    for space in ("velocity", "data", "noise"):
        assert meant(prediction, space, **parts) == pytest.approx(meant("velocity", space, **parts), rel=2e-3), space


STATED = [name for name in names("weighting") if build("weighting", name).stated_for != "any"]


def papers_loss(weighting: str, interpolant: str) -> float:
    """Return the paper's loss of the same field: the weighting times the squared error that the paper states it for."""
    x0 = data(64) * torch.tensor([1.0, 0.7, 0.4, 0.2]).view(1, 1, 2, 2)
    parts = {"interpolant": interpolant, "weighting": weighting, "objective": {"normalise_weight": False}}
    made = Formulation.parse({**INSIDE_THE_CLAMPS, **parts})
    task = Objective(made, {}).task(x0, Streams(1, 2))
    path = made.interpolant
    t = over(task.t, x0).double()
    x = task.xt.double()
    velocity = Converted(made, torch.ones(()))(task.xt, task.t).double()
    alpha, sigma, alpha_dot, sigma_dot = path.alpha(t), path.sigma(t), path.alpha_dot(t), path.sigma_dot(t)
    said = {
        "velocity": velocity,
        "data": (sigma_dot * x - sigma * velocity) / (alpha * sigma_dot - sigma * alpha_dot),
        "noise": (alpha * velocity - alpha_dot * x) / (alpha * sigma_dot - sigma * alpha_dot),
    }
    x1 = (x - alpha * x0) / sigma
    true = {"velocity": alpha_dot * x0 + sigma_dot * x1, "data": x0, "noise": x1}
    stated = made.weighting.stated_for
    errors = (said[stated] - true[stated]).square().flatten(1).mean(1)
    return (made.weighting.weight(task.t.double(), path) * errors).mean().item()


@pytest.mark.parametrize("interpolant", ["polynomial", "vp"])
@pytest.mark.parametrize("weighting", STATED)
def test_a_stated_weighting_has_its_papers_loss_in_every_space(weighting: str, interpolant: str) -> None:
    """For every prediction and every measured error."""
    expected = papers_loss(weighting, interpolant)
    for prediction, space in (("velocity", "output"), ("velocity", "data"), ("data", "noise"), ("edm", "output")):
        found, _ = meant(prediction, space, interpolant=interpolant, weighting=weighting)
        assert found == pytest.approx(expected, rel=2e-3), (prediction, space)


@pytest.mark.parametrize("prediction", OTHERS)
def test_they_have_one_loss_where_each_feature_has_noise_of_its_own(prediction: str) -> None:
    noise = {"name": "matched", "per_feature": True}
    assert meant(prediction, "velocity", noise=noise) == pytest.approx(
        meant("velocity", "velocity", noise=noise), rel=2e-3
    )


@pytest.mark.parametrize("prediction", names("prediction"))
@pytest.mark.parametrize("interpolant", names("interpolant"))
def test_loss_and_gradient_are_finite_at_both_ends(interpolant: str, prediction: str) -> None:
    for space in SPACES:
        for loss_name in names("loss"):
            made = objective(
                False, space, interpolant=interpolant, prediction=prediction, loss=loss_name, time_sampler=Ends()
            )
            network = Network()
            result = step(made, 8, network=network)
            result.loss.backward()
            assert network.given[1].tolist() == [0, 1] * 4
            assert result.loss.isfinite(), space
            assert network.gradient.isfinite().all(), space
            assert result.loss > 0


@pytest.mark.parametrize("interpolant", names("interpolant"))
def test_weights_are_finite_at_both_ends_of_a_run(interpolant: str) -> None:
    for weighting in names("weighting"):
        made = objective(False, interpolant=interpolant, weighting=weighting, noise="matched", time_sampler=Ends())
        assert gradient(made, 8).isfinite().all(), weighting
        assert math.isfinite(loss(made, 8)), weighting


def test_arms_share_their_draws() -> None:
    """The same seed and step give the same x_t and t for any weighting, loss and prediction; other seeds or steps do
    not.
    """

    def given(seed: int, number: int, **parts: Any) -> tuple[Tensor, Tensor]:
        network = Network()
        step(objective(False, **parts), 8, seed, number, network)
        return network.given

    first = given(1, 2)
    for family in ("weighting", "loss", "prediction"):
        for name in names(family):
            if name != "edm" or family != "prediction":  # the input of EDM's network is a scaled x_t
                assert all(map(torch.equal, first, given(1, 2, **{family: name})))
    for seed, number in ((2, 2), (1, 3), (2, 1)):
        assert not any(map(torch.equal, first, given(seed, number)))


def test_the_transport_cost_is_that_of_the_pairs() -> None:
    """Mean |x0 - x1|^2 of the training pairs: of the draws themselves, and of the best permutation."""
    x0 = data(32)
    x1 = torch.randn(32, 1, 2, 2, generator=stream(1, "noise", 2))
    costs = (x0[:, None] - x1[None]).square().flatten(2).sum(2)
    drawn = objective().task(x0, Streams(1, 2))
    assert drawn.transport_cost.item() == pytest.approx(costs.diagonal().mean().item(), rel=1e-5)
    assert drawn.transport_cost.ndim == 0
    rows, columns = linear_sum_assignment(costs.numpy())
    network = Network()
    moved = objective(coupling="exact_ot")
    paired = moved.task(x0, Streams(1, 2))
    assert moved.measure(network, paired).loss.ndim == 0
    assert paired.transport_cost.item() == pytest.approx(costs[rows, columns].mean().item(), rel=1e-5)
    assert paired.transport_cost < drawn.transport_cost - 0.1
    assert 0 < paired.coupling_seconds < 60
    t = network.given[1].view(-1, 1, 1, 1)
    torch.testing.assert_close(network.given[0], (1 - t) * x0 + t * x1[columns])


def test_fixed_pairs_take_the_place_of_the_batch(tmp_path: Path) -> None:
    """Training uses both ends of the only pair in the files, and not the draws."""
    x0 = data(1)
    x1 = torch.full((1, 1, 2, 2), 3.0)
    for name, end in (("x0", x0), ("x1", x1)):
        np.save(tmp_path / f"{name}.npy", end.numpy())
    network = Network()
    made = objective(coupling={"name": "pairs", "path": str(tmp_path)})
    task = made.task(torch.zeros(8, 1, 2, 2), Streams(1, 2))
    made.measure(network, task)
    t = network.given[1].view(-1, 1, 1, 1)
    torch.testing.assert_close(network.given[0], (1 - t) * x0 + t * x1)
    assert task.transport_cost.item() == pytest.approx((x0 - x1).square().sum().item(), rel=1e-5)


def test_classes_reach_the_coupling() -> None:
    """With one class per sample, nothing can move; with one class for all, it is optimal transport; without classes, it
    is refused.
    """
    made = objective(coupling="class_conditional_ot")
    x0 = data(16)
    alone = made.task(x0, Streams(1, 2), torch.arange(16))
    together = made.task(x0, Streams(1, 2), torch.zeros(16, dtype=torch.long))
    assert made.measure(Network(), alone).loss.item() == pytest.approx(loss(objective(), 16))
    assert made.measure(Network(), together).loss.item() == pytest.approx(loss(objective(coupling="exact_ot"), 16))
    assert together.transport_cost < alone.transport_cost
    with pytest.raises(ConfigError, match="class_conditional_ot needs the classes of the data"):
        made.task(x0, Streams(1, 2))


def test_a_share_has_its_rows_of_everything() -> None:
    rows = torch.arange(6.0)
    task = Task(rows.view(6, 1), 10 + rows.view(6, 1), rows / 10, 100 + rows, torch.tensor(0.5), 0.25)
    part = task.share(1, 3)
    assert part.xt.tolist() == [[2], [3]]
    assert part.target.tolist() == [[12], [13]]
    assert torch.equal(part.t, torch.tensor([0.2, 0.3]))
    assert part.y is not None
    assert part.y.tolist() == [102, 103]
    assert part.transport_cost == 0.5
    assert task.share(0, 1) is task


def test_classes_are_hidden_unless_all_are_asked_for() -> None:
    objective = Objective(Formulation.parse({"objective": {"label_dropout": 0.5}}), {})
    x0 = torch.zeros(64, 1, 2, 2)
    y = torch.arange(64)
    shown = objective.task(x0, Streams(0, 0), y).y
    assert shown is not None
    hidden = shown == -1
    assert 16 < hidden.sum() < 48  # four standard deviations of 4 on each side
    assert torch.equal(shown[~hidden], y[~hidden])
    told = objective.task(x0, Streams(0, 0), y, hide=False).y
    assert told is not None
    assert torch.equal(told, y)
