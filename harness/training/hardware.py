"""Device settings of a training (precision, compilation, memory), and its use of the device's peak speed."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from harness.training.buffers import buffers_apart

PEAKS = {
    "GB200": 2500e12, "B200": 2250e12, "GH200": 989e12, "H200": 989e12, "H200 NVL": 835e12, "H100": 989e12,
    "H100 NVL": 835e12, "H100 PCIe": 756e12, "A100": 312e12, "A30": 165e12, "A10": 125e12, "L40S": 362e12,
    "L40": 181e12, "L4": 121e12, "T4": 65e12,
    "V100": 125e12, "V100 PCIe": 112e12, "RTX 4090": 165e12,
}  # fmt: skip
"""Dense bf16 (T4 and V100: fp16) operations per second in NVIDIA's data sheets, by the whole name of the model. tf32 is
half of it. The peak is measured for fp32, and for a model that is not listed, like a part of a device (MIG)."""
BOARDS = re.compile(r"NVIDIA|GeForce|Tesla|SXM\d*|\d+GB|HBM3e?", re.IGNORECASE)
"""Words of a device name that do not identify the model."""


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """A context in which a GPU rounds float32 to TF32 in matrix products and convolutions, or in neither.

    By default torch rounds only in convolutions.
    """
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


@contextmanager
def old_left_alone() -> Iterator[None]:
    """A context in which the garbage collector skips all older objects.

    To scan all objects that imports have made would delay a step by 0.2 s.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def autocast(chosen: Mapping[str, str]) -> torch.autocast:
    """Return a context for forward passes in the chosen precision."""
    return torch.autocast(chosen["device"], torch.bfloat16, enabled=chosen["precision"] == "bf16")


def compiled(network: nn.Module, mode: str) -> nn.Module:
    """Return the network compiled by torch.compile, with the same weights; unchanged if `mode` is off."""
    if mode == "off":
        return network
    fast: nn.Module = torch.compile(network, mode=mode)  # type: ignore[assignment]
    if mode != "default":  # modes with CUDA graphs write every output to the same place
        fast.register_forward_hook(lambda module, given, output: output.clone())
    return fast


def uncompiled(network: nn.Module) -> nn.Module:
    """Return the network that `compiled` was given: compiled code allows one backward pass for each forward pass."""
    inner: nn.Module = getattr(network, "_orig_mod", network)
    return inner


def has_tf32(device: str) -> bool:
    """Whether a device rounds products to TF32 where that is allowed: GPUs since Ampere do."""
    return device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)


def laid_out(network: nn.Module, shape: tuple[int, ...], channels_last: bool) -> nn.Module:
    """Return the network, in channels-last memory format if that is wanted and samples are images [C, H, W]."""
    return network.to(memory_format=torch.channels_last) if channels_last and len(shape) == 3 else network


def recomputing(network: nn.Module) -> nn.Module:
    """Return the network, changed so that the backward pass recomputes its blocks; their buffers change only once.

    The blocks are the members of its ModuleLists.
    """
    for blocks in [module for module in network.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            block.forward = partial(_computed_again, block, block.forward)
    return network


def _computed_again(block: nn.Module, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if torch.compiler.is_compiling():  # the compiler leaves changes of buffers out of the recomputation
        return checkpoint(forward, *given, use_reentrant=False, **named)
    return checkpoint(
        forward, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), buffers_apart(block)), **named
    )


def device_use(
    network: nn.Module, shape: tuple[int, ...], chosen: Mapping[str, str], threads: int, conditional: bool = False
) -> dict[str, float]:
    """Return `flops_per_sample`, the operations to train on a sample, and `peak_flops` of the device, per second."""
    peak = peak_flops(chosen["device"], chosen["precision"], threads)
    return {"flops_per_sample": training_flops(network, shape, chosen["device"], conditional), "peak_flops": peak}


def training_flops(network: nn.Module, shape: tuple[int, ...], device: str, conditional: bool = False) -> float:
    """Return the floating-point operations of a forward and a backward pass for one sample, by torch's formulas.

    Attention's recomputation in the backward pass is not counted. `conditional`: whether the network receives a class.
    The network's buffers stay as they were.
    """
    from torch.utils.flop_counter import FlopCounterMode

    weights = [w for w in network.parameters() if w.requires_grad]
    with buffers_apart(network), FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        told = (torch.zeros(2, dtype=torch.long, device=device),) if conditional else ()
        output = network(torch.zeros(2, *shape, device=device), torch.zeros(2, device=device), *told)
        torch.autograd.grad(output.sum(), weights, allow_unused=True)
    return counted.get_total_flops() / 2


@cache
def peak_flops(device: str, precision: str, threads: int) -> float:
    """Return the device's peak in operations per second: NVIDIA's number, or else that of a large matrix product."""
    if device == "cuda" and precision != "fp32":
        known = known_peak(torch.cuda.get_device_name())
        if known:
            return known / (2 if precision == "tf32" else 1)
    size = 8192 if device == "cuda" else 1024
    with matmul_precision(precision):
        a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
        return 2 * size**3 / min(_seconds(a) for _ in range(3))


def known_peak(device_name: str) -> float | None:
    """Return NVIDIA's number for a device by its CUDA name, like "NVIDIA A100-SXM4-80GB"; None if `PEAKS` has none."""
    model = " ".join(word for word in re.split(r"[\s-]+", device_name) if not BOARDS.fullmatch(word))
    model = re.sub("PCIE$", "PCIe", model)
    return PEAKS.get(model, PEAKS.get(model.removesuffix(" PCIe")))


def _seconds(a: torch.Tensor) -> float:
    started = time.perf_counter()
    (a @ a)[0, 0].item()
    return time.perf_counter() - started
