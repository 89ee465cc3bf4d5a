"""Metrics of the flow, compared with closed forms: Gaussian data, single points, copies of the training set."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.core.config import override
from harness.core.errors import ConfigError
from harness.core.registry import build, names
from harness.data.base import Data
from harness.evaluation.flow_metrics import FieldError, Flow, optimal_velocity
from harness.evaluation.metric import Comparison
from harness.flow.formulation import Formulation
from harness.runs.config import RunConfig

PATHS = [name for name in names("interpolant") if name != "ve"]


def flow_of(
    real: Tensor, field: Any = None, path: Any = None, variance: float = 1.0, classes: Tensor | None = None,
    **parts: object
) -> Flow:  # fmt: skip
    given = (real, classes)
    made = Formulation.parse(parts)
    return Flow(path, field, made, torch.tensor(variance), lambda: given, lambda n: given, Tensor.float, 0)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("variance", [1.0, 4.0])
def test_the_optimal_velocity_of_two_points_is_bayes_rule(name: str, variance: float) -> None:
    """On a line, with the densities of SciPy's normal distribution."""
    from scipy.stats import norm

    real = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    path: Interpolant = build("interpolant", name)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    t = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    found = optimal_velocity(x, t, None, flow_of(real, variance=variance, interpolant=name))
    alpha, sigma, alpha_dot, sigma_dot = (
        f(t).numpy() for f in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot)
    )
    density = np.stack([norm.pdf(x[:, 0], alpha * point, sigma * math.sqrt(variance)) for point in (-1, 2)])
    mean = (density * np.array([[-1], [2]])).sum(0) / density.sum(0)
    expected = alpha_dot * mean + sigma_dot * (x[:, 0].numpy() - alpha * mean) / sigma
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_the_optimal_velocity_does_not_depend_on_how_many_are_computed_at_once() -> None:
    random = torch.Generator().manual_seed(0)
    flow = flow_of(torch.randn(30, 2, 3, generator=random))
    x = torch.randn(20, 2, 3, generator=random)
    t = torch.rand(20, generator=random)
    torch.testing.assert_close(optimal_velocity(x, t, None, flow, at_once=3), optimal_velocity(x, t, None, flow))


def test_the_optimal_velocity_given_a_class_is_that_of_its_samples_alone() -> None:
    """Random classes, one with a single sample. Its velocity is known: from any noise towards the sample."""
    for seed, name in enumerate(PATHS):
        random = torch.Generator().manual_seed(seed)
        real = torch.randn(40, 3, generator=random, dtype=torch.float64)
        classes = torch.randint(0, 4, (40,), generator=random)
        classes[7] = 4
        flow = flow_of(real, classes=classes, interpolant=name)
        path = build("interpolant", name)
        x = torch.randn(9, 3, generator=random, dtype=torch.float64)
        t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
        y = torch.randint(0, 4, (9,), generator=random)
        y[3] = 4
        y[4] = classes[0]
        found = optimal_velocity(x, t, y, flow, at_once=4)
        for i, label in enumerate(y):
            of_class = flow_of(real[classes == label], interpolant=name)
            torch.testing.assert_close(
                found[i], optimal_velocity(x[i : i + 1], t[i : i + 1], None, of_class)[0], msg=f"{name}, sample {i}"
            )
        alpha, sigma, alpha_dot, sigma_dot = (f(t[3]) for f in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot))
        torch.testing.assert_close(
            found[3], alpha_dot * real[7] + sigma_dot * (x[3] - alpha * real[7]) / sigma, msg=name
        )


def test_the_error_of_a_network_with_classes_is_its_distance_from_the_best_field_of_each() -> None:
    """For two distant classes, the best field without classes has the error of a guess between both where noise hides
    them.
    """
    random = torch.Generator().manual_seed(0)
    metric = build("metric", "field_error")
    classes = torch.arange(60) % 2
    real = torch.randn(60, 3, generator=random) * 0.1 + torch.tensor([-1.0, 1.0])[classes, None]
    plain = flow_of(real)
    told: Flow = flow_of(real, lambda x, t, y: optimal_velocity(x, t, y, told), classes=classes)
    deaf = flow_of(real, lambda x, t, y: optimal_velocity(x, t, None, plain), classes=classes)
    swapped = flow_of(real, lambda x, t, y: optimal_velocity(x, t, 1 - y, told), classes=classes)
    assert metric.measure(told) == pytest.approx(0, abs=1e-6)
    assert 0.1 < metric.measure(deaf) < metric.measure(swapped)


def test_the_error_of_the_optimal_field_is_zero_and_that_of_none_is_one() -> None:
    real = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    metric = build("metric", "field_error")
    flow: Flow = flow_of(real, lambda x, t, y: optimal_velocity(x, t, y, flow))
    assert metric.measure(flow) == pytest.approx(0, abs=1e-6)
    assert metric.measure(flow_of(real, lambda x, t, y: 0 * x)) == pytest.approx(1)


def test_the_error_of_a_population_falls_with_the_number_of_samples() -> None:
    """On N(0, I), linear: v* of the population is (2t - 1) x / ((1-t)^2 + t^2); a finite set's field differs, less for
    more samples.
    """

    def field(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return ((2 * t - 1) / ((1 - t) ** 2 + t**2))[:, None] * x

    random = torch.Generator().manual_seed(0)
    errors = [
        build("metric", "field_error").measure(flow_of(torch.randn(n, 1, generator=random), field))
        for n in (20, 200, 2000)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_a_network_that_always_sees_its_class_has_every_measure_of_its_flow(tiny: RunConfig) -> None:
    flows = ["straightness", "curvature", "transport_cost", "field_error"]
    for dropout in (None, 0, 0.1):
        config = override(tiny, {"evaluate.metrics": flows, "objective.label_dropout": dropout})
        assert [metric.name for metric in config.evaluate.metrics] == flows


@pytest.mark.parametrize("changes", [{"coupling": "exact_ot"}, {"noise": "laplace"}, {"loss": "pseudo_huber"}])
def test_the_best_field_is_refused_if_it_is_unknown(tiny: RunConfig, changes: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.metrics\[0\].*eave field_error out"):
        override(tiny, {"evaluate.metrics": ["field_error"], **changes})


def test_the_best_field_of_altered_samples_and_of_very_many_is_refused() -> None:
    points = Data(torch.zeros(20_001, 1), torch.zeros(9, 1), Tensor.float, Tensor.float, "points")
    few = dataclasses.replace(points, train=torch.zeros(20_000, 1))
    metric = FieldError()
    metric.check_data(Comparison(few, None, 9, 9))
    with pytest.raises(ConfigError, match=r"^20001 training samples are too many for field_error\. Leave it out\.$"):
        metric.check_data(Comparison(points, None, 9, 9))
    altered = dataclasses.replace(few, augment=lambda x, generator: x)
    with pytest.raises(ConfigError, match=r"^training augments the samples, .*\. Leave field_error out\.$"):
        metric.check_data(Comparison(altered, None, 9, 9))


def test_paths_of_a_scaled_gaussian_are_as_straight_as_their_integral() -> None:
    """N(0, s^2 I) from N(0, I), linear: x_t = x_1 sqrt((1-t)^2 s^2 + t^2); SciPy integrates its length and
    straightness.
    """
    s = 0.3
    start = torch.randn(4000, 2, dtype=torch.float64)

    def radius(t: float) -> float:
        return math.sqrt((1 - t) ** 2 * s**2 + t**2)

    def speed(t: float) -> float:
        return (t - (1 - t) * s**2) / radius(t)

    def path(steps: int, number: int) -> list[Tensor]:
        return [start[:number] * radius(1 - i / steps) for i in range(steps + 1)]

    flow = flow_of(torch.randn(10, 2), path=path)
    expected = integrate.quad(lambda t: (speed(t) - (1 - s)) ** 2, 0, 1)[0] / (1 - s) ** 2
    found = build("metric", {"name": "straightness", "steps": 1000, "samples": 4000}).measure(flow)
    assert found == pytest.approx(expected, rel=1e-3)
    cost = build("metric", {"name": "transport_cost", "steps": 10, "samples": 4000}).measure(flow)
    assert cost == pytest.approx((1 - s) ** 2 * start.square().sum(1).mean().item())


def test_copies_are_not_authentic_and_fresh_samples_often_are() -> None:
    metric = build("metric", "authenticity")
    random = np.random.default_rng(0)
    known, fresh = ({"features": random.normal(size=(300, 2)).astype(np.float32)} for _ in range(2))
    assert metric.compare(known, known) == 0
    half = {"features": np.concatenate([known["features"][:150], fresh["features"][:150]])}
    assert metric.compare(half, known) == pytest.approx(
        metric.compare({"features": fresh["features"][:150]}, known) / 2
    )
    scale = known["features"].std(0)
    x = fresh["features"] / scale
    y = known["features"] / scale
    between, among = (np.linalg.norm(a[:, None] - y[None], axis=-1) for a in (x, y))
    np.fill_diagonal(among, np.inf)
    expected = np.mean([between[i].min() >= among[between[i].argmin()].min() for i in range(300)])
    assert metric.compare(fresh, known) == pytest.approx(expected)
    assert 0.2 < expected < 0.6
