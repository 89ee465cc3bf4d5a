"""The classes that a network gets in measurements are those that it gets in sampling; compared with exact fields."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from harness.ablation.design.study import load_scale
from harness.components.backbones.base import Backbone, Network
from harness.core.config import override
from harness.core.rng import Streams, stream
from harness.data.base import load
from harness.evaluation.flow_metrics import straightness
from harness.flow.objective import Objective
from harness.flow.sampling import Trained
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.sample import paths, samples
from harness.runs.train import ensure
from harness.training.batches import of_every_class
from harness.training.diagnostics import spread
from harness.training.distributed import ALONE
from harness.training.trainer import HELD_OUT, Callbacks, Training

SPREADS = {"eight_gaussians": 0.1, "gaussian_mixture": 0.3}
"""Standard deviations of round Gaussians, each a class."""


def configured(dataset: str, dropout: float | None, **more: Any) -> RunConfig:
    changes = {
        "dataset": dataset,
        "objective.label_dropout": dropout,
        "train.device": "cpu",
        "train.batch_size": HELD_OUT,
    }
    return override(load_scale("points"), {**changes, "evaluate.batch_size": 500, **more})


class ExactField(nn.Module):
    """E[x1 - x0 | x_t, class] of a mixture of round Gaussians on the straight path; far off without a class."""

    def __init__(self, config: RunConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        data = load(config.dataset)
        assert data.classes is not None
        assert isinstance(data.train, Tensor)
        self.means = torch.stack([data.train[data.classes == k].mean(0) for k in range(data.num_classes)])
        self.variance = SPREADS[config.dataset.name] ** 2

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None
        t = t[:, None]
        mean = self.means[y]
        slope = (t - (1 - t) * self.variance) / ((1 - t) ** 2 * self.variance + t**2)
        return slope * (x - (1 - t) * mean) - mean + torch.where(y < 0, 100.0, 0.0)[:, None] + self.weight


def held_out_losses(config: RunConfig, folder: Path, seeds: int) -> list[float]:
    """Return the held-out losses of the exact field, by seed."""
    callbacks = Callbacks(lambda line: None, lambda *_: {}, lambda text: None, lambda: False)
    training = Training(
        config.train, 0, ExactField(config), Objective(config, {}), load(config.dataset), folder, callbacks, ALONE
    )
    losses = []
    for training.seed in range(seeds):
        losses.append(training.held_out_loss())
    return losses


def test_the_held_out_loss_of_the_exact_field_of_each_class_is_its_closed_form(tmp_path: Path) -> None:
    """Var[x1 - x0 | x_t, class] = s^2 / ((1 - t)^2 s^2 + t^2) in each coordinate, whose mean over t is s pi / 2.

    The share of classes that training hides does not change it.
    """
    for dataset, std in SPREADS.items():
        expected = quad(lambda t, s=std: s**2 / ((1 - t) ** 2 * s**2 + t**2), 0, 1)[0]
        assert expected == pytest.approx(std * math.pi / 2)
        losses = held_out_losses(configured(dataset, 0.0), tmp_path, 30)
        assert np.mean(losses) == pytest.approx(expected, rel=0.05), dataset
        for dropout in (0.1, 0.6):
            assert held_out_losses(configured(dataset, dropout), tmp_path, 3) == losses[:3], dataset


def test_paths_of_the_exact_field_of_each_class_are_as_straight_as_their_integral() -> None:
    """x_t = (1 - t) m + r(t) x1 with r^2 = (1 - t)^2 s^2 + t^2, for classes as frequent as in the data."""
    for (dataset, s), dropout in zip(SPREADS.items(), (0.0, 0.2), strict=True):
        config = configured(dataset, dropout)
        data = load(config.dataset)
        network = ExactField(config)
        assert data.classes is not None
        path = paths(Run.of(config), Trained(network, config, {}), 1000, 500)
        drawn = torch.randint(len(data.classes), (500,), generator=stream(0, "paths", "classes", 0))
        mean = network.means[data.classes[drawn]].double()
        x1 = torch.randn(500, 2, generator=stream(0, "paths", 0)).double()
        assert (path[-1] - (mean + s * x1)).abs().max() < 0.05, dataset
        slope = quad(lambda t, s=s: ((t - (1 - t) * s**2) / math.hypot((1 - t) * s, t) - (1 - s)) ** 2, 0, 1)[0]
        expected = slope * x1.square().sum(1).mean() / (mean - (1 - s) * x1).square().sum(1).mean()
        assert straightness(path)["straightness"] == pytest.approx(expected.item(), rel=0.05), dataset
        assert spread(path[-1], data.encode(data.train[torch.arange(len(data.train))])) == pytest.approx(1, abs=0.05), (
            dataset
        )


@dataclass(frozen=True, kw_only=True)
class Strict(Backbone):
    """A linear network that fails without classes, or with a hidden class in evaluation mode."""

    name = "strict"

    hidden_in_training: bool = False

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        return StrictModule(data_shape[0], num_classes, self.hidden_in_training)


class StrictModule(Network):
    """The network of `Strict`."""

    def __init__(self, features: int, num_classes: int, hidden_in_training: bool):
        super().__init__()
        self.hidden_in_training = hidden_in_training
        self.linear = nn.Linear(features + 1, features)
        self.classes = nn.Embedding(num_classes + 1, features)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None
        assert (y >= 0).all() or (self.training and self.hidden_in_training)
        return self.linear(torch.cat([x, t[:, None]], 1)) + self.classes(y + 1)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_no_part_of_a_run_asks_for_a_class_that_sampling_never_asks_for(dropout: float) -> None:
    """Count of operations, steps, looks, pictures, a tuner's look, every metric of the flow, and the pairs of a round
    of reflow.
    """
    changes = {
        "train.steps": 4, "train.sample_every": 2, "train.batch_size": 16, "evaluate.nfe": [2],
        "evaluate.num_samples": 20,
        "dataset.number": 200, "reflow.number": 20, "reflow.nfe": 2, "reflow.solver": "euler", "reflow.rounds": 1,
        "evaluate.num_reference": None,
        "evaluate.metrics": [{"name": name, "samples": 20} for name in ("straightness", "curvature", "transport_cost")],
    }  # fmt: skip
    config = dataclasses.replace(
        configured("eight_gaussians", dropout), backbone=Strict(hidden_in_training=dropout > 0)
    )
    student = override(config, changes)
    looks = list[int]()

    def look(trained: Trained, step: int) -> None:
        looks.append(len([*samples(Run.of(student), trained, 2, 20)]))

    said = list[str]()
    ensure(student, said.append, lambda: False, look)
    field = override(student, {"reflow.rounds": 0, "evaluate.metrics": [{"name": "field_error", "samples": 20}]})
    run = ensure(field, said.append, lambda: False)
    assert looks == [1, 1]
    (evaluation,) = (json.loads(path.read_text()) for path in (run.folder / "evaluations").glob("*.json"))
    assert math.isfinite(evaluation["values"]["field_error"]["1"])


def test_rows_are_of_every_class_as_often_as_it_comes() -> None:
    """For sorted, alternating or shuffled classes of random sizes."""
    for seed in range(30):
        random = torch.Generator().manual_seed(seed)
        kinds = int(torch.randint(1, 12, (), generator=random))
        sizes = torch.randint(1, 200, (kinds,), generator=random)
        classes = torch.arange(kinds).repeat_interleave(sizes)
        total = len(classes)
        for order in (
            torch.arange(total),
            torch.arange(total).view(-1).flip(0),
            torch.randperm(total, generator=random),
        ):
            for number in {min(kinds, total), min(128, total), total}:
                rows = of_every_class(classes[order], number)
                assert len(rows.unique()) == number
                found = torch.bincount(classes[order][rows], minlength=kinds)
                where = (seed, number, sizes.tolist(), found.tolist())
                if number >= kinds:
                    assert (found >= 1).all(), where
                assert (found <= number * sizes / total + 1).all(), where
                assert (found >= (number - kinds) * sizes / total).all(), where


def test_the_held_out_samples_looked_at_are_of_every_class(tmp_path: Path) -> None:
    """Ten alternating classes, of which equally spaced rows would hit only one."""
    config = configured("eight_gaussians", 0.1)
    data = load(config.dataset)
    seen = list[Tensor]()
    classes = torch.arange(10).repeat(20)
    held_out_classes = torch.arange(5120) % 10
    held_out_classes = held_out_classes[: 511 * 10 + 1]
    held = torch.randn(len(held_out_classes), 2)
    in_turn = dataclasses.replace(
        data, train=torch.randn(200, 2), classes=classes, held_out=held, held_out_classes=held_out_classes
    )

    class Recorded(Objective):
        def task(
            self,
            x0: Tensor,
            streams: Streams,
            y: Tensor | None = None,
            t: Tensor | None = None,
            **how: Any,
        ) -> Any:
            assert y is not None
            seen.append(y)
            return super().task(x0, streams, y, t, **how)

    callbacks = Callbacks(lambda line: None, lambda *_: {}, lambda text: None, lambda: False)
    for dropout in (None, 0.1):
        chosen = configured("eight_gaussians", dropout)
        torch.manual_seed(0)
        network = chosen.backbone.build((2,), 0 if dropout is None else 10)
        Training(chosen.train, 0, network, Recorded(chosen, {}), in_turn, tmp_path, callbacks, ALONE).held_out_loss()
        counts = torch.bincount(seen[-1])
        assert counts.sum() == HELD_OUT
        assert counts.min() >= 51
        assert counts.max() <= 52
