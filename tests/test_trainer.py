import dataclasses
import errno
import itertools
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.core.checkpoint import read_checkpoint
from harness.core.config import override
from harness.core.errors import Diverged, Stopped
from harness.core.rng import Streams, stream
from harness.data.base import Data, load
from harness.flow.objective import Objective, Step, Task
from harness.runs.config import RunConfig
from harness.training import diagnostics, trainer
from harness.training.batches import DataOrder
from harness.training.config import TrainConfig
from harness.training.trainer import Callbacks, fit

pytestmark = pytest.mark.usefixtures("unmeasured")
Wrap = Callable[[nn.Module], nn.Module]


@dataclass
class Session:
    """Calls of `fit` on one checkpoint folder, and their messages."""

    config: RunConfig
    folder: Path
    data: Data | None = None
    wrap: Wrap = lambda network: network
    lines: dict[int, tuple[float, ...]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    network: nn.Module = field(default_factory=nn.Module)

    def fit(self, stop_after: int | None = None, initial: int = 0) -> dict[str, Tensor]:
        """Train to the end, or for `stop_after` steps, from weights of the seed `initial`; return the final weights of
        both networks.
        """
        config = self.config
        data = self.data or load(self.config.dataset)
        calls = itertools.count()
        torch.manual_seed(initial)
        self.network = self.wrap(config.backbone.build(data.shape))
        objective = Objective(config, {})
        callbacks = Callbacks(self.log, lambda *_: {}, self.said.append, lambda: next(calls) == stop_after)
        ema = fit(config.train, config.seed, self.network, objective, data, self.folder, callbacks)
        return {f"ema.{k}": v for k, v in ema.network.state_dict().items()} | dict(self.network.state_dict())

    def log(self, line: dict[str, float]) -> None:
        if "loss" not in line:  # a look between two reports
            return
        values = tuple(line[key] for key in ("loss", "grad_norm", "learning_rate"))
        assert self.lines.setdefault(int(line["step"]), values) == values, "a step logged twice says the same"


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def unbroken(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, dict[str, Tensor]]:
    """`tiny` trained to its end without interruption, and the final weights."""
    session = Session(tiny, tmp_path_factory.mktemp("unbroken"))
    return session, session.fit()


@pytest.fixture(scope="module")
def clipped(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The final weights of `tiny` when all its gradients are clipped."""
    return Session(override(tiny, {"train.clip_norm": 0.1}), tmp_path_factory.mktemp("clipped")).fit()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_stopped_at_random_steps_ends_as_an_unbroken_one(
    tiny: RunConfig, unbroken: tuple[Session, dict[str, Tensor]], tmp_path: Path, dropout: float
) -> None:
    config = override(tiny, {"backbone.dropout": dropout})
    whole, expected = unbroken
    if dropout:
        whole = Session(config, tmp_path / "whole")
        expected = whole.fit()
    broken = Session(config, tmp_path / "broken")
    stops = sorted(random.Random(int(10 * dropout)).sample(range(1, 12), 4))
    for i, (start, end) in enumerate(itertools.pairwise([0, *stops])):
        with pytest.raises(Stopped, match=f"step {end}$"):
            broken.fit(end - start, initial=i)
    assert equal(broken.fit(initial=99), expected)
    assert broken.lines == whole.lines
    assert broken.said == [f"continues from step {step} of 12." for step in stops]


def test_a_damaged_checkpoint_costs_steps_and_changes_nothing(
    tiny: RunConfig, unbroken: tuple[Session, dict[str, Tensor]], tmp_path: Path
) -> None:
    whole, expected = unbroken
    broken = Session(tiny, tmp_path / "broken")
    with pytest.raises(Stopped):
        broken.fit(8)
    newest = max((tmp_path / "broken").glob("*.safetensors"))
    os.truncate(newest, newest.stat().st_size // 2)
    assert equal(broken.fit(initial=1), expected)
    assert broken.said == [f"{newest} is damaged and was passed over.", "continues from step 6 of 12."]
    assert broken.lines == whole.lines


def test_a_finished_run_trains_no_further(tiny: RunConfig, unbroken: tuple[Session, dict[str, Tensor]]) -> None:
    whole, expected = unbroken
    again = Session(tiny, whole.folder)
    assert equal(again.fit(initial=1), expected)
    assert whole.lines
    assert not again.lines


def test_every_epoch_visits_each_sample_once() -> None:
    order = DataOrder(size=10, batch_size=4, seed=3)
    visited = torch.cat([order.indices(step) for step in range(5)])
    assert all(len(order.indices(step)) == 4 for step in range(5))
    assert sorted(visited[:10].tolist()) == sorted(visited[10:].tolist()) == list(range(10))
    assert visited[:10].tolist() != visited[10:].tolist()


def test_a_batch_larger_than_the_data_repeats_it() -> None:
    visited = DataOrder(size=3, batch_size=7, seed=0).indices(0)
    assert sorted(visited[:3].tolist()) == sorted(visited[3:6].tolist()) == [0, 1, 2]


def test_the_order_depends_on_seed_and_step_alone() -> None:
    order = DataOrder(size=10, batch_size=4, seed=3)
    in_turn = [order.indices(step).tolist() for step in range(8)]
    assert [DataOrder(10, 4, seed=3).indices(step).tolist() for step in reversed(range(8))] == in_turn[::-1]
    assert [DataOrder(10, 4, seed=4).indices(step).tolist() for step in range(8)] != in_turn


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1),
        (4, 0.5),
        (9, 1),
        (10, 1),
        (35, 0.5 + math.sqrt(2) / 4),
        (60, 0.5),
        (85, 0.5 - math.sqrt(2) / 4),
        (110, 0),
    ],
)
def test_the_rate_rises_linearly_and_falls_by_a_cosine(step: int, rate: float) -> None:
    config = TrainConfig(steps=110, warmup_steps=10, learning_rate=1)
    assert config.rate(step) == pytest.approx(rate, abs=1e-12)


def test_without_warm_up_the_first_rate_is_the_peak() -> None:
    assert TrainConfig(steps=10, warmup_steps=0, learning_rate=0.3).rate(0) == 0.3


MATTERS: dict[str, Any] = {
    "steps": 10,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "warmup_steps": 5,
    "accumulate": 4,
    "optimizer": "adam",
    "optimizer.weight_decay": 0.5,
    "optimizer.beta2": 0.9,
    "schedule": "constant",
    "clip_norm": None,
    "ema_decay": 0.1,
    "ema_warmup": False,
    "precision": "bf16",
}
CHANGES_NOTHING: dict[str, Any] = {
    "log_every": 5,
    "sample_every": 4,
    "checkpoint_every": 12,
    "keep_checkpoints": 1,
    "recompute": True,
    "graph": "on",
    "snapshot_every": 4,
    "more_ema_decays": [0.5],
    "on_divergence": "restore_and_lower_lr",
}


def test_every_setting_of_training_is_tested_here() -> None:
    held = {name.partition(".")[0] for name in MATTERS} | CHANGES_NOTHING.keys()
    assert {f.name for f in dataclasses.fields(TrainConfig)} == held | {"threads", "device", "compile", "channels_last"}


@pytest.mark.parametrize("name", MATTERS)
def test_a_setting_that_matters_changes_the_weights(
    tiny: RunConfig, clipped: dict[str, Tensor], tmp_path: Path, name: str
) -> None:
    changed = override(tiny, {"train.clip_norm": 0.1, f"train.{name}": MATTERS[name]})
    assert not equal(Session(changed, tmp_path).fit(), clipped)


@pytest.mark.parametrize("name", CHANGES_NOTHING)
def test_a_setting_of_how_it_is_carried_out_changes_nothing(
    tiny: RunConfig,
    unbroken: tuple[Session, dict[str, Tensor]],
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "sample_every":
        monkeypatch.setattr(trainer, "gradients_by_noise", diagnostics.gradients_by_noise)
    changed = override(tiny, {f"train.{name}": CHANGES_NOTHING[name]})
    assert equal(Session(changed, tmp_path).fit(), unbroken[1])


class Poisoned(nn.Module):
    """A network that returns NaN in the steps `bad`."""

    def __init__(self, network: nn.Module, bad: range):
        super().__init__()
        self.network = network
        self.bad = bad
        self.step = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.step += 1
        return self.network(x, t) * (math.nan if self.step - 1 in self.bad else 1.0)


def test_a_loss_that_is_not_finite_ends_training_with_the_weights_before_it(tiny: RunConfig, tmp_path: Path) -> None:
    good = Session(tiny, tmp_path / "good", wrap=lambda network: Poisoned(network, range(0)))
    bad = Session(tiny, tmp_path / "bad", wrap=lambda network: Poisoned(network, range(4, 12)))
    with pytest.raises(Stopped):
        good.fit(4)
    with pytest.raises(Diverged, match=r"by step 6\..*learning_rate"):
        bad.fit()
    assert equal(bad.network.state_dict(), good.network.state_dict())
    assert max(bad.lines) == 4


def test_one_bad_step_is_not_taken_and_not_forgotten(tiny: RunConfig, tmp_path: Path) -> None:
    """Also if training stops between it and the next report."""
    config = override(tiny, {"train.log_every": 4})
    session = Session(config, tmp_path, wrap=lambda network: Poisoned(network, range(4, 5)))
    with pytest.raises(Stopped):
        session.fit(5)
    assert all(torch.isfinite(p).all() for p in session.network.parameters())
    session.wrap = lambda network: Poisoned(network, range(0))
    with pytest.raises(Diverged, match="by step 6"):
        session.fit()


def test_no_checkpoint_is_written_over_a_bad_step(tiny: RunConfig, tmp_path: Path) -> None:
    session = Session(
        override(tiny, {"train.log_every": 12}), tmp_path, wrap=lambda network: Poisoned(network, range(4, 5))
    )
    with pytest.raises(Diverged, match="by step 6"):
        session.fit()
    assert [path.name[:9] for path in tmp_path.glob("*.safetensors")] == ["000000003"]


def test_a_gradient_that_is_not_finite_is_seen_too(tiny: RunConfig, tmp_path: Path) -> None:
    def wrap(network: nn.Module) -> nn.Module:
        next(network.parameters()).register_hook(lambda gradient: gradient * math.inf)
        return network

    session = Session(override(tiny, {"train.clip_norm": None}), tmp_path, wrap=wrap)
    with pytest.raises(Diverged, match=r"by step 2\..*train\.clip_norm is off"):
        session.fit()
    assert all(torch.isfinite(p).all() for p in session.network.parameters())


def test_an_encoding_that_is_not_finite_ends_training(tiny: RunConfig, tmp_path: Path) -> None:
    """Non-finite data are refused when they are read; a non-finite encoding of finite data shows in the loss."""
    whole = load(tiny.dataset)

    def encode(images: Tensor) -> Tensor:
        return torch.where(images == 0, math.nan, whole.encode(images))

    with pytest.raises(Diverged):
        Session(tiny, tmp_path, data=dataclasses.replace(whole, encode=encode)).fit()


def test_training_sees_augmented_data_as_seed_and_step_decide(
    tiny: RunConfig, unbroken: tuple[Session, dict[str, Tensor]], tmp_path: Path
) -> None:
    """A stopped and resumed run therefore ends like an unbroken one."""
    whole = load(tiny.dataset)
    seen = list[Tensor]()

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(torch.rand(len(images), generator=generator))
        return torch.where(seen[-1].view(-1, 1, 1, 1) < 0.5, 255 - images, images)

    data = dataclasses.replace(whole, augment=augment)
    straight, broken = (Session(tiny, tmp_path / name, data=data) for name in ("straight", "broken"))
    expected = straight.fit()
    draws = list(seen)
    for step, drawn in enumerate(draws):
        assert torch.equal(drawn, torch.rand(tiny.train.batch_size, generator=stream(tiny.seed, "augment", step)))
    seen.clear()
    with pytest.raises(Stopped):
        broken.fit(5)
    assert equal(broken.fit(initial=1), expected)
    assert len(seen) == len(draws) == tiny.train.steps
    assert all(map(torch.equal, seen, draws))
    assert not equal(unbroken[1], expected)


def test_each_line_has_the_costs_of_the_coupling(tiny: RunConfig, tmp_path: Path) -> None:
    """The mean transport cost since the last line, and the mean seconds per step."""
    lines: list[dict[str, float]] = []
    config = override(tiny, {"train.log_every": 5})
    tasks: list[Task] = []
    losses: list[float] = []

    class Recorded(Objective):
        def task(
            self,
            x0: Tensor,
            streams: Streams,
            y: Tensor | None = None,
            t: Tensor | None = None,
            **how: Any,
        ) -> Task:
            made = super().task(x0, streams, y, t, **how)._replace(coupling_seconds=float(len(tasks)))
            if t is None and streams.step >= 0:
                tasks.append(made)
            return made

        def measure(self, network: nn.Module, task: Task) -> Step:
            measured = super().measure(network, task)
            if tasks and torch.equal(task.xt, tasks[-1].xt):
                losses.append(measured.loss.item())
            return measured

    data = load(config.dataset)
    callbacks = Callbacks(lines.append, lambda *_: {}, lambda _: None, lambda: False)
    fit(config.train, 0, config.backbone.build(data.shape), Recorded(config, {}), data, tmp_path, callbacks)
    assert [line["step"] for line in lines] == [5, 10, 12]
    for line, rows in zip(lines, (slice(0, 5), slice(5, 10), slice(10, 12)), strict=True):
        assert line["transport_cost"] == pytest.approx(
            np.mean([task.transport_cost.item() for task in tasks[rows]]), rel=1e-6
        )
        assert line["coupling_seconds"] == pytest.approx(np.mean([task.coupling_seconds for task in tasks[rows]]))
        assert line["loss"] == pytest.approx(np.mean(losses[rows]), rel=1e-6)


def test_the_classes_of_the_batch_reach_the_objective(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"train.steps": 3})
    data = load(tiny.dataset)
    seen = list[tuple[Tensor, Tensor | None]]()

    class Recorded(Objective):
        def task(
            self,
            x0: Tensor,
            streams: Streams,
            y: Tensor | None = None,
            t: Tensor | None = None,
            **how: Any,
        ) -> Task:
            if t is None and streams.step >= 0:
                seen.append((x0, y))
            return super().task(x0, streams, y, t, **how)

    callbacks = Callbacks(lambda _: None, lambda *_: {}, lambda _: None, lambda: False)
    for given in (data, dataclasses.replace(data, classes=None, held_out_classes=None)):
        seen.clear()
        network = config.backbone.build(data.shape)
        fit(config.train, 0, network, Recorded(config, {}), given, tmp_path / str(given is data), callbacks)
        order = DataOrder(len(data.train), config.train.batch_size, 0)
        assert len(seen) == config.train.steps
        for number, (x0, y) in enumerate(seen):
            rows = order.indices(number)
            assert torch.equal(x0, data.encode(data.train[rows]))
            assert y is None if given.classes is None else torch.equal(y, given.classes[rows])  # type: ignore[arg-type]


def test_after_a_divergence_training_goes_on_from_the_last_checkpoint_with_half_the_rate(
    tiny: RunConfig, tmp_path: Path
) -> None:
    config = override(tiny, {"train.log_every": 3, "train.on_divergence": "restore_and_lower_lr"})
    session = Session(config, tmp_path, wrap=lambda network: Poisoned(network, range(4, 5)))
    final = session.fit()
    assert all(value.isfinite().all() for value in final.values())
    assert len(session.said) == 1
    assert session.said[0].endswith("Back to step 3, with 0.5 of the learning rate.")
    rates = {step: rate for step, (_, _, rate) in session.lines.items()}
    assert rates == {step: config.train.rate(step - 1) * (1 if step == 3 else 0.5) for step in (3, 6, 9, 12)}


def test_training_gives_up_once_the_rate_is_too_low(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"train.on_divergence": "restore_and_lower_lr"})
    session = Session(config, tmp_path, wrap=lambda network: Poisoned(network, range(10**6)))
    with pytest.raises(Diverged):
        session.fit()
    assert [line.rpartition("with ")[2].split()[0] for line in session.said] == [
        "0.5",
        "0.25",
        "0.125",
        "0.0625",
        "0.03125",
    ]


def test_a_stop_tells_that_its_checkpoint_could_not_be_written(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harness.core.checkpoint._put", full)
    seldom = override(tiny, {"train.checkpoint_every": 100, "train.sample_every": 100})
    with pytest.raises(OSError, match="No space left"):
        Session(seldom, tmp_path).fit(stop_after=5)


def test_a_lowered_rate_survives_a_stop(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"train.log_every": 3, "train.on_divergence": "restore_and_lower_lr"})
    whole, broken = (
        Session(config, tmp_path / name, wrap=lambda network: Poisoned(network, range(4, 5)))
        for name in ("whole", "broken")
    )
    expected = whole.fit()
    with pytest.raises(Stopped):
        broken.fit(9)
    broken.wrap = lambda network: Poisoned(network, range(0))
    assert equal(broken.fit(initial=5), expected)


def test_a_stop_between_a_bad_step_and_its_report_costs_one_halving(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"train.log_every": 3, "train.on_divergence": "restore_and_lower_lr"})
    session = Session(config, tmp_path, wrap=lambda network: Poisoned(network, range(4, 5)))
    with pytest.raises(Stopped):
        session.fit(5)
    session.wrap = lambda network: Poisoned(network, range(0))
    session.fit()
    assert [line.rpartition("with ")[2].split()[0] for line in session.said if "Back to" in line] == ["0.5"]


def test_blocks_are_recomputed_only_on_request(tiny: RunConfig, tmp_path: Path) -> None:
    calls: dict[bool, int] = {}
    for recompute in (False, True):
        config = override(tiny, {"train.recompute": recompute, "train.steps": 2, "train.sample_every": 100})
        session = Session(config, tmp_path / str(recompute))
        calls[recompute] = 0

        def count(module: nn.Module, given: Any, recompute: bool = recompute) -> None:
            calls[recompute] += module.training

        session.wrap = lambda network: _counted(network, count)
        session.fit()
    assert calls[True] > 1.3 * calls[False]


def _counted(network: nn.Module, count: Callable[..., None]) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(count)
    return network


def test_the_network_is_compiled_in_the_mode_asked_for(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = list[str]()

    def compiled(network: nn.Module, mode: str) -> nn.Module:
        modes.append(mode)
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    short = override(tiny, {"train.steps": 1})
    Session(short, tmp_path / "off").fit()
    assert modes == []
    Session(override(short, {"train.compile": "max-autotune"}), tmp_path / "on").fit()
    assert modes == ["max-autotune"] * 2, "the one that is trained and the one that is shown"


def test_images_lie_with_their_channels_last_where_asked_for(tiny: RunConfig, tmp_path: Path) -> None:
    strides = {}
    for choice in (False, True):
        config = override(tiny, {"train.channels_last": choice, "train.steps": 1})
        session = Session(config, tmp_path / str(choice))
        session.fit()
        strides[choice] = [p.stride() for p in session.network.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert strides[True] != strides[False]
    assert all(stride[1] == 1 for stride in strides[True])


def test_products_are_tf32_within_the_training_alone(tiny: RunConfig, tmp_path: Path) -> None:
    seen = set[str]()
    before = torch.backends.cuda.matmul.fp32_precision

    def wrap(network: nn.Module) -> nn.Module:
        network.register_forward_pre_hook(lambda *_: seen.add(torch.backends.cuda.matmul.fp32_precision))
        next(network.parameters()).register_hook(lambda gradient: seen.add(torch.backends.cuda.matmul.fp32_precision))
        return network

    short = override(tiny, {"train.steps": 1})
    Session(override(short, {"train.precision": "tf32"}), tmp_path / "tf32", wrap=wrap).fit()
    assert seen == {"tf32"}
    seen.clear()
    Session(short, tmp_path / "fp32", wrap=wrap).fit()
    assert seen == {"ieee"}
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_snapshots_are_taken_and_old_checkpoints_go(tiny: RunConfig, tmp_path: Path) -> None:
    Session(override(tiny, {"train.snapshot_every": 5, "train.keep_checkpoints": 3}), tmp_path).fit()
    assert sorted(int(p.name[:9]) for p in (tmp_path / "snapshots").iterdir()) == [5, 10]
    assert sorted(int(p.name[:9]) for p in tmp_path.glob("*.safetensors")) == [6, 9, 12]


def test_a_look_needs_no_large_batch(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "gradients_by_noise", diagnostics.gradients_by_noise)
    lines: list[dict[str, float]] = []
    config = override(tiny, {"train.batch_size": 2, "train.steps": 4})
    data = load(config.dataset)
    callbacks = Callbacks(lines.append, lambda *_: {}, lambda _: None, lambda: False)
    fit(config.train, 0, config.backbone.build(data.shape), Objective(config, {}), data, tmp_path, callbacks)
    assert len([key for key in lines[-1] if key.startswith("grad_variance")]) == 8
    assert all(map(math.isfinite, lines[-1].values()))


def test_a_resumed_run_ends_with_the_very_checkpoint_of_an_unbroken_one(tiny: RunConfig, tmp_path: Path) -> None:
    """Weights, averages, optimizer, the meter, and the guard's usual norm."""
    config = override(tiny, {"train.log_every": 5, "train.more_ema_decays": [0.5]})
    whole = Session(config, tmp_path / "whole")
    broken = Session(config, tmp_path / "broken")
    whole.fit()
    with pytest.raises(Stopped):
        broken.fit(7)
    broken.fit(initial=1)
    expected, found = (read_checkpoint(session.folder, "cpu")[1] for session in (whole, broken))
    assert equal(found, expected)
    assert {"trainer/scalars", "trainer/bins", "trainer/usual", "trainer/numbers"} < expected.keys()


@pytest.mark.parametrize("layout", [True, False])
def test_a_resumed_optimizer_has_the_memory_layout_of_its_weights(
    tiny: RunConfig, tmp_path: Path, layout: bool
) -> None:
    """A GPU's fused step requires this."""
    session = Session(override(tiny, {"train.channels_last": layout}), tmp_path)
    seen = list[bool]()
    with pytest.raises(Stopped):
        session.fit(5)

    def wrap(network: nn.Module) -> nn.Module:
        network.register_forward_pre_hook(
            lambda *_: seen.append(all(s.stride() == p.stride() for p, s in moments(made[0])))
        )
        return network

    def moments(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
        return [(p, values["exp_avg"]) for p, values in optimizer.state.items()]

    made = list[torch.optim.Optimizer]()
    build = type(session.config.train.optimizer).build

    def noted(*arguments: Any) -> torch.optim.Optimizer:
        made.append(build(*arguments))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(session.config.train.optimizer), "build", noted)
        session.wrap = wrap
        session.fit()
    assert seen
    assert all(seen)
