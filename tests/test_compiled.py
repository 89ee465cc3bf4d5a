"""What is compiled: one graph without breaks for every component, no recompilation, and the numbers of a plain step.

torch's compiler traces here, and the traced operations run as they are; tests/test_gpu.py generates code.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_captured import session
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from harness.ablation.design.study import load_scale
from harness.core.config import ConfigError, override
from harness.core.registry import names
from harness.core.rng import Streams
from harness.data.base import load
from harness.flow.objective import Objective
from harness.runs.config import RunConfig
from harness.training.rounded import Rounded
from harness.training.stepper import Stepper

FAMILIES = ("interpolant", "prediction", "weighting", "loss", "time_sampler", "noise")
COMPONENTS = [(family, name) for family in FAMILIES for name in names(family) if name not in ("scaled", "population")]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Start without compiled code, and leave none."""
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


class Network(nn.Module):
    """A small network with a class."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.layer(torch.cat([x, t[:, None]], 1))
        return out


@pytest.mark.parametrize(("family", "name"), COMPONENTS)
def test_tasks_and_losses_are_one_graph_each(family: str, name: str) -> None:
    try:
        config = override(load_scale("points"), {family: name})
    except ConfigError:  # some are defined with some others only
        config = override(load_scale("points"), {"interpolant": "vp", family: name})
    data = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    objective = Objective(config, config.noise.fit(data))
    network = Network()
    aim = torch.compile(objective.aim, backend="eager", dynamic=False, fullgraph=True)
    measure = torch.compile(objective.measure, backend="eager", dynamic=False, fullgraph=True)
    for step in range(3):
        expected = objective.task(data, Streams(0, step))
        task = objective.task(data, Streams(0, step), aim=aim)
        for found, wanted in zip(task[:3], expected[:3], strict=True):
            assert wanted is not None
            assert found is not None
            assert torch.equal(found, wanted)
        assert torch.equal(measure(network, task).loss, objective.measure(network, expected).loss)
    assert counters["stats"]["unique_graphs"] == 2


def test_a_compiled_training_is_the_plain_one_and_compiles_each_shape_once(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(tiny, {"train.steps": 12, "train.log_every": 4, "objective.label_dropout": 0.3})
    expected, lines = session(config, tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    found, same = session(override(config, {"train.compile": "default"}), tmp_path / "compiled")
    assert same == lines
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert counters["stats"]["unique_graphs"] == 3, "tasks, the loss with the network, the averaged network"
    assert not counters["graph_break"]


MOST = {"fp32": 371, "bf16": 412}
"""Operations of a step of `tiny`."""


class Calls(TorchDispatchMode):
    """Counts the operations that torch dispatches; a GPU launches a kernel for most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.number = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def calls_of_a_step(config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the operations of the last step of a training, without its reports."""
    found = Counter[str]()
    take = Stepper.take

    def counted(self: Stepper, step: int, given: Any) -> Any:
        with Calls() as calls:
            taken = take(self, step, given)
        found.clear()
        found.update(calls.number)
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", counted)
        session(config, folder)
    return found


def test_a_step_launches_no_more_than_this(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 adds two calls that round and move all weights, and casts of activations alone."""
    plain = calls_of_a_step(tiny, tmp_path / "plain", monkeypatch)
    half = override(tiny, {"train.precision": "bf16"})
    together = calls_of_a_step(half, tmp_path / "together", monkeypatch)
    monkeypatch.setattr(Stepper, "_rounded", lambda self: None)
    apart = calls_of_a_step(half, tmp_path / "apart", monkeypatch)
    weights = len(Rounded(tiny.build(load(tiny.dataset))).weights)
    assert apart["_to_copy"] - together["_to_copy"] == 2 * weights == 72
    assert together["_foreach_copy_"] - apart["_foreach_copy_"] == 2
    assert plain.total() <= MOST["fp32"]
    assert together.total() <= MOST["bf16"]


def test_every_arm_of_a_worker_is_compiled(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler gives a function up after eight compilations; a tenth arm would run as it is written."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    for i in range(10):
        loss = {"name": "pseudo_huber", "c": 0.1 * (1 + i)}
        counters.clear()
        session(override(tiny, {"train.steps": 1, "train.compile": "default", "loss": loss}), tmp_path / str(i))
        assert counters["stats"]["unique_graphs"] == 3
