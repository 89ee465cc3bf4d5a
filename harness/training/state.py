"""The state of a training, as one mapping of tensors from which it resumes bit for bit."""

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
    """All that a training changes. Random streams are functions of seed and step, so they are not stored."""

    network: nn.Module
    averages: Averages
    optimizer: torch.optim.Optimizer
    objective: Objective
    data: Data
    meter: Meter
    guard: Guard
    rate_factor: float = 1.0
    """Factor of the learning rate, in (0, 1]; every divergence lowers it."""
    lowest_held_out_loss: float = math.inf
    """Lowest held-out loss of the averaged network so far."""

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors that sampling needs."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"averages/{name}": value for name, value in self.averages.tensors().items()}
        tensors |= {f"noise/{name}": value for name, value in self.objective.noise_state.items()}
        return tensors | {f"data/{name}": value for name, value in self.data.statistics.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that training needs to resume."""
        tensors = self._always()
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{name}": value for name, value in values.items()}
        return tensors

    def _always(self) -> dict[str, Tensor]:
        """Return the same tensors without the optimizer's: it has none before its first step."""
        numbers = torch.tensor([self.rate_factor, self.lowest_held_out_loss], dtype=torch.float64)
        running = {**self._running(), "numbers": numbers}
        return self.weights() | {f"trainer/{name}": value for name, value in running.items()}

    def fault(self, saved: Mapping[str, Tensor]) -> str | None:
        """Return why `load` cannot restore these tensors; None if it can."""
        weights = [(i, w.dim()) for i, group in enumerate(self.optimizer.param_groups) for w in group["params"]]
        kept: dict[str, set[str]] = {}
        for name in below(saved, "optimizer"):
            index, _, key = name.partition("/")
            kept.setdefault(index, set()).add(key)
        if unknown := kept.keys() - set(map(str, range(len(weights)))):
            return f"its optimizer has a weight {min(unknown)}, but the network has {len(weights)} weights"
        alike: dict[tuple[int, int], set[str]] = {}  # an optimizer may treat the matrices of a group differently
        for index, keys in kept.items():
            if keys != alike.setdefault(weights[int(index)], keys):
                return f"its optimizer lacks values for the weight {index} that it has for others"
        return differing({name: t for name, t in saved.items() if not name.startswith("optimizer/")}, self._always())

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Restore the tensors that `tensors` returned."""
        self.network.load_state_dict(below(saved, "network"))
        self.averages.load(below(saved, "averages"))
        self.objective.noise_state = below(saved, "noise")
        state: dict[int, dict[str, Any]] = {}
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name, value in below(saved, "optimizer").items():
            index, _, key = name.partition("/")
            weight = weights[int(index)]
            if value.shape == weight.shape:
                value = torch.empty_like(weight).copy_(value)  # in the weight's memory format, perhaps channels last
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        kept = below(saved, "trainer")
        for name, tensor in self._running().items():
            tensor.copy_(kept[name])
        self.rate_factor, self.lowest_held_out_loss = kept["numbers"].tolist()

    def _running(self) -> dict[str, Tensor]:
        """The sums and averages over steps, by their names in a checkpoint."""
        return {"scalars": self.meter.scalars, "bins": self.meter.bins, "usual": self.guard.usual}
