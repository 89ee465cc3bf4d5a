"""Steps whose tasks a thread draws ahead, and steps on weights rounded together, are the plain steps, bit for bit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_captured import Repeated, repeated, session  # noqa: F401
from torch import Tensor, nn

from harness.components.couplings import ExactOT
from harness.core.config import override
from harness.core.errors import Stopped, UserError
from harness.data.base import load
from harness.flow.objective import Objective
from harness.runs.config import RunConfig
from harness.training.distributed import ALONE
from harness.training.hardware import autocast
from harness.training.rounded import Rounded
from harness.training.stepper import Stepper, in_a_thread
from harness.training.trainer import Callbacks, Training

WAITING: dict[str, dict[str, Any]] = {
    "optimal transport": {"coupling": "exact_ot", "time_sampler": "beta"},
    "draws of the coupling": {"coupling": "sinkhorn"},
    "classes": {"coupling": "class_conditional_ot", "objective.label_dropout": 0.3},
    "micro-batches": {"coupling": "exact_ot", "train.accumulate": 2},
}


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stepper, "ahead", True)


@pytest.mark.parametrize("name", WAITING)
def test_tasks_drawn_ahead_are_those_of_the_steps(
    tiny: RunConfig, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, averages and logged values, of an unbroken training and of one that stopped and went on."""
    config = override(tiny, {"train.steps": 12, "train.log_every": 3, **WAITING[name]})
    expected, lines = session(config, tmp_path / "plain")
    monkeypatch.setattr(Stepper, "ahead", True)
    found, same = session(config, tmp_path / "ahead")
    assert same == lines
    calls = iter(range(100))
    with pytest.raises(Stopped):
        session(config, tmp_path / "broken", lambda: next(calls) == 5)
    resumed, _ = session(config, tmp_path / "broken")
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
        assert torch.equal(resumed[key], value), key


@pytest.mark.usefixtures("ahead")
def test_a_graph_takes_tasks_that_are_drawn_ahead(
    tiny: RunConfig, tmp_path: Path, repeated: Repeated  # noqa: F811
) -> None:  # fmt: skip
    config = override(tiny, {"train.steps": 24, "train.log_every": 4, "coupling": "exact_ot"})
    expected, lines = session(config, tmp_path / "written")
    found, same = session(override(config, {"train.graph": "on"}), tmp_path / "graphed")
    assert repeated.repeats > 10
    assert same == lines
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.usefixtures("ahead")
def test_an_error_of_the_thread_ends_the_training_and_no_thread_is_left(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def pair(self: ExactOT, *given: Any) -> Any:
        if next(calls) == 4:
            raise UserError("coupling: no pairs.")
        return pairs(self, *given)

    pairs = ExactOT.pair
    monkeypatch.setattr(ExactOT, "pair", pair)
    before = threading.active_count()
    with pytest.raises(UserError, match="no pairs"):
        session(override(tiny, {"coupling": "exact_ot"}), tmp_path)
    assert threading.active_count() == before


def test_one_task_is_drawn_ahead_and_no_more() -> None:
    drawn = list[int]()

    def tasks() -> Iterator[Any]:
        for i in range(4):
            drawn.append(i)
            yield i

    given = in_a_thread(tasks())
    for i in (0, 1):
        assert next(given) == i
        deadline = time.monotonic() + 10
        while len(drawn) < i + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert drawn == [*range(i + 2)]
    given.close()
    assert drawn == [0, 1, 2]
    assert list(in_a_thread(tasks())) == [0, 1, 2, 3]


ROUNDED: dict[str, dict[str, Any]] = {
    "convolutions": {},
    "classes and dropout": {"objective.label_dropout": 0.3, "backbone.dropout": 0.3},
    "micro-batches": {"train.accumulate": 2},
    "recomputed": {"train.recompute": True},
    "transformer": {"backbone": {"name": "dit", "width": 32, "depth": 2, "heads": 2, "patch": 2}},
    "ncsnpp": {"backbone": {"name": "ncsnpp", "channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4]}},
}


@pytest.mark.parametrize("name", ROUNDED)
def test_weights_rounded_together_are_those_that_autocast_rounds(
    tiny: RunConfig, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(tiny, {"train.steps": 8, "train.log_every": 2, "train.precision": "bf16", **ROUNDED[name]})
    rounds = list[Rounded]()
    plain = Rounded.round

    def counted(self: Rounded) -> None:
        rounds.append(self)
        plain(self)

    monkeypatch.setattr(Rounded, "round", counted)
    found, lines = session(config, tmp_path / "together")
    assert len(rounds) == 8
    assert torch.bfloat16 in {weight.dtype for weight in rounds[0].network.parameters()}
    monkeypatch.setattr(Stepper, "_rounded", lambda self: None)
    expected, same = session(config, tmp_path / "apart")
    assert len(rounds) == 8
    assert same == lines
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    fp32, _ = session(override(config, {"train.precision": "fp32"}), tmp_path / "fp32")
    assert any(not torch.equal(fp32[key], value) for key, value in expected.items())


class Tied(nn.Module):
    """A network whose layers share a weight, and whose one layer is no plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.scaled = Scaled(3, 3)
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        out: Tensor = self.scaled(self.second(self.first(x)))
        return out


class Scaled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return input @ (2 * self.weight)


def test_weights_that_are_used_otherwise_stay_the_networks_own() -> None:
    torch.manual_seed(0)
    network = Tied()
    rounded = Rounded(network)
    kinds = {name: weight.dtype for name, weight in rounded.network.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == {"first.bias", "second.bias"}
    assert rounded.network.get_parameter("scaled.weight") is network.scaled.weight
    x = torch.randn(5, 3)
    gradients = []
    for each in (network, rounded.network):
        network.zero_grad()
        with autocast({"device": "cpu", "precision": "bf16"}):
            loss = each(x).square().sum()
        loss.backward()
        rounded.move_gradients()
        gradients.append([weight.grad for weight in network.parameters()])
    assert network.count == 2  # one buffer for both
    for expected, found in zip(*gradients, strict=True):
        assert expected is None if found is None else torch.equal(found, expected)
    rounded = Rounded(nn.LayerNorm(3))  # nothing to round
    rounded.round()
    rounded.move_gradients()


class Headed(nn.Module):
    """A network that leaves autocast for its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.body(x)
        with torch.autocast("cpu", enabled=False):
            out: Tensor = self.head(x.float())
        return out


class ByItself(Headed):
    """A network that computes with a layer's weight."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.body(x) * self.head.weight.sum()


@pytest.mark.parametrize(("made", "agrees"), [(Headed, False), (ByItself, False), (Tied, True)])
def test_a_network_that_needs_its_own_weights_is_found(made: type[nn.Module], agrees: bool) -> None:
    torch.manual_seed(0)
    network = made()
    given = (torch.ones(2, 3), torch.ones(2))[: 1 if made is Tied else 2]
    assert Rounded(network).agrees(network, *given) == agrees
    assert network.training
    if made is Tied:
        assert network.count == 0


def test_both_networks_train_though_they_came_for_inference(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"train.precision": "bf16"})
    data = load(config.dataset)
    callbacks = Callbacks(lambda _: None, lambda *_: {}, lambda _: None, lambda: False)
    training = Training(
        config.train, 0, config.build(data).eval(), Objective(config, {}), data, tmp_path, callbacks, ALONE
    )
    assert training.stepper.network is not training.state.network
    training.stepper.begin(0)
    assert all(module.training for module in (*training.stepper.network.modules(), *training.state.network.modules()))
