"""A network in bf16 beside the float32 one, so that a step rounds all weights in one call."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn

from harness.training.buffers import buffers_apart

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weights autocast rounds to bf16; a subclass may use them in another way."""


class Rounded:
    """A copy of a network for forward passes under autocast to bf16, which has the same outputs and gradients.

    The weights of `LAYERS` are bf16 copies. All other weights and buffers are the network's own.
    """

    def __init__(self, network: nn.Module):
        shared = {id(value): value for value in (*network.parameters(), *network.buffers())}
        layers = [module for module in network.modules() if type(module) in LAYERS]
        uses = Counter(id(weight) for module in network.modules() for weight in module.parameters(recurse=False))
        self.weights: list[Tensor] = [
            weight
            for module in layers
            for weight in module.parameters(recurse=False)
            if weight.dtype == torch.float32 and uses[id(weight)] == 1
        ]
        """The weights that have copies."""
        self._copies: list[Tensor] = [
            nn.Parameter(weight.detach().bfloat16(), requires_grad=weight.requires_grad) for weight in self.weights
        ]
        copied = {id(weight): own for weight, own in zip(self.weights, self._copies, strict=True)}
        self.network = copy.deepcopy(network, {**shared, **copied})

    @torch.no_grad()
    def agrees(self, network: nn.Module, *given: Tensor) -> bool:
        """Whether the copy has the network's output under autocast, for x [B, ...], times [B] and perhaps classes [B].

        It has not if a network leaves autocast for a layer, or computes with a layer's weight by itself.
        """
        training = network.training
        outputs = list[Tensor]()
        with torch.autocast(given[0].device.type, torch.bfloat16):
            for each in (network, self.network):
                with buffers_apart(each.eval()):
                    try:
                        outputs.append(each(*given))
                    except RuntimeError:  # products of float32 and bf16
                        return False
                    finally:
                        each.train(training)
        return torch.equal(*outputs)

    @torch.no_grad()
    def round(self) -> None:
        """Set the bf16 weights to the rounded weights of the network."""
        if self._copies:
            torch._foreach_copy_(self._copies, self.weights)

    @torch.no_grad()
    def move_gradients(self) -> None:
        """Add the gradients of the bf16 weights to those of the network's weights, and clear them."""
        pairs = [(w, own) for w, own in zip(self.weights, self._copies, strict=True) if own.grad is not None]
        if not pairs:
            return
        gradients = [torch.empty_like(weight) for weight, _ in pairs]
        torch._foreach_copy_(gradients, [own.grad for _, own in pairs if own.grad is not None])
        for (weight, own), gradient in zip(pairs, gradients, strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
            own.grad = None
