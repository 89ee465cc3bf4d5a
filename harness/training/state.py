"""All that a training changes, as one mapping of tensors: what it is resumed from, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.checkpoint import below, differing
from harness.data.base import Data
from harness.flow.objective import Objective
from harness.training.diagnostics import Guard, Meter
from harness.training.ema import Averages


@dataclass
class State:
    """What a training holds. Random streams are functions of seed and step, and need no place here."""

    network: nn.Module
    averages: Averages
    optimizer: torch.optim.Optimizer
    objective: Objective
    data: Data
    meter: Meter
    guard: Guard
    rate_factor: float = 1.0
    """What divergences have left of the learning rate."""
    lowest_held_out_loss: float = math.inf
    """So far, of the averaged network."""

    def weights(self) -> dict[str, Tensor]:
        """What sampling needs."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"averages/{name}": value for name, value in self.averages.tensors().items()}
        tensors |= {f"noise/{name}": value for name, value in self.objective.noise_state.items()}
        return tensors | {f"data/{name}": value for name, value in self.data.statistics.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What going on needs."""
        tensors = self._always()
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{name}": value for name, value in values.items()}
        return tensors

    def _always(self) -> dict[str, Tensor]:
        """The same without the optimizer's, which has none before its first step."""
        numbers = torch.tensor([self.rate_factor, self.lowest_held_out_loss], dtype=torch.float64)
        running = {**self._running(), "numbers": numbers}
        return self.weights() | {f"trainer/{name}": value for name, value in running.items()}

    def fault(self, saved: Mapping[str, Tensor]) -> str | None:
        """Why `load` cannot put tensors back; None where it can."""
        weights = [(i, w.dim()) for i, group in enumerate(self.optimizer.param_groups) for w in group["params"]]
        kept: dict[str, set[str]] = {}
        for name in below(saved, "optimizer"):
            index, _, key = name.partition("/")
            kept.setdefault(index, set()).add(key)
        if unknown := kept.keys() - set(map(str, range(len(weights)))):
            return f"its optimizer has a weight {min(unknown)}, and the network {len(weights)} of them"
        alike: dict[tuple[int, int], set[str]] = {}  # a group's matrices may be changed by a rule of their own
        for index, keys in kept.items():
            if keys != alike.setdefault(weights[int(index)], keys):
                return f"its optimizer knows less of the weight {index} than of others"
        return differing({name: t for name, t in saved.items() if not name.startswith("optimizer/")}, self._always())

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.network.load_state_dict(below(saved, "network"))
        self.averages.load(below(saved, "averages"))
        self.objective.noise_state = below(saved, "noise")
        state: dict[int, dict[str, Any]] = {}
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name, value in below(saved, "optimizer").items():
            index, _, key = name.partition("/")
            weight = weights[int(index)]
            if value.shape == weight.shape:
                value = torch.empty_like(weight).copy_(value)  # in the weight's order, perhaps with channels last
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        kept = below(saved, "trainer")
        for name, tensor in self._running().items():
            tensor.copy_(kept[name])
        self.rate_factor, self.lowest_held_out_loss = kept["numbers"].tolist()

    def _running(self) -> dict[str, Tensor]:
        """The sums and averages over steps, by their names in a checkpoint."""
        return {"scalars": self.meter.scalars, "bins": self.meter.bins, "usual": self.guard.usual}
