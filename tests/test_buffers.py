"""Buffers that a plugin's network changes during training: measurements, checkpoints and interruptions do not affect
them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from harness.ablation.design.study import load_scale
from harness.components.backbones.base import Backbone, Network
from harness.core.checkpoint import read_checkpoint
from harness.core.config import override
from harness.core.errors import Diverged, Stopped
from harness.data.base import load
from harness.flow.objective import Objective
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.train import train
from harness.training.buffers import buffers_apart
from harness.training.config import TrainConfig
from harness.training.ema import Averages
from harness.training.hardware import recomputing, training_flops
from harness.training.trainer import Callbacks, fit


@dataclass(frozen=True, kw_only=True)
class Normed(Backbone):
    """Blocks with batch norm and dropout, after an input centred by a mean that every step replaces."""

    name = "normed"

    momentum: float = 0.1

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        return NormedModule(data_shape[0], num_classes, self.momentum)


class NormedModule(Network):
    """The network of `Normed` for vectors [D]."""

    centre: Tensor

    def __init__(self, features: int, num_classes: int, momentum: float):
        super().__init__()
        self.stem = nn.Linear(features + 1, 16)
        self.head = nn.Linear(16, features)
        self.classes = nn.Embedding(num_classes + 1, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16, momentum=momentum), nn.Dropout(0.2), nn.SiLU())
            for _ in range(2)
        )
        self.register_buffer("centre", torch.zeros(features))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if self.training:
            self.centre = self.centre + 0.1 * (x.detach().mean(0) - self.centre)
        told = torch.zeros_like(t, dtype=torch.long) if y is None else y + 1
        h = self.stem(torch.cat([x - self.centre, t[:, None]], 1)) + self.classes(told)
        for block in self.blocks:
            h = h + block(h)
        return self.head(h)


@pytest.fixture
def points() -> RunConfig:
    """Twelve steps of `Normed` on eight Gaussians."""
    changes: dict[str, Any] = {
        "dataset.number": 500, "train.steps": 12, "train.batch_size": 32, "train.warmup_steps": 2,
        "train.device": "cpu",
        "train.log_every": 3, "train.checkpoint_every": 4, "train.sample_every": 12, "evaluate.nfe": [2],
        "evaluate.num_samples": 32,
        "evaluate.batch_size": 32,
    }  # fmt: skip
    return dataclasses.replace(override(load_scale("points"), changes), backbone=Normed())


def trained(
    config: RunConfig, folder: Path, stop_after: int | None = None, bad: range = range(0), initial: int = 0
) -> dict[str, Tensor]:
    """Return the final state of a training or its continuation: the weights and buffers of both networks.

    `bad`: calls of the network in training that return NaN.
    """
    data = load(config.dataset)
    calls = itertools.count()
    forwards = itertools.count()
    torch.manual_seed(initial)
    network = config.build(data)
    network.register_forward_hook(
        lambda module, given, output: output * (math.nan if module.training and next(forwards) in bad else 1.0)
    )
    callbacks = Callbacks(lambda line: None, lambda *_: {}, lambda text: None, lambda: next(calls) == stop_after)
    averages = fit(config.train, config.seed, network, Objective(config, {}), data, folder, callbacks)
    return {f"ema.{k}": v for k, v in averages.network.state_dict().items()} | network.state_dict()


def differing(some: dict[str, Tensor], others: dict[str, Tensor]) -> list[str]:
    assert some.keys() == others.keys()
    return [name for name, value in some.items() if not torch.equal(value, others[name])]


RUN_ONLY: dict[str, tuple[Any, ...]] = {
    "log_every": (1, 2, 5, 100),
    "sample_every": (1, 2, 3, 5, 100),
    "checkpoint_every": (1, 5, 100),
    "keep_checkpoints": (1, 2, 9),
    "recompute": (False, True),
    "graph": ("auto", "off", "on"),
}


def test_the_result_does_not_depend_on_how_the_run_is_carried_out(points: RunConfig, tmp_path: Path) -> None:
    """Weights, averages and buffers agree to the last bit, for random settings and for each setting alone."""
    run_only = {f.name for f in dataclasses.fields(TrainConfig) if f.metadata.get("run_only")}
    assert run_only == RUN_ONLY.keys() | {"device"}, "a setting that does not name a run is held to it"
    expected = trained(points, tmp_path / "base")
    draw = random.Random(0)
    assert expected["blocks.0.1.num_batches_tracked"] == 12
    alone = [{name: values[-1]} for name, values in RUN_ONLY.items()] + [{"sample_every": 1}, {"sample_every": 3}]
    together = [{name: draw.choice(values) for name, values in RUN_ONLY.items()} for _ in range(4)]
    for number, settings in enumerate(alone + together):
        config = override(points, {f"train.{name}": value for name, value in settings.items()})
        assert differing(trained(config, tmp_path / str(number)), expected) == [], settings


def test_looks_of_a_whole_run_leave_its_buffers_alone(points: RunConfig) -> None:
    """This covers pictures, paths and the count of operations, with and without classes."""
    for dropout in (None, 0.3):
        ends = []
        for i, every in enumerate((1, 100)):
            config = override(
                points, {"train.sample_every": every, "train.steps": 3, "objective.label_dropout": dropout}
            )
            run = Run.of(config)
            train(run, lambda text: None, lambda: False)
            ends.append(read_checkpoint(run.folder / "checkpoints", "cpu")[1])
            run.folder.rename(run.folder.with_name(f"{run.name}-{i}"))  # the other run has the same name
        assert differing(*ends) == [], dropout


def test_a_run_stopped_anywhere_ends_with_the_buffers_of_an_unbroken_one(points: RunConfig, tmp_path: Path) -> None:
    expected = trained(points, tmp_path / "whole")
    for seed in range(3):
        stops = [0, *sorted(random.Random(seed).sample(range(1, 12), 3))]
        for number, (start, end) in enumerate(itertools.pairwise(stops)):
            with pytest.raises(Stopped, match=f"step {end}$"):
                trained(points, tmp_path / str(seed), end - start, initial=number)
        assert differing(trained(points, tmp_path / str(seed), initial=99), expected) == [], stops
    whole, broken = (read_checkpoint(tmp_path / name, "cpu")[1] for name in ("whole", "0"))
    assert differing(broken, whole) == []
    assert {"network/blocks.1.1.running_var", "network/blocks.1.1.num_batches_tracked", "network/centre"} < whole.keys()


def test_a_step_that_is_not_taken_leaves_nothing_in_the_buffers(points: RunConfig, tmp_path: Path) -> None:
    """The run stops after a bad step, before the check sees it: the checkpoint has the buffers of the good steps."""
    config = override(points, {"train.log_every": 100, "train.checkpoint_every": 100})
    for name, bad in (("good", range(0)), ("bad", range(5, 7))):
        with pytest.raises(Stopped):
            trained(config, tmp_path / name, 5 if name == "good" else 7, bad)
    good, bad_one = (read_checkpoint(tmp_path / name, "cpu")[1] for name in ("good", "bad"))
    buffers = {name for name in good if name.startswith("network/")}
    assert differing({name: bad_one[name] for name in buffers}, {name: good[name] for name in buffers}) == []
    with pytest.raises(Diverged):
        trained(config, tmp_path / "bad")


def test_averages_have_the_buffers_of_the_last_step_as_torch_keeps_them() -> None:
    """AveragedModel with the same weights copies them too, whole numbers included."""
    torch.manual_seed(0)
    network = NormedModule(2, 0, 0.3)
    averages = Averages(network, [0.9])
    reference = AveragedModel(network)
    for n in range(1, 6):
        network(torch.randn(8, 2) + n, torch.rand(8))
        averages.update(n)
        reference.update_parameters(network)
        found = dict(averages.network.named_buffers())
        assert found.keys() == dict(reference.module.named_buffers()).keys()
        for name, value in reference.module.named_buffers():
            assert torch.equal(found[name], value), (n, name)


def test_changes_of_buffers_within_the_block_are_undone() -> None:
    """Changed in place, replaced, or shared by two modules; also if an error ends the block."""
    network = NormedModule(2, 0, 0.3)
    network.blocks[1][1].running_mean = network.blocks[0][1].running_mean  # type: ignore[index]
    before = {name: (value, value.clone()) for name, value in network.named_buffers(remove_duplicate=False)}
    with suppress(ZeroDivisionError), buffers_apart(network):
        network(torch.randn(8, 2), torch.rand(8))
        assert network.blocks[1][1].running_mean is network.blocks[0][1].running_mean  # type: ignore[index]
        moved = network.blocks[0][1].running_mean  # type: ignore[index]
        assert not torch.equal(moved, before["blocks.0.1.running_mean"][1])
        _ = 1 / 0
    for name, value in network.named_buffers(remove_duplicate=False):
        assert value is before[name][0], name
        assert torch.equal(value, before[name][1]), name


def test_counting_operations_changes_no_buffer() -> None:
    network = NormedModule(2, 3, 0.3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for conditional in (False, True):
        assert training_flops(network, (2,), "cpu", conditional) > 0
        assert differing(network.state_dict(), before) == []


def test_blocks_computed_twice_count_a_batch_once() -> None:
    network = recomputing(NormedModule(2, 0, 0.3))
    for number in (1, 2):
        network(torch.randn(8, 2), torch.rand(8)).square().mean().backward()
        assert network.state_dict()["blocks.0.1.num_batches_tracked"] == number


@pytest.mark.slow
def test_blocks_that_are_compiled_and_computed_twice_count_a_batch_once() -> None:
    network = recomputing(NormedModule(2, 0, 0.3))
    fast = torch.compile(network, backend="aot_eager")
    fast(torch.randn(8, 2), torch.rand(8)).square().mean().backward()
    assert network.state_dict()["blocks.0.1.num_batches_tracked"] == 1
