"""Networks of diffusers: what the library's own class computes, what follows from the data, what is refused."""

from __future__ import annotations

import sys
from typing import Any

import diffusers
import pytest
import torch
from test_backbones import TINY_DIT, TINY_UNET, batch, built, hub

from harness.core.config import flatten, override, to_dict
from harness.core.config import parse_assignments as assigned
from harness.core.errors import ConfigError
from harness.core.registry import build
from harness.data.images import Digits
from harness.runs.config import RunConfig
from harness.runs.identity import training_digest


@pytest.mark.parametrize(
    ("config", "shape", "none"),
    [(hub("UNet2DModel", TINY_UNET), (3, 8, 4), 3), (hub("DiTTransformer2DModel", TINY_DIT), (3, 8, 8), 3)],
    ids=["unet", "dit"],
)
def test_it_computes_what_the_librarys_class_does(config: Any, shape: tuple[int, ...], none: int) -> None:
    """At 1000 t; the last row of the classes is none. In training DiT drops no class of its own."""
    network = built(config, shape, 3)
    theirs = getattr(diffusers, config.model)(**network.model.config)
    theirs.load_state_dict(network.model.state_dict())
    x, t = batch(*shape)
    told = theirs.eval()(x, 1000 * t, torch.tensor([0, none, 2])).sample
    for mode in (True, False):
        close = {"rtol": 1e-5, "atol": 1e-5} if mode else {"rtol": 0, "atol": 0}  # training may take another kernel
        torch.testing.assert_close(network.train(mode)(x, t, torch.tensor([0, -1, 2])), told, **close)
        torch.testing.assert_close(network(x, t), theirs(x, 1000 * t, torch.full((3,), none)).sample, **close)


@pytest.mark.parametrize(
    ("model", "arguments", "shape", "message"),
    [
        (
            "UNet2DModel",
            {"block_channels": [8]},
            (1, 8, 8),
            r"^config\.block_channels: UNet2DModel has no such argument",
        ),
        (
            "UNet2DModel",
            {"out_channels": 2},
            (1, 8, 8),
            r"^config\.out_channels: 2 is not 1, as the data .*Leave it out",
        ),
        ("UNet2DModel", {"sample_size": 9}, (1, 8, 4), r"^config\.sample_size: 9 is not \[8, 4\]"),
        ("UNet2DModel", {"num_class_embeds": 2}, (1, 8, 8), r"^config\.num_class_embeds: 2 is not 3"),
        (
            "UNet2DModel",
            {"time_embedding_type": "fourier"},
            (1, 8, 8),
            r"^config\.time_embedding_type: 'fourier' is not",
        ),
        (
            "UNet2DModel",
            {"norm_num_groups": 5},
            (1, 8, 8),
            r"^config: UNet2DModel fails on samples \[1, 8, 8\]: ValueError",
        ),
        ("UNet2DModel", {}, (1, 7, 8), r"^config: UNet2DModel fails on samples \[1, 7, 8\]"),
        ("UNet2DModel", {}, (16,), r"^diffusers takes images \[C, H, W\], not \[16\]"),
        ("DiTTransformer2DModel", {}, (1, 9, 9), r"^config: .* returns \[1, 8, 8\] for samples \[1, 9, 9\]"),
        ("DiTTransformer2DModel", {}, (1, 8, 4), r"^model: DiTTransformer2DModel takes square images, not 8x4"),
    ],
)
def test_arguments_that_do_not_fit_are_told(
    model: str, arguments: dict[str, Any], shape: tuple[int, ...], message: str
) -> None:
    small = TINY_UNET if model == "UNet2DModel" else TINY_DIT
    with pytest.raises(ConfigError, match=message):
        hub(model, small | arguments).build(shape, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[1", r"'\[1' cannot be read \(it is not valid JSON.*Write it as JSON"),
        ([1], r"expected a mapping of arguments, got \[1\]"),
        ({"dropout": float("nan")}, ".* cannot be read .*not JSON compliant"),
        ({"dropout": set()}, ".* cannot be read .*not JSON serializable"),
    ],
    ids=str,
)
def test_what_is_no_mapping_of_arguments_is_told(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^backbone\.config: {message}"):
        build("backbone", {"name": "diffusers", "config": given})


def test_a_lacking_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        ConfigError, match=r"^the package diffusers cannot be imported .*: pip install 'flow-ablation\[hub\]'$"
    ):
        hub("UNet2DModel", TINY_UNET | {"dropout": 0.25}).build((1, 8, 8))


def test_arguments_are_typed_as_one_field_or_with_the_component() -> None:
    """All the same to the run's name, whatever the order and the spaces; other arguments are another run."""
    base = RunConfig(dataset=Digits())
    ways = (
        ["backbone=diffusers", 'backbone.config={"layers_per_block": 1, "block_out_channels": [32, 64]}'],
        ['backbone={"name": "diffusers", "config": {"block_out_channels": [32, 64], "layers_per_block": 1}}'],
        ['backbone={"name": "diffusers", "config": "{\\"block_out_channels\\":[32,64],\\"layers_per_block\\":1}"}'],
    )
    first, *others = (override(base, assigned(way)) for way in ways)
    assert others == [first, first]
    assert flatten(first)["backbone.config"] == '{"block_out_channels": [32, 64], "layers_per_block": 1}'
    assert RunConfig.parse(to_dict(first)) == first
    other = override(first, assigned(['backbone.config={"layers_per_block": 2}']))
    assert training_digest(other) != training_digest(first)
