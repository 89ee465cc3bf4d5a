"""Networks: shapes, start, gradients, and no field without effect."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.components.backbones.base import Backbone
from harness.components.backbones.unet import UNet
from harness.errors import ConfigError
from harness.registry import build, names

SMALL = UNet(channels=8, multipliers=(1, 2), blocks=1, groups=4)
CHANGES: dict[str, Any] = {
    "channels": 12,
    "multipliers": (2, 1),
    "blocks": 2,
    "groups": 2,
    "dropout": 0.5,
    "time_scale": 500.0,
}

SHAPES = {"unet": [(1, 8, 8), (3, 16, 12)], "mlp": [(2,), (9,)]}
"""Of data that each network takes."""


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, *shape, generator=generator), torch.rand(3, generator=generator)


def built(config: UNet, data_channels: int = 1) -> nn.Module:
    """The same start for the same configuration, with an output layer that is not zero."""
    torch.manual_seed(0)
    network: Any = config.build((data_channels, 8, 8))
    nn.init.normal_(network.head[-1].weight)
    return network


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in names("backbone") for shape in SHAPES[name]])
def test_a_network_keeps_the_shape_and_starts_at_zero(name: str, shape: tuple[int, ...]) -> None:
    backbone: Backbone = build("backbone", name)
    x, t = batch(*shape)
    assert torch.equal(backbone.build(shape)(x, t), torch.zeros_like(x))


@pytest.mark.parametrize(
    "config", [SMALL, UNet(channels=8, multipliers=(1, 3, 2), blocks=2, groups=4), UNet(channels=10, groups=5)], ids=str
)
def test_every_parameter_gets_a_finite_gradient(config: UNet) -> None:
    """Nearly every entry of it is used, too; two channels or more a group, since a bias before a group of one has no effect."""
    network = built(config)
    network(*batch(1, 8, 8)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.ne(0).float().mean() > 0.9, name


def test_the_output_depends_on_time_and_on_each_sample_alone() -> None:
    network = built(SMALL).eval()
    x, t = batch(1, 8, 8)
    whole = network(x, t)
    torch.testing.assert_close(network(x[1:2], t[1:2]), whole[1:2])
    assert not torch.allclose(network(x, t.flip(0)), whole, atol=1e-4)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(UNet)])
def test_no_field_is_dead(field: str) -> None:
    outcomes = []
    for config in (SMALL, dataclasses.replace(SMALL, **{field: CHANGES[field]})):
        network = built(config).train()
        torch.manual_seed(1)
        outcomes.append(([p.shape for p in network.parameters()], network(*batch(1, 8, 8))))
    (shapes, output), (changed_shapes, changed_output) = outcomes
    assert shapes != changed_shapes or not torch.allclose(output, changed_output, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"multipliers": (1, 2, 2, 2)}, (1, 28, 28), "multipliers: 4 levels do not halve 28x28 evenly. Use fewer."),
        ({"multipliers": (1, 2)}, (1, 8, 7), "multipliers: 2 levels do not halve 8x7 evenly. Use fewer."),
        ({"multipliers": ()}, (1, 8, 8), "multipliers: there is no level. Give at least one, like [1, 2]."),
        ({"channels": 12}, (1, 8, 8), "groups: 8 does not divide every width. Choose a divisor of 12."),
        ({}, (10,), "unet takes images [C, H, W], not [10]. Choose another backbone."),
    ],
)
def test_what_does_not_fit_is_told(fields: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        UNet(**fields).build(shape)
    assert str(caught.value) == message
