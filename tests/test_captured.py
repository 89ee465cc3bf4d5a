"""Steps that a graph repeats are the steps as they are written, bit for bit; here the processor repeats the calls.

On a GPU: tests/test_gpu.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.components.losses import PseudoHuber
from harness.core.config import override
from harness.core.errors import ConfigError, Stopped
from harness.core.rng import Streams, stream
from harness.data.base import load
from harness.flow.objective import Objective
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.train import ensure
from harness.training import captured, diagnostics, stepper, trainer
from harness.training.diagnostics import Taken
from harness.training.trainer import Callbacks, fit

record = captured.record
YOUNG = 6
"""Steps before the guard's numbers are constant, in these tests."""
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "classes": {"objective.label_dropout": 0.3},
    "micro-batches": {"train.accumulate": 2},
    "dropout": {"backbone.dropout": 0.3},
}


def values(taken: Taken) -> list[Tensor]:
    """Return all tensors of a step."""
    return [*taken.scalars, *(value for pair in taken.samples for value in pair)]


class Repeated:
    """In the place of a graph: it calls the recorded step again, with the tensors and generators of the record."""

    def __init__(self) -> None:
        self.records = 0
        self.repeats = 0

    def __call__(self, take: Callable[[], Taken], generators: Collection[torch.Generator]) -> Callable[[], Taken]:
        self.records += 1
        held = list(generators)
        fixed: Taken | None = None
        for generator in (*held, torch.default_generator):  # a recording may move them
            torch.rand(1, generator=generator)

        def repeat() -> Taken:
            nonlocal fixed
            self.repeats += 1
            taken = take()
            assert list(generators) == held, "a graph draws from the generators that it knows"
            fixed = fixed or taken
            for old, new in zip(values(fixed), values(taken), strict=True):
                old.copy_(new)
            return fixed

        return repeat


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> Repeated:
    graph = Repeated()
    monkeypatch.setattr(captured, "record", graph)
    monkeypatch.setattr(captured, "obstacle", lambda training: None)
    for module in (captured, diagnostics):
        monkeypatch.setattr(module, "MEMORY", YOUNG)
    monkeypatch.setattr(diagnostics, "YOUNG", 3)
    return graph


def mirrored(stored: Tensor, generator: torch.Generator) -> Tensor:
    """Return images [B, C, H, W] of which about half are mirrored."""
    chosen = torch.rand(len(stored), 1, 1, 1, generator=generator) < 0.5
    return torch.where(chosen, stored.flip(-1), stored)


def session(
    config: RunConfig, folder: Path, stop: Callable[[], bool] = lambda: False, said: list[str] | None = None
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train, and return the weights and averages, and the lines of metrics without times."""
    torch.manual_seed(0)
    data = dataclasses.replace(load(config.dataset), augment=mirrored)
    network = config.build(data)
    lines = list[dict[str, float]]()
    callbacks = Callbacks(lines.append, lambda *_: {}, (said if said is not None else []).append, stop)
    averages = fit(config.train, 0, network, Objective(config, config.noise.learn(data)), data, folder, callbacks)
    timed = ("time", "samples_per_second", "coupling_seconds")
    kept = [{name: value for name, value in line.items() if name not in timed} for line in lines]
    return {**network.state_dict(), **averages.tensors()}, kept


@pytest.mark.parametrize("name", CASES)
def test_steps_of_a_graph_are_those_as_they_are_written(
    tiny: RunConfig, tmp_path: Path, repeated: Repeated, name: str
) -> None:
    """Weights, averages and logged values, of an unbroken training and of one that stopped and went on."""
    config = override(tiny, {"train.steps": 24, "train.log_every": 4, **CASES[name]})
    expected, lines = session(config, tmp_path / "written")
    assert repeated.records == 0
    graphed = override(config, {"train.graph": "on"})
    found, same = session(graphed, tmp_path / "graphed")
    assert (repeated.records, repeated.repeats) == (1, 24 - YOUNG)
    assert same == lines
    calls = itertools.count()
    with pytest.raises(Stopped):
        session(graphed, tmp_path / "broken", lambda: next(calls) == 13)
    resumed, _ = session(graphed, tmp_path / "broken")
    assert repeated.repeats == 24 - YOUNG + 13 - YOUNG + 24 - 13 - captured.WARM_UP
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
        assert torch.equal(resumed[key], value), key


def test_a_graph_is_recorded_again_once_a_checkpoint_is_loaded(
    tiny: RunConfig, tmp_path: Path, repeated: Repeated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint replaces the optimizer's tensors. After a divergence, too, the steps are as they are written."""
    calls = dict[str, int]()

    def explode(self: Any, task: Any) -> Any:
        calls[self.config.graph] = calls.get(self.config.graph, 0) + 1
        losses, samples = backward(self, task)
        return losses * (torch.nan if calls[self.config.graph] == 12 else 1), samples

    backward = stepper.Stepper.backward
    monkeypatch.setattr(stepper.Stepper, "backward", explode)
    changes = {"train.steps": 24, "train.checkpoint_every": 8, "train.on_divergence": "restore_and_lower_lr"}
    config = override(tiny, changes)
    expected, _ = session(config, tmp_path / "written")
    found, _ = session(override(config, {"train.graph": "on"}), tmp_path / "graphed")
    assert calls["on"] == calls["auto"] > 24
    assert repeated.records == 2
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_step_that_cannot_be_recorded_is_an_error_with_its_first_cause(
    tiny: RunConfig, tmp_path: Path, repeated: Repeated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a recording that failed fails too."""

    class Graph:
        def register_generator_state(self, generator: torch.Generator) -> None:
            pass

    @contextlib.contextmanager
    def recording(graph: Graph, capture_error_mode: str) -> Iterator[None]:
        try:
            yield
            raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(captured, "record", record)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    told = r"^train\.graph: .* as a graph: operation not permitted when stream is capturing\. Choose off\.$"
    with pytest.raises(ConfigError, match=told):
        session(override(tiny, {"train.steps": 12, "train.graph": "on"}), tmp_path)


def test_the_record_of_a_run_tells_whether_a_graph_took_its_steps(
    tiny: RunConfig, repeated: Repeated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both, if a part was trained without one."""
    config = override(tiny, {"train.steps": 12, "train.graph": "on"})
    calls = itertools.count()
    with pytest.raises(Stopped):
        ensure(config, lambda _: None, lambda: next(calls) == 9)
    assert Run.of(config).environment["graph"] == ["on"]
    monkeypatch.setattr(captured, "obstacle", lambda _: "it trains on the cpu")
    assert ensure(config, lambda _: None, lambda: False).environment["graph"] == ["off", "on"]
    plain = override(tiny, {"train.steps": 11})
    assert ensure(plain, lambda _: None, lambda: False).environment["graph"] == ["off"]
    assert repeated.records == 1


def test_steps_that_no_graph_can_hold_are_taken_as_written_and_said_once(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"train.steps": 12})
    expected, _ = session(config, tmp_path / "written")
    said = list[str]()
    found, _ = session(override(config, {"train.graph": "on"}), tmp_path / "graphed", said=said)
    assert said == ["train.graph: steps go without a CUDA graph: it trains on the cpu."]
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("changes", "device", "why"),
    [
        ({}, "cpu", "it trains on the cpu"),
        ({"train.compile": "reduce-overhead"}, "cuda", "train.compile=reduce-overhead has graphs of its own"),
        ({"loss": "pseudo_huber"}, "cuda", "loss pseudo_huber computes outside of the GPU"),
        ({"train.steps": diagnostics.MEMORY}, "cuda", "its 100 steps end before one is recorded"),
        ({"coupling": "exact_ot", "time_sampler": "beta"}, "cuda", None),  # drawn ahead, without the graph
        ({}, "cuda", None),
    ],
)
def test_what_a_graph_cannot_hold_is_named(
    tiny: RunConfig, tmp_path: Path, changes: dict[str, Any], device: str, why: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(PseudoHuber, "waits", True)
    config = override(tiny, {"train.device": "cpu", "train.steps": 200, **changes})
    data = load(config.dataset)
    callbacks = Callbacks(lambda _: None, lambda *_: {}, lambda _: None, lambda: False)
    objective = Objective(config, {})
    training = trainer.Training(
        config.train, 0, config.build(data), objective, data, tmp_path, callbacks, trainer.ALONE
    )
    training.stepper.device = device
    assert captured.obstacle(training.stepper) == why


def test_streams_draw_as_single_streams_do() -> None:
    streams = Streams(3, 5)
    for step in (5, 6, 5):
        streams.begin(step)
        for name in ("noise", "time"):
            assert torch.equal(torch.rand(4, generator=streams(name)), torch.rand(4, generator=stream(3, name, step)))
        rest = torch.rand(2, generator=streams("noise"))
        assert torch.equal(rest, torch.rand(6, generator=stream(3, "noise", step))[4:]), "it goes on"
    assert isinstance(streams.generators["noise"], torch.Generator)
