"""All that a training changes, as one mapping of tensors: what it is resumed from, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.checkpoint import below
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
        tensors = self.weights()
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{name}": value for name, value in values.items()}
        numbers = torch.tensor([self.rate_factor, self.lowest_held_out_loss], dtype=torch.float64)
        return tensors | {f"trainer/{name}": value for name, value in {**self._running(), "numbers": numbers}.items()}

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
