"""The operations of a training are counted by hand, and global settings of a training are restored after it."""

import gc
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from harness.training.hardware import compiled, known_peak, old_left_alone, peak_flops, training_flops, uncompiled


class Dense(nn.Module):
    """Layers of 3, 5 and 2 features."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.second = nn.Linear(5, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.second(self.first(x).relu() * t[:, None])


class Attention(nn.Module):
    """7 positions of width 4, one head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Image(nn.Module):
    """From 2 to 4 channels by 3 x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.convolution(x)


@pytest.mark.parametrize(
    ("network", "shape", "flops"),
    [
        (Dense(), (3,), 2 * (2 * 3 * 5 + 3 * 5 * 2)),  # the input needs no gradient
        (Image(), (2, 8, 8), 2 * 2 * (8 * 8 * 4 * 2 * 9)),
        (Attention(), (7, 4), 2 * 2 * (7 * 4 * 12) + 2 * 3 * 2 * (7 * 7 * 4)),
    ],
)
def test_operations_of_a_training_step_are_counted(network: nn.Module, shape: tuple[int, ...], flops: float) -> None:
    """A product of [n, k] and [k, m] takes 2nkm operations; its backward pass takes two more such products."""
    before = torch.get_rng_state()
    assert training_flops(network, shape, "cpu") == flops
    assert all(w.grad is None for w in network.parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_garbage_collection_skips_older_objects_until_training_ends() -> None:
    with old_left_alone():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


@pytest.mark.slow
def test_a_study_is_checked_without_torchs_compiler() -> None:
    """The import of the compiler takes two seconds, in which no worker would start."""
    asked = (
        "from harness.ablation.design.study import load_scale; from harness.runs.validate import check; "
        "check(load_scale('digits'))"
    )
    subprocess.run([sys.executable, "-c", f"{asked}; import sys; sys.exit('torch._dynamo' in sys.modules)"], check=True)


DATA_SHEETS = {
    "NVIDIA L40": 181, "NVIDIA L40S": 362, "NVIDIA L4": 121, "NVIDIA A10": 125, "NVIDIA A30": 165, "Tesla T4": 65,
    "NVIDIA A100-SXM4-80GB": 312, "NVIDIA A100-PCIE-40GB": 312, "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA H100 NVL": 835, "NVIDIA H200": 989,
    "NVIDIA H200 NVL": 835,
    "NVIDIA GH200 480GB": 989, "NVIDIA GH200 120GB": 989, "NVIDIA B200": 2250, "NVIDIA GB200": 2500,
    "Tesla V100-SXM2-16GB": 125, "Tesla V100-PCIE-32GB": 112, "NVIDIA GeForce RTX 4090": 165,
}  # fmt: skip
"""Names from CUDA, and dense teraflops of bf16 (T4, V100: fp16)."""
UNKNOWN = [
    "NVIDIA A10G", "NVIDIA A100X", "NVIDIA L400", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA L20",
    "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Quadro T400", "Tesla V100S-PCIE-32GB",
    "NVIDIA H20", "",
]  # fmt: skip


def test_outputs_that_cuda_graphs_write_to_one_place_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two outputs does not change; the default mode has no graphs."""
    place = torch.zeros(2)

    class Graphed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return place.copy_(x)

    monkeypatch.setattr(torch, "compile", lambda network, mode: Graphed())
    for mode, kept in (("reduce-overhead", 1.0), ("max-autotune", 1.0), ("default", 2.0)):
        fast = compiled(nn.Identity(), mode)
        first = fast(torch.full((2,), 1.0))
        fast(torch.full((2,), 2.0))
        assert first.tolist() == [kept, kept], mode
    assert isinstance(compiled(network := nn.Identity(), "off"), nn.Identity)
    assert compiled(network, "off") is network


def test_a_compiled_network_leads_back_to_the_network() -> None:
    network = nn.Identity()
    assert uncompiled(network) is uncompiled(compiled(network, "default")) is network


def test_peaks_use_the_whole_name_of_a_model() -> None:
    for name, teraflops in DATA_SHEETS.items():
        assert known_peak(name) == pytest.approx(teraflops * 1e12), name
    for name in UNKNOWN:
        assert known_peak(name) is None, name


def test_the_peak_of_a_known_model_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L40")
    peak_flops.cache_clear()
    assert (peak_flops("cuda", "bf16", 1), peak_flops("cuda", "tf32", 1)) == (181e12, 90.5e12)
    peak_flops.cache_clear()
