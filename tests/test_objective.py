"""The loss: the right formula, the same draws in every arm, and no field without effect."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.components.interpolants import Linear
from harness.components.time_samplers import Power
from harness.components.weightings import NoiseEnd
from harness.objective import Objective, ObjectiveConfig
from harness.registry import build, names
from harness.rng import stream

DEFAULTS = {"interpolant": "linear", "weighting": "uniform", "time_sampler": "uniform", "noise": "gaussian"}
FIELDS = [(family, name, field.name) for family in DEFAULTS for name in names(family) for field in dataclasses.fields(build(family, name))]


class Network(nn.Module):
    """a x + b t, and what it was given last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-0.25))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.given = x.detach(), t.detach()
        return self.a * x + self.b * t.view(-1, 1, 1, 1)


def data(n: int) -> Tensor:
    return 2 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0)) - 1


def objective(normalise_weight: bool = True, **components: Any) -> Objective:
    parts = {family: build(family, components.get(family, name)) for family, name in DEFAULTS.items()}
    return Objective(ObjectiveConfig(normalise_weight=normalise_weight), **parts, noise_state=parts["noise"].fit(data(512)))


def loss(made: Objective, n: int = 512, seed: int = 1, step: int = 2) -> float:
    return made(Network(), data(n), seed, step).item()


def gradient(made: Objective, n: int = 512) -> Tensor:
    network = Network()
    made(network, data(n), 1, 2).backward()
    return torch.stack([network.a.grad, network.b.grad])  # type: ignore[list-item]


@pytest.mark.parametrize("normalise_weight", [False, True])
def test_the_loss_is_the_formula(normalise_weight: bool) -> None:
    """E t^2 |v - u|^2 of three samples on the straight path, written out; the mean of t^2 is 1/3."""
    made = objective(normalise_weight, weighting={"name": "noise_end", "power": 2})
    x0, x1, t = data(3), torch.randn(3, 1, 2, 2, generator=stream(1, "noise", 2)), torch.rand(3, generator=stream(1, "time", 2))
    total = 0.0
    for i in range(3):
        xt = (1 - t[i]) * x0[i] + t[i] * x1[i]
        total += float(t[i] ** 2 * (0.5 * xt - 0.25 * t[i] - (x1[i] - x0[i])).square().mean()) / 3
    assert loss(made, n=3) == pytest.approx(total * (3 if normalise_weight else 1), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in names("weighting") if name != "uniform"])
@pytest.mark.parametrize("n", [1, 64])
def test_a_weighting_changes_the_gradient(name: str, n: int) -> None:
    """At batch size 1 too, where a weight over its batch's mean would always be 1."""
    assert not torch.allclose(gradient(objective(weighting=name), n), gradient(objective(), n), rtol=1e-2)


@pytest.mark.parametrize("name", names("weighting"))
@pytest.mark.parametrize("time_sampler", ["uniform", "power"])
def test_normalising_divides_by_the_mean_under_the_time_density(name: str, time_sampler: str) -> None:
    normalised, plain = (objective(choice, weighting=name, time_sampler=time_sampler) for choice in (True, False))
    mean = build("weighting", name).mean(build("time_sampler", time_sampler), Linear())
    assert loss(normalised) * mean == pytest.approx(loss(plain), rel=1e-5)


def test_a_normalised_weight_equals_the_density_of_its_shape() -> None:
    """t^2 with uniform times and weight 1 with p(t) = 3 t^2 have the same expected gradient; x0 fixed and x1 = 0, so t alone varies."""
    gradients = []
    for weighting, times in ((NoiseEnd(power=2), {"name": "uniform", "stratify": True}), ("uniform", Power(p=1 / 3, stratify=True))):
        made = objective(weighting=weighting, time_sampler=times, noise="matched")
        made.noise_state = {"std": torch.tensor(0.0)}
        network = Network()
        made(network, data(1).expand(8192, 1, 2, 2), 1, 2).backward()
        gradients.append(torch.stack([network.a.grad, network.b.grad]))  # type: ignore[list-item]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_arms_share_their_draws() -> None:
    """The same seed and step give the same x_t and t whatever the weighting; another seed or step does not."""

    def given(seed: int, step: int, weighting: str) -> tuple[Tensor, Tensor]:
        network = Network()
        objective(weighting=weighting)(network, data(8), seed, step)
        return network.given

    first = given(1, 2, "uniform")
    for name in names("weighting"):
        assert all(map(torch.equal, first, given(1, 2, name)))
    for seed, step in ((2, 2), (1, 3), (2, 1)):
        assert not any(map(torch.equal, first, given(seed, step, "uniform")))


@pytest.mark.parametrize(("family", "name", "field"), FIELDS)
def test_no_field_is_dead(family: str, name: str, field: str) -> None:
    """Every field of every component, when perturbed, changes the loss of a fixed network."""
    component = build(family, name)
    value = getattr(component, field)
    perturbed = dataclasses.replace(component, **{field: not value if isinstance(value, bool) else value * 0.98})
    assert loss(objective(**{family: perturbed})) != loss(objective(**{family: component}))
