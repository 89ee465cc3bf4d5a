"""The scales of studies/scales.py: each takes a training step, and those of papers have their papers' networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.ablation.design.study import load_scale, load_scales
from harness.components.backbones.base import Network
from harness.core.config import override
from harness.core.rng import Streams
from harness.flow.objective import Objective

SHAPES = {
    "digits": (1, 8, 8),
    "fashion_mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "latents": (4, 32, 32),
    "eight_gaussians": (2,),
    "cells": (100,),
    "us_macro": (20, 5),
}
CLASSES = 10
LARGE = ("cifar10_edm", "cifar10_lipman", "imagenet_latents")
"""Scales whose networks are only built and called without values: they would take gigabytes."""
PARAMETERS = {
    "cifar10": 35_746_307,  # Tong et al. 2024: 35.7M
    "cifar10_edm": 55_732_739,  # Karras et al. 2022: 55.7M
    "cifar10_liu": 61_804_419,  # Liu et al. 2023, with the network of Song et al. 2021: 61.8M
    "cifar10_lipman": 171_268_099,  # not stated by Lipman et al. 2023
}


def network(name: str) -> Network:
    config = load_scale(name)
    return config.backbone.build(SHAPES[config.dataset.name], CLASSES if config.conditional else 0)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_networks_of_papers_have_their_numbers_of_parameters(name: str) -> None:
    with torch.device("meta"):
        assert sum(weights.numel() for weights in network(name).parameters()) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in load_scales() if name not in LARGE])
def test_every_scale_takes_a_step(name: str) -> None:
    config = load_scale(name)
    if config.noise.name == "population":  # another data set, which only a download brings
        config = override(config, {"noise": "gaussian"})
    x0 = torch.randn(2, *SHAPES[config.dataset.name], generator=torch.Generator().manual_seed(0))
    objective = Objective(config.learned(), config.noise.fit(x0))
    made = network(name)
    before = [weights.detach().clone() for weights in made.parameters()]
    optimizer = config.train.optimizer.build(made.parameters())
    loss = objective.measure(made, objective.task(x0, Streams(0, 0), torch.tensor([0, 1]))).loss
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert any(not torch.equal(new, old) for new, old in zip(made.parameters(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_largest_networks_fit_their_data(name: str) -> None:
    """Forward and backward at batch 2 without values."""
    config = load_scale(name)
    shape: Any = SHAPES[config.dataset.name]
    with torch.device("meta"):
        made = network(name)
        told = (torch.zeros(2, dtype=torch.long),) if config.conditional else ()
        output = made(torch.zeros(2, *shape), torch.zeros(2), *told)
        assert output.shape == (2, *shape)
        output.sum().backward()
        assert all(weights.grad is not None for weights in made.parameters())
