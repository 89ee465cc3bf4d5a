"""The memory that a training needs: a lower bound, part by part, counted on networks without weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness.components.averages import WIDTHS
from harness.components.backbones.base import Backbone, Network
from harness.components.couplings import Coupling
from harness.core.config import largest_path
from harness.core.errors import ConfigError
from harness.core.memory import Need
from harness.data.base import Data
from harness.training.batches import RESIDENT_BYTES
from harness.training.config import TrainConfig
from harness.training.hardware import recomputing

FUSED = 0.25
"""Smallest share of the counted activations that torch.compile keeps; it recomputes the rest."""
HALF = 0.5
"""Smallest share of the counted bytes that bf16 keeps; some layers stay in float32."""
LAYERS = 4
"""Largest number of tensors that a module keeps, to guess whether activations are worth counting."""


@functools.lru_cache(maxsize=64)
def weightless(backbone: Backbone, shape: tuple[int, ...], num_classes: int) -> Network:
    """Return a backbone's network on torch's meta device, without values; `ConfigError` if it does not fit the data."""
    try:
        with torch.device("meta"):
            return backbone.build(shape, num_classes)
    except ConfigError as error:
        raise error.below("backbone") from None


def training_needs(
    config: TrainConfig, backbone: Backbone, coupling: Coupling, data: Data, num_classes: int, ranks: int, free: float
) -> list[Need]:
    """Return the parts that a training holds on its device at the same time, at the largest of the counted moments.

    Activations are counted only if they might not fit into `free` bytes. Each of several ranks takes its share of a
    batch.
    """
    network = weightless(backbone, data.shape, num_classes)
    chosen = config.resolved()
    weights = weights_of(network)
    averages = kept_averages(config)
    moments = config.optimizer.moments if config.steps > 1 else 0
    share = -(-config.batch_size // (config.accumulate * ranks))
    activated = 0.0
    if (1 + moments + averages) * weights <= free < guess(network, share, data.shape):
        activated = activations(backbone, data.shape, num_classes, share, config.recompute)
        activated *= (HALF if chosen["precision"] == "bf16" else 1) * (FUSED if chosen["compile"] != "off" else 1)
    batch = 8 * config.batch_size * math.prod(data.shape)
    place = largest_path(backbone, "backbone")
    moment = [
        Need(place, "the gradient", weights, True),
        Need("train.batch_size", f"a batch of {config.batch_size} and its activations", batch + activated, True),
        Need("train.batch_size", f"pairing {config.batch_size} samples", coupling.held_bytes(config.batch_size), True),
    ]
    if chosen["device"] == "cpu":
        most = place if averages <= 1 + moments else "train.more_ema_decays"
        moment.append(Need(most, "the gradient and a checkpoint", weights + checkpoint_bytes(config, network), True))
    resident = data.train.nbytes if isinstance(data.train, Tensor) and chosen["device"] == "cuda" else 0
    return [
        Need(place, f"the weights and {moments} moments of each", (1 + moments) * weights),
        Need("train.more_ema_decays", f"{averages} averages of the weights", averages * weights),
        max(moment, key=lambda need: need.bytes),
        Need("dataset", "the training samples", resident if resident <= RESIDENT_BYTES else 0),
    ]


def checkpoint_bytes(config: TrainConfig, network: nn.Module) -> int:
    """Return the bytes that the last checkpoint takes while it is written, beside the training itself."""
    return (1 + kept_averages(config) + config.optimizer.moments) * weights_of(network)


def weights_of(network: nn.Module) -> int:
    """Return the bytes of a network's parameters."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def kept_averages(config: TrainConfig) -> int:
    """Return the number of averages of the weights that a training keeps."""
    return len(config.decays) + len(WIDTHS if config.snapshot_every else ())


def guess(network: nn.Module, batch: int, shape: tuple[int, ...]) -> float:
    """Return an upper bound of a batch's activation bytes: `LAYERS` tensors, as wide as the widest, per module."""
    widest = max((max(p.shape[:2]) for p in network.parameters() if p.ndim), default=1)
    places = math.prod(shape[1:]) if len(shape) == 3 else math.prod(shape[:-1])
    return 4.0 * LAYERS * batch * len([*network.modules()]) * widest * places


@functools.lru_cache(maxsize=64)
def activations(backbone: Backbone, shape: tuple[int, ...], num_classes: int, batch: int, recompute: bool) -> float:
    """Return the bytes, without weights, that a float32 forward pass of a batch keeps for the backward pass.

    Each storage counts once. 0 for a network that cannot run without values.
    """
    with torch.device("meta"):
        network = backbone.build(shape, num_classes).train()
        given = [torch.empty(batch, *shape), torch.empty(batch)]
        given += [torch.empty(batch, dtype=torch.long)] if num_classes else []
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    kept = dict[int, Any]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # keeps it alive until all are counted: no id is used twice
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Attention():
            (recomputing(network) if recompute else network)(*given)
    except Exception:  # a plugin's network that reads its values may raise anything
        return 0.0
    return float(sum(storage.nbytes() for storage in kept.values()))


class Attention(TorchFunctionMode):
    """A context in which attention keeps only what the fastest kernels do: queries, keys, values and its output."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        queries, keys, values, *_ = args
        return Fused.apply(queries, keys, values)


class Fused(torch.autograd.Function):
    """A stand-in for attention: the shape of its output, and the tensors that it keeps for the gradient."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        *batch, heads, length, _ = queries.shape
        output = queries.new_empty(*batch, length, heads, values.shape[-1]).transpose(-2, -3)
        ctx.save_for_backward(queries, keys, values, output)
        return output
