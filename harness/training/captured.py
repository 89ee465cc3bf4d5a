"""Steps as one CUDA graph: the GPU records the kernels of a step once, and repeats them without waiting for launches.

The graph reads the batch (or the task) and the learning rate from fixed tensors, and draws from generators that every
step seeds anew, so its steps are those without a graph. The averages and the meter stay outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.core.rng import seed_layers, stream_seed
from harness.flow.objective import Task
from harness.training.batches import StoredBatch
from harness.training.diagnostics import MEMORY, Taken
from harness.training.graphs import WARM_UP, record

if TYPE_CHECKING:
    from harness.training.stepper import Stepper

Input = StoredBatch | Task
"""The data of a step, or all that is drawn for it."""


class Captured:
    """Takes steps: as they are written, or by a graph once one is recorded."""

    def __init__(self, stepper: Stepper, wanted: bool):
        self._stepper = stepper
        self._wanted = wanted
        self._first = 0
        self._input: Input | None = None
        self._repeat: Callable[[], Taken] | None = None
        if stepper.device == "cuda" and "capturable" in stepper.state.optimizer.defaults:
            for group in self._groups:  # float32 without a graph too, so that both give the same weights
                group["lr"] = torch.zeros((), device=stepper.device)

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._stepper.state.optimizer.param_groups  # a checkpoint replaces the list

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        for group in self._groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def begin(self, step: int) -> None:
        """Prepare for steps from `step` on: at the start, and once a checkpoint is loaded, which replaces tensors."""
        self._repeat = None
        self._first = max(MEMORY, step + WARM_UP)
        if self._wanted and (why := obstacle(self._stepper)):
            self._wanted = False
            self._stepper.say(f"train.graph: steps go without a CUDA graph: {why}.")
        if self._stepper.ranks.first and not self._wanted:
            self._stepper.note("graph", "off")
        for group in self._groups if self._wanted else ():
            group["capturable"] = True

    def __call__(self, step: int, given: Input) -> Taken:
        """Take a step on a stored batch or a task; the streams are seeded for it."""
        if not self._wanted or step < self._first:
            return self._stepper.take(step, given)
        if self._repeat is None:
            self._record(step, given)
        assert self._repeat is not None
        assert self._input is not None
        for fixed, new in zip(self._input, given, strict=True):
            if isinstance(fixed, Tensor) and isinstance(new, Tensor):
                fixed.copy_(new)
        taken = self._repeat()
        scalars = tuple(value.clone() for value in taken.scalars)  # the next step writes to the same place
        seconds = given.coupling_seconds if isinstance(given, Task) else 0.0
        return Taken(scalars, [(errors.clone(), t.clone()) for errors, t in taken.samples], seconds)

    def _record(self, step: int, given: Input) -> None:
        """Record a step. The recording does not change the weights."""
        stepper = self._stepper
        tensors: dict[str, Any] = {
            name: value.clone() for name, value in given._asdict().items() if isinstance(value, Tensor)
        }
        fixed = given._replace(**tensors)
        self._repeat = record(lambda: stepper.take(step, fixed), stepper.streams.generators.values())
        self._input = fixed
        stepper.note("graph", "on")
        seed_layers(stream_seed(stepper.seed, "layers", step), stepper.device)
        stepper.streams.begin(step)


def obstacle(stepper: Stepper) -> str | None:
    """Return why a GPU cannot record the steps of a training; None if nothing is known."""
    if stepper.device != "cuda":
        return f"it trains on the {stepper.device}"
    if stepper.config.steps <= MEMORY:
        return f"its {stepper.config.steps} steps end before one is recorded"
    if stepper.ranks.number > 1:
        return "several processes train it"
    if stepper.chosen["compile"] not in ("off", "default"):
        return f"train.compile={stepper.chosen['compile']} has graphs of its own"
    if "capturable" not in stepper.state.optimizer.defaults:
        return f"optimizer {stepper.config.optimizer.name} is not capturable"
    objective = stepper.state.objective
    f = objective.formulation
    drawing = () if stepper.ahead else f.drawing
    parts = (*drawing, f.interpolant, f.prediction, f.weighting, f.loss, objective.perceptual)
    waiting = [part for part in parts if part is not None and part.waits]
    return f"{waiting[0].family} {waiting[0].name} computes outside of the GPU" if waiting else None
