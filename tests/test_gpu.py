"""Tests that need a GPU: results agree with the CPU's, a step waits for nothing, and compilation changes nothing.

`make test-gpu` runs only these.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typed import tensor

from harness.components.interpolants import Linear
from harness.components.noises import Population
from harness.core.config import override
from harness.core.errors import ConfigError, Diverged, Stopped
from harness.core.registry import build, names
from harness.core.rng import Streams
from harness.data.base import Data, load
from harness.data.images import Digits
from harness.data.points import EightGaussians
from harness.evaluation.judge import Judge, SampleBatch
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective, Task
from harness.flow.sampling import NetworkField, Trained
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.sample import restore
from harness.runs.train import ensure
from harness.training import captured
from harness.training.diagnostics import MEMORY, TOGETHER, Taken
from harness.training.hardware import PEAKS, autocast, compiled, matmul_precision, peak_flops
from harness.training.inference import Inference, InPrecision
from harness.training.stepper import Stepper
from harness.training.trainer import Callbacks, fit

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@contextlib.contextmanager
def never_waiting() -> Iterator[None]:
    """Raise an error at every wait for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Network(nn.Module):
    """The network a x + b t + c y."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(value)) for value in (0.5, -0.25, 0.1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.a * x + (self.b * t + self.c * y).view(-1, *[1] * (x.ndim - 1))


def members() -> list[tuple[str, str]]:
    """Return every component that affects a step, except pairs, which need files."""
    families = ("interpolant", "prediction", "weighting", "loss", "time_sampler", "noise", "coupling")
    return [(family, name) for family in families for name in names(family) if name != "pairs"]


@pytest.mark.parametrize(("family", "name"), members())
@pytest.mark.parametrize("space", ["output", "data"])
def test_an_objective_is_the_same_on_both(family: str, name: str, space: str) -> None:
    component = Population(dataset=EightGaussians()) if name == "population" else build(family, name)
    parts = {family: component, "objective": {"space": space, "label_dropout": 0.3}}
    formulation = Formulation.parse(parts)
    x0 = load(EightGaussians()).some()[:64]
    y = torch.arange(64) % 3
    state = formulation.noise.learn(load(EightGaussians()))
    there, here = (Objective(formulation, state, device=device) for device in (DEVICE, "cpu"))
    network = Network()
    x0_there = x0.to(DEVICE)
    y_there = y.to(DEVICE)
    on_gpu = Network().to(DEVICE)
    there.measure(on_gpu, there.task(x0_there, Streams(0, 0, DEVICE), y_there))
    with contextlib.nullcontext() if component.waits else never_waiting():
        task = there.task(x0_there, Streams(0, 1, DEVICE), y_there)
        measured = there.measure(on_gpu, task)
        measured.loss.backward()
    values: list[Any] = [value.cpu() if isinstance(value, Tensor) else value for value in task]
    copied = Task(*values)
    assert ((copied.t >= 0) & (copied.t <= 1)).all()
    expected = here.measure(network, copied)
    expected.loss.backward()
    assert torch.allclose(measured.loss.cpu(), expected.loss, rtol=1e-4)
    assert torch.allclose(measured.errors.cpu(), expected.errors, rtol=1e-3, atol=1e-5)
    for mine, wanted in zip(on_gpu.parameters(), network.parameters(), strict=True):
        assert torch.allclose(tensor(mine.grad).cpu(), tensor(wanted.grad), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["exact_ot", "class_conditional_ot"])
def test_pairs_are_the_same_on_both(name: str) -> None:
    x0, x1 = (torch.randn(48, 5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    y = torch.arange(48) % 3
    coupling = build("coupling", name)
    ours = coupling.pair(x0.to(DEVICE), x1.to(DEVICE), torch.Generator(DEVICE), y.to(DEVICE))
    expected = coupling.pair(x0, x1, torch.Generator(), y)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(ours, expected, strict=True))


def bent(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.sin(3 * x) + t.view(-1, 1)


@pytest.mark.parametrize("solver", [name for name in names("solver") if name not in ("euler_maruyama", "heun_sde")])
@pytest.mark.parametrize("grid", names("time_grid"))
def test_a_solver_goes_the_same_way_on_both(solver: str, grid: str) -> None:
    method = build("solver", solver)
    ends = []
    steps = 1 if method.adaptive else 6
    times = build("time_grid", grid).times(steps, Linear())
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    for device in (DEVICE, "cpu"):
        network: Any = bent
        field = NetworkField(Trained(network, Formulation(), {}))
        ends.append(method.integrate(field, x.to(device), times, torch.Generator(device)).cpu())
    assert torch.allclose(ends[0], ends[1], rtol=1e-4, atol=1e-4)


BACKBONES = {"unet": (3, 32, 32), "ncsnpp": (3, 32, 32), "dit": (3, 32, 32), "mlp": (16,), "transformer": (12, 4)}


@pytest.mark.parametrize(("name", "shape"), BACKBONES.items())
def test_a_network_has_the_same_output_on_both(name: str, shape: tuple[int, ...]) -> None:
    small = {"channels": 32, "multipliers": (1, 2)} if name == "unet" else {}
    network = build("backbone", {"name": name, **small}).build(shape, 3).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # the last layers of some networks start at zero
        nn.init.normal_(parameter, std=0.05, generator=generator)
    x = torch.randn(8, *shape, generator=generator)
    t = torch.rand(8, generator=generator)
    y = torch.arange(8) % 4 - 1
    with torch.no_grad(), matmul_precision("fp32"):
        expected = network(x, t, y)
        there = (x.to(DEVICE), t.to(DEVICE), y.to(DEVICE))
        network.to(DEVICE)
        assert torch.allclose(network(*there).cpu(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())
        with autocast({"device": DEVICE, "precision": "bf16"}):
            coarse = network(*there).float().cpu()
    assert (coarse - expected).norm() < 0.05 * expected.norm()


def session(
    config: RunConfig, folder: Path, stop: Callable[[], bool] = lambda: False, network: nn.Module | None = None,
    said: list[str] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Train, and return the weights of the network and of its average."""
    torch.manual_seed(0)
    data = load(config.dataset)
    network = (network or config.build(data)).to(DEVICE)
    objective = Objective(config, config.noise.learn(data), device=DEVICE)
    averages = fit(
        config.train,
        0,
        network,
        objective,
        data,
        folder,
        Callbacks(lambda _: None, lambda *_: {}, lambda _: None if said is None else said.append(_), stop),
    )
    return {name: value.cpu() for name, value in [*network.state_dict().items(), *averages.tensors().items()]}


SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "classes": {"objective.label_dropout": 0.1},
    "parts": {"train.accumulate": 2},
    "averages": {"train.more_ema_decays": [0.9, 0.99]},
    "matched noise": {"noise": {"name": "matched", "per_feature": True}},
    "EDM": {"prediction": "edm", "weighting": "edm", "time_sampler": "edm_lognormal"},
    "no clipping": {"train.clip_norm": None, "train.optimizer": "adam"},
    "fp32": {"train.precision": "fp32", "train.channels_last": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_waits_for_nothing(tiny: RunConfig, tmp_path: Path, name: str) -> None:
    """Until a report is due; meanwhile, sums are accumulated and an epoch ends."""
    steps = TOGETHER + 8
    calls = itertools.count()
    seldom = {f"train.{what}_every": 2 * steps for what in ("log", "sample", "checkpoint")}
    config = override(tiny, {"train.device": DEVICE, "train.steps": steps, **seldom, **SETTINGS[name]})
    first = 3
    last = steps - 1

    def stop() -> bool:
        torch.cuda.set_sync_debug_mode("error" if first <= next(calls) < last else "default")
        return False

    try:
        session(config, tmp_path, stop)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_on_a_set_of_genes_waits_for_nothing() -> None:
    from harness.data.base import Standardise

    scale = Standardise(torch.arange(4.0), torch.ones(4))
    x = torch.randn(8, 4, device=DEVICE)
    scale.encode(x)
    with never_waiting():
        scale.decode(scale.encode(x))


def test_a_resumed_training_is_an_unbroken_one(tiny: RunConfig, tmp_path: Path) -> None:
    """Equal up to rounding: a GPU adds in any order."""
    config = override(tiny, {"train.device": DEVICE, "train.precision": "fp32", "train.more_ema_decays": [0.5]})
    assert config.train.channels_last
    expected = session(config, tmp_path / "whole")
    calls = itertools.count()
    with pytest.raises(Stopped):
        session(config, tmp_path / "broken", lambda: next(calls) == 7)
    resumed = session(config, tmp_path / "broken")
    assert all(torch.allclose(resumed[name], expected[name], rtol=1e-3, atol=1e-4) for name in expected)


GRAPHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "compiled": {"train.compile": "default"},
    "micro-batches": {"train.accumulate": 2},
    "bf16": {"train.precision": "bf16"},
    "classes": {"objective.label_dropout": 0.3},
    "dropout": {"backbone.dropout": 0.3},
    "recomputed": {"train.recompute": True},
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_takes_the_steps_as_they_are_written(
    tiny: RunConfig, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from a checkpoint on, after which it is recorded again."""
    steps = {"train.device": DEVICE, "train.precision": "fp32", "train.steps": MEMORY + 30, "train.log_every": 10}
    config = override(tiny, {**steps, **GRAPHS[name]})
    expected = session(config, tmp_path / "written")
    graphed = override(config, {"train.graph": "on"})
    repeats = itertools.count()
    recorded = list[Collection[torch.Generator]]()

    def record(take: Callable[[], Taken], generators: Collection[torch.Generator]) -> Callable[[], Taken]:
        recorded.append(generators)
        repeat = captured_record(take, generators)
        return lambda: (next(repeats), repeat())[1]

    captured_record = captured.record
    monkeypatch.setattr(captured, "record", record)
    calls = itertools.count()
    with pytest.raises(Stopped):
        session(graphed, tmp_path / "broken", lambda: next(calls) == MEMORY + 9)
    found = session(graphed, tmp_path / "broken")
    assert len(recorded) == 2
    assert next(repeats) == 9 + 30 - 9 - captured.WARM_UP
    assert all(torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-4) for name in expected)


def test_a_component_that_waits_and_does_not_say_so_is_an_error(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build("coupling", "exact_ot").__class__, "waits", False)
    changes = {"train.device": DEVICE, "train.graph": "on", "train.steps": MEMORY + 10, "coupling": "exact_ot"}
    with pytest.raises(ConfigError, match="the GPU cannot record a step as a graph"):
        session(override(tiny, changes), tmp_path)


def test_tasks_are_drawn_ahead_of_their_steps_with_and_without_a_graph(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"train.device": DEVICE, "train.precision": "fp32", "train.steps": MEMORY + 30, "coupling": "exact_ot"}
    config = override(tiny, changes)
    found = {graph: session(override(config, {"train.graph": graph}), tmp_path / graph) for graph in ("off", "on")}
    monkeypatch.setattr(Stepper, "ahead", False)
    expected = session(config, tmp_path / "plain")
    for weights in found.values():
        assert all(torch.allclose(weights[name], expected[name], rtol=1e-3, atol=1e-4) for name in expected)


@pytest.mark.parametrize("graphs", [False, True])
def test_inference_has_the_outputs_of_the_network(network: nn.Module, graphs: bool) -> None:
    """Smaller batches are filled up, and a graph repeats the passes of each size."""
    inference = Inference(network.eval(), graphs)
    for size in (16, 7, 16, 32, 1, 20):
        x = torch.randn(size, 1, 8, 8, device=DEVICE)
        t = torch.rand(size, device=DEVICE)
        with torch.no_grad():
            assert torch.allclose(inference(x, t), network(x, t), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("precision", "least", "most"), [("tf32", 1e-6, 5e-3), ("bf16", 1e-4, 5e-2)])
def test_a_precision_of_sampling_is_coarser(network: nn.Module, precision: str, least: float, most: float) -> None:
    x = torch.randn(32, 1, 8, 8, device=DEVICE)
    t = torch.rand(32, device=DEVICE)
    with torch.no_grad(), matmul_precision("fp32"):
        expected = network(x, t)
        found = InPrecision(network, precision, DEVICE)(x, t)
    assert found.dtype == torch.float32
    assert least < (found - expected).norm() / expected.norm() < most


class Sometimes(nn.Module):
    """A network that returns NaN at one of its calls."""

    def __init__(self, network: nn.Module, bad: int):
        super().__init__()
        self.network = network
        self.bad = bad
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x, t) * (math.nan if self.calls == self.bad else 1)


def test_a_bad_step_is_not_taken(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(
        tiny, {"train.device": DEVICE, "train.log_every": 100, "train.checkpoint_every": 100, "train.sample_every": 100}
    )
    network = Sometimes(config.build(load(config.dataset)), bad=config.train.steps)
    with pytest.raises(Diverged, match="step 12"):
        session(config, tmp_path / "bad", network=network)
    assert network.calls == config.train.steps
    assert all(value.isfinite().all() for value in network.network.state_dict().values())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network whose output is not zero."""
    made = Digits()
    network = build("backbone", {"name": "unet", "preset": "digits"}).build(load(made).shape).to(DEVICE)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_network_takes_the_same_steps(network: nn.Module, mode: str) -> None:
    """Heun's method needs two outputs at once, and gradients need earlier values."""
    x = torch.randn(32, 1, 8, 8, device=DEVICE)
    t = torch.rand(32, device=DEVICE)
    fast = compiled(network, mode)
    heun = build("solver", "heun")
    times = torch.linspace(1, 0, 5)
    ends = []
    for each in (network, fast):
        with torch.no_grad():
            ends.append(
                heun.integrate(NetworkField(Trained(each, Formulation(), {})), x, times, torch.Generator(DEVICE))
            )
    assert torch.allclose(ends[0], ends[1], rtol=1e-2, atol=1e-2 * ends[0].abs().max().item())
    for _ in range(3):
        gradients = [
            torch.autograd.grad(each(x, t).square().mean(), list(network.parameters())) for each in (network, fast)
        ]
    for expected, found in zip(*gradients, strict=True):
        assert (found - expected).norm() <= 0.02 * expected.norm() + 1e-6


@pytest.mark.parametrize(
    "changes", [{}, {"train.compile": "default"}, {"train.compile": "reduce-overhead", "evaluate.solver": "heun"}]
)
def test_a_run_is_trained_and_judged(tiny: RunConfig, changes: dict[str, Any]) -> None:
    changes = {"train.device": DEVICE, "train.steps": 200, "train.sample_every": 100, "evaluate.nfe": [2, 8], **changes}
    config = override(tiny, changes)
    run = ensure(config, print, lambda: False)
    found = [line["loss"] for line in run.metrics() if "loss" in line]
    assert found[-1] < 0.7 * found[0]
    data = load(config.dataset)
    judge = Judge(config.evaluate, data, DEVICE)
    noise = judge(judge.gaussian())["fid"]
    values = run.evaluation(judge.protocol)["values"]["fid"].values()
    assert len(values) == 2
    assert max(values) < noise


def test_a_run_from_a_gpu_is_sampled_on_a_cpu(tiny: RunConfig) -> None:
    """Only its directory is copied; a run with the same configuration on a CPU would have another name."""
    run = ensure(override(tiny, {"train.device": DEVICE}), print, lambda: False)
    there = restore(run)
    here = restore(Run(override(run.config, {"train.device": "cpu"}), run.folder))
    assert Run.of(override(run.config, {"train.device": "cpu"})).name != run.name
    x = torch.randn(8, 1, 8, 8)
    t = torch.rand(8)
    with torch.no_grad(), matmul_precision("fp32"):
        assert torch.allclose(there.network(x.to(DEVICE), t.to(DEVICE)).cpu(), here.network(x, t), rtol=1e-3, atol=1e-4)


def test_a_judge_gives_the_same_values_on_both(tiny: RunConfig) -> None:
    data = load(tiny.dataset)
    config = override(
        tiny, {"evaluate.metrics": ["fid", "kid", "precision", "recall"], "evaluate.num_samples": 200}
    ).evaluate
    noisy = [SampleBatch(tensor(data.held_out)[i : i + 50]) for i in range(0, 150, 50)]
    found, expected = (Judge(config, data, device)(noisy) for device in (DEVICE, "cpu"))
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_a_products_rate_stays_below_the_data_sheet() -> None:
    if not any(name in torch.cuda.get_device_name() for name in PEAKS):
        pytest.skip("its data sheet is not known here")
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        a @ a
    start.record()
    for _ in range(10):
        a @ a
    end.record()
    torch.cuda.synchronize()
    assert 0.3 < 10 * 2 * 8192**3 / (start.elapsed_time(end) / 1000) / peak_flops(DEVICE, "bf16", 1) < 1


def test_data_that_do_not_fit_come_through_a_loader(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.training.batches.RESIDENT_BYTES", 0)
    config = override(tiny, {"train.device": DEVICE, "train.precision": "fp32"})
    fetched = session(config, tmp_path / "fetched")
    monkeypatch.undo()
    resident: dict[str, Tensor] = session(config, tmp_path / "resident")
    assert all(torch.allclose(fetched[name], resident[name], rtol=1e-3, atol=1e-4) for name in resident)


def test_data_know_their_device() -> None:
    data: Data = load(EightGaussians())
    x = data.encode(tensor(data.train)[:8].to(DEVICE))
    assert x.device.type == DEVICE
    assert torch.allclose(data.decode(x).cpu().double(), tensor(data.train)[:8].double(), atol=1e-4)
