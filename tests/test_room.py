"""Estimates of memory are never above the measurement, and a run that cannot fit is refused before anything is made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typed import tensor

from harness.ablation.design.study import load_scale
from harness.cli import main
from harness.components.backbones.base import Backbone, Network
from harness.core import memory
from harness.core.checkpoint import checkpoints
from harness.core.config import override
from harness.core.errors import ConfigError, UserError
from harness.core.files import results_folder
from harness.core.memory import free_bytes
from harness.data.base import load
from harness.evaluation.footprint import judging_needs
from harness.evaluation.judge import Judge
from harness.runs import room
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.room import require_room, require_workers
from harness.runs.train import train
from harness.runs.validate import check
from harness.training.footprint import activations, checkpoint_bytes, guess, weightless

GB = 10**9
Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """`machine(gigabytes)` has this much free memory; `files` {path below /: text} may add facts."""

    def made(gigabytes: float, **files: str) -> None:
        meminfo = f"MemTotal: 999999999 kB\nMemAvailable: {round(gigabytes * GB / 1024)} kB\nSwapFree: 0 kB\n"
        for name, text in {"proc/meminfo": meminfo, **files}.items():
            (place := tmp_path / "machine" / name).parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        monkeypatch.setattr(memory, "PROC", tmp_path / "machine" / "proc")
        monkeypatch.setattr(memory, "GROUPS", tmp_path / "machine" / "groups")

    return made


def test_free_memory_is_that_of_the_machine_or_of_its_groups(machine: Machine) -> None:
    machine(8)
    assert free_bytes() == pytest.approx(8 * GB, abs=1024)
    machine(8, **{"proc/meminfo": "MemAvailable: 1000 kB\nSwapFree: 500 kB\nHugePages_Total: 0\n"})
    assert free_bytes() == 1500 * 1024
    own = {"proc/self/cgroup": "0::/user/job\n", "groups/user/job/memory.max": "max\n"}
    own |= {"groups/user/job/memory.current": "1\n", "groups/user/memory.max": "5000000\n"}
    own |= {"groups/user/memory.current": "4000000\n"}
    machine(8, **own, **{"groups/user/memory.stat": "anon 77\ninactive_file 30000\nactive_file 4000\n"})
    assert free_bytes() == 5_000_000 - 4_000_000 + 34_000
    old = {"proc/self/cgroup": "9:name=systemd:/\n4:memory:/lxc\n0::/\n", "groups/memory/lxc/memory.stat": ""}
    limit = {"groups/memory/lxc/memory.limit_in_bytes": "700\n", "groups/memory/lxc/memory.usage_in_bytes": "100\n"}
    machine(8, **old, **limit, **{"proc/meminfo": "MemAvailable: 1000 kB\n"})
    assert free_bytes() == 600


def test_a_system_without_this_information_refuses_nothing(machine: Machine, tiny: RunConfig) -> None:
    machine(8, **{"proc/meminfo": ""})
    assert free_bytes() == math.inf
    require_room(override(tiny, {"evaluate.num_samples": GB}))


def test_this_machine_has_some() -> None:
    assert 1e8 < free_bytes() < 1e14


def saved(network: nn.Module, given: list[Tensor]) -> int:
    """Return the bytes that autograd keeps of a real forward pass, without weights."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(*given)
    assert output.grad_fn
    return sum(storage.nbytes() for storage in kept.values())


NETWORKS: list[tuple[dict[str, Any], tuple[int, ...], int]] = [
    ({"name": "unet", "preset": "digits", "dropout": 0.1}, (1, 8, 8), 0),
    ({"name": "unet", "channels": 16, "attention": [8, 4], "head_channels": 8}, (3, 8, 8), 10),
    ({"name": "ncsnpp", "channels": 16, "filter": "fir", "progressive_input": "residual"}, (3, 8, 8), 0),
    ({"name": "dit", "preset": "digits"}, (1, 8, 8), 10),
    ({"name": "transformer", "width": 32, "depth": 3}, (16, 6), 0),
    ({"name": "mlp", "time_embedding": "learned", "dropout": 0.5}, (20,), 3),
]


@pytest.mark.parametrize(("backbone", "shape", "classes"), NETWORKS, ids=str)
def test_activations_are_counted_without_values(
    backbone: dict[str, Any], shape: tuple[int, ...], classes: int, tiny: RunConfig
) -> None:
    config = override(tiny, {"backbone": backbone}).backbone
    network = config.build(shape, classes)
    given = [torch.randn(16, *shape), torch.rand(16), *([torch.zeros(16, dtype=torch.long)] if classes else [])]
    real = saved(network, given)
    counted = activations(config, shape, classes, 16, False)
    assert 0.75 * real < counted <= real
    assert guess(weightless(config, shape, classes), 16, shape) > real
    assert activations(config, shape, classes, 32, False) == pytest.approx(2 * counted, rel=0.02)


def test_recomputed_blocks_keep_less(tiny: RunConfig) -> None:
    blocks = override(tiny, {"backbone": {"name": "mlp", "blocks": 6}}).backbone
    assert activations(blocks, (9,), 0, 64, True) < 0.5 * activations(blocks, (9,), 0, 64, False)


@dataclass(frozen=True, kw_only=True)
class Looking(Backbone):
    """A plugin's backbone that reads the values of its weights."""

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        return LookingModule()


class LookingModule(Network):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return x * torch.from_numpy(self.weight.detach().numpy())


def test_a_network_that_cannot_be_run_without_values_is_not_counted() -> None:
    assert activations(Looking(), (2,), 0, 4, False) == 0


def test_a_checkpoint_is_as_large_as_estimated(tiny: RunConfig) -> None:
    config = override(tiny, {"backbone.channels": 48, "train.steps": 2, "train.more_ema_decays": [0.5]})
    run = Run.of(config)
    train(run, lambda text: None, lambda: False)
    network = weightless(config.backbone, run.data.shape, 0)
    size = checkpoints(run.folder / "checkpoints")[0].stat().st_size
    assert 0.9 * size < checkpoint_bytes(config.train, network) <= size


def test_an_evaluation_keeps_as_much_as_estimated(tiny: RunConfig) -> None:
    """Features [N, 64] in 32 and in 64 bits, and values uint8 [N, 1, 8, 8] in 8 and in 64 bits."""
    data = load(tiny.dataset)
    judge = Judge(tiny.evaluate, data, "cpu")
    rows = judge.estimates(judge.resampled(), judge_kept())[1]["read"]
    assert judging_needs(tiny.evaluate, data)[0].bytes == rows.nbytes + rows.double().nbytes
    values = override(tiny, {"evaluate.extractor": "values", "evaluate.metrics": ["mmd"]}).evaluate
    assert judging_needs(values, data)[0].bytes == 512 * (64 + 8 * 64)  # the reference is eight times as large
    assert judging_needs(values, data)[1].bytes == 2 * 8 * 512**2
    assert judging_needs(override(tiny, {"evaluate.metrics": ["straightness"]}).evaluate, data) == []


def judge_kept() -> Any:
    from harness.evaluation.kept import KeptRows

    return KeptRows()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("digits", {"backbone.channels": 4096}, "backbone.channels: training needs "),
    ("digits", {"backbone.multipliers": [1, 256]}, "backbone.multipliers: training needs "),
    ("digits_dit", {"backbone.depth": 200, "backbone.width": 4096}, "backbone.depth: training needs "),
    ("points", {"backbone.width": 16_384}, "backbone.width: training needs "),
    (
        "digits",
        {"backbone.channels": 256, "train.more_ema_decays": [i / 1000 for i in range(1, 500)]},
        "train.more_ema_decays: training needs ",
    ),
    ("digits", {"backbone.channels": 512, "train.batch_size": 1280}, "train.batch_size: training needs "),
    (
        "points",
        {"dataset.number": 100_000, "train.batch_size": 50_000, "coupling": "exact_ot"},
        "train.batch_size: training needs 40 GB of memory at least, 40 GB of it for pairing 50000 samples",
    ),
    ("digits", {"evaluate.num_samples": GB}, "evaluate.num_samples: an evaluation needs 768 GB"),
    (
        "points",
        {"dataset.number": 200_000, "evaluate.num_reference": 100_000},
        "evaluate.num_reference: an evaluation needs 160 GB of memory at least, 160 GB of it for the data of ",
    ),
    (
        "points",
        {"evaluate.metrics": [{"name": "curvature", "samples": 10**8}]},
        "evaluate.metrics[0]: sampling needs 104 GB of memory at least",
    ),
    ("digits", {"evaluate.batch_size": 40_000_000, "evaluate.num_samples": 40_000_000}, "evaluate.batch_size: samp"),
]


@pytest.mark.parametrize(("scale", "changes", "said"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_run_that_cannot_fit_is_refused_by_the_setting_to_lower(
    scale: str, changes: dict[str, Any], said: str, machine: Machine
) -> None:
    machine(8)
    config = override(load_scale(scale), changes)
    check(config)
    with pytest.raises(UserError) as caught:
        require_room(config)
    line = str(caught.value)
    assert line.startswith(said)
    assert "but 8 GB are free. Lower " + said.partition(":")[0] in line
    assert not results_folder().exists()


def test_a_run_that_fits_is_accepted(machine: Machine) -> None:
    """The measured peak of each is below 4 GB."""
    machine(4)
    cifar10 = dict(load_scale("cifar10").backbone.presets["torchcfm-cifar10"])
    for scale, changes in (
        ("digits", {}),
        ("digits", {"backbone": {"name": "unet", **cifar10, "multipliers": [1, 2], "attention": [8]}}),
        ("digits", {"train.batch_size": 1280, "train.more_ema_decays": [i / 100 for i in range(1, 50)]}),
        ("digits_dit", {"backbone.width": 512}),
        ("points", {"dataset.number": 1_000_000, "evaluate.num_samples": 10_000, "train.batch_size": 100_000}),
        ("points", {"train.batch_size": 5000, "coupling": "exact_ot"}),
        ("sequences", {}),
    ):
        config = override(load_scale(scale), changes)
        check(config)
        require_room(config)
        require_workers([(config, 5)], 2, 0, "--workers")


def test_workers_count(machine: Machine, tiny: RunConfig) -> None:
    machine(8)
    large = override(tiny, {"backbone.channels": 320})
    require_room(large)
    with pytest.raises(UserError, match=r"^--workers: 100 at a time need 1[5-9]\.?\d* GB .* free\. Take 5\d or fewer"):
        require_workers([(tiny, 5)], 100, 0, "--workers")
    with pytest.raises(UserError, match=r"^--workers: 40 at a time need .* Take [1-3]\d or fewer\.$"):
        require_workers([(large, 40)], 40, 0, "--workers")
    require_workers([(large, 1), (tiny, 20)], 20, 0, "--workers")


def test_a_gpu_holds_the_training_and_the_machine_a_checkpoint(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    config = override(tiny, {"backbone.channels": 320, "train.device": "cuda"})
    resident = tensor(load(config.dataset).train).nbytes
    for gpu, main_memory, said in (
        (0.01, 100, r"^backbone\.channels: training needs .* of memory on the GPU at least"),
        (100, 0.01, r"^backbone\.channels: training needs .* of memory at least, .* for a checkpoint, "),
    ):
        free = {"cuda": gpu * GB, "cpu": main_memory * GB}
        for module in (memory, room):
            monkeypatch.setattr(module, "free_bytes", lambda device="cpu", free=free: free[device])
        with pytest.raises(UserError, match=said):
            require_room(config)
    free = {"cuda": 2.0 * GB, "cpu": 100.0 * GB}
    monkeypatch.setattr(memory, "free_bytes", lambda device="cpu": free[device])
    needs = room._training(config)
    assert next(need.bytes for need in needs if need.path == "dataset") == resident
    lasting = sum(need.bytes for need in needs if not need.passing)
    most = int(2 * GB / lasting)
    require_workers([(config, 40)], 2 * most, 2, "--workers")
    with pytest.raises(
        UserError, match=rf"^--workers: {most + 1} at a time need .* on the GPU .* Take {most} or fewer"
    ):
        require_workers([(config, 40)], 2 * (most + 1), 2, "--workers")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "data gaussian_mixture --set number=10000000 --set dimensions=100000",
            "error: dataset.dimensions: the data set gaussian_mixture needs 12 TB of memory at least",
        ),
        ("data moons --set number=1000000000", "error: dataset.number: the data set moons needs 16 GB"),
        ("train --scale digits --set backbone.channels=8192", "error: backbone.channels: training needs "),
        ("ablate weighting --workers 1000", "error: --workers: 1000 at a time need 15"),
        ("ablate weighting --set backbone.channels=8192", "error: arm 'uniform': backbone.channels: training needs "),
        (
            "tune tuning --workers 1 --set backbone.channels=8192",
            "error: space, train.learning_rate=0.002: backbone.channels: training needs ",
        ),
    ],
)
def test_commands_refuse_in_one_line_and_make_nothing(
    command: str, said: str, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(8)
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
    assert not list(results_folder().rglob("config.json"))


def test_a_run_is_judged_only_where_its_samples_fit(
    machine: Machine, tiny: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(8)
    run = Run.of(tiny)
    run.describe(print)
    for path, said in (("num_samples", "an evaluation needs "), ("batch_size", "sampling needs ")):
        more = [f"evaluate.{name}={GB}" for name in {path, "num_samples"}]
        assert main(["evaluate", run.name, *(word for change in more for word in ("--set", change))]) == 2
        assert capsys.readouterr().err.startswith(f"error: evaluate.{path}: {said}")


def test_a_scale_of_the_gallery_that_cannot_fit_is_left_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.cli.gallery.with_reference", lambda *_: pytest.fail("it went on"))
    machine(0.001)
    assert main(["gallery", "digits"]) == 2
    assert re.match(r"digits is left out: [\w.]+: training needs .* MB of memory", capsys.readouterr().out)


def test_pairs_are_counted_against_the_disk(tiny: RunConfig, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(8)
    disk = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=10**6))
    monkeypatch.setattr("harness.runs.pairs.shutil", disk)
    require_room(override(tiny, {"reflow.rounds": 1, "reflow.number": 1000}))
    with pytest.raises(UserError, match=r"^reflow\.number: 10,000 pairs of 512 bytes need 0\.00512 GB more in "):
        require_room(override(tiny, {"reflow.rounds": 1, "reflow.number": 10_000}))


def test_windows_are_counted_before_they_are_cut(tmp_path: Path, machine: Machine) -> None:
    import numpy as np

    np.savez(tmp_path / "long.npz", series=np.random.default_rng(0).normal(size=(40_000, 20)))
    series = {"name": "time_series", "path": str(tmp_path / "long.npz"), "held_out": 0.5}
    machine(8)
    with pytest.raises(UserError, match=r"^dataset\.window: the series cut into windows needs 24 GB .* 10001 windows"):
        load(override(load_scale("sequences"), {"dataset": series | {"window": 10_000}}).dataset)
    fitting = series | {"window": 10_000, "stride": 1000}
    assert len(load(override(load_scale("sequences"), {"dataset": fitting}).dataset).train) == 11


def test_a_folder_is_counted_at_its_resolution_before_a_picture_is_decoded(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, tiny: RunConfig
) -> None:
    for i in range(40):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i}.png")
    changes = {"dataset": {"name": "image_folder", "path": str(tmp_path), "size": 13_000}, "evaluate.metrics": ["mmd"]}
    config = override(tiny, {**changes, "evaluate.extractor": "values"})
    machine(8)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("a picture was decoded"))
    with pytest.raises(
        UserError,
        match=r"^dataset\.size: training needs [\d.]+ TB .* for a batch of 32 .* and 36 samples for comparison",
    ):
        require_room(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_trained(tiny: RunConfig) -> None:
    asked = override(tiny, {"train.device": "cuda"})
    assert Run.of(asked).name != Run.of(tiny).name  # a login node knows the names of a node's runs
    for refused in (lambda: require_room(asked), lambda: train(Run.of(asked), print, lambda: False)):
        with pytest.raises(ConfigError, match=r"^train\.device: torch finds no GPU on this machine\. Set "):
            refused()
    assert not (Run.of(asked).folder / "metrics.jsonl").exists()
