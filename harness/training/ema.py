"""Averages of the weights during training: exponential ones, and power-function ones for post-hoc EMA."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.components.averages import Term, ema_name, gamma_of, power_name
from harness.core.checkpoint import below, checkpoints, differing, read_intact, step_of
from harness.core.errors import UserError


class Averages:
    """Running averages of a network's weights, updated together.

    Buffers are copied, because running statistics are averages already. An average of decay d keeps the share
    min(d, (n - 1) / (n + 9)) of itself at the n-th update. So the first update copies the weights, and a short run
    averages over about its last tenth and forgets its initialisation. Without `warmup` it keeps d from the first update
    on. A power-function average keeps the share
    (1 - 1/n)^(gamma + 1) (Karras et al. 2024, eq. 127), so that its length is a share of the training.
    """

    def __init__(self, network: nn.Module, decays: Sequence[float], widths: Sequence[float] = (), warmup: bool = True):
        self._source = network
        self._warmup = warmup
        self._weights: list[Tensor] = list(network.parameters())
        self._keep = {ema_name(d): d for d in decays} | {power_name(w): -gamma_of(w) - 1 for w in widths}
        self._averages = {name: [w.detach().clone() for w in self._weights] for name in self._keep}
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        """A copy of the network with the weights of the first average, or with the trained weights if there is none."""
        shown = next(iter(self._averages.values()), [w.detach() for w in self._weights])
        for weight, average in zip(self.network.parameters(), shown, strict=True):
            weight.data = average
        self._buffers = [
            (copied, module, name)
            for copied, module in zip(self.network.modules(), network.modules(), strict=True)
            for name, _ in module.named_buffers(recurse=False)
        ]

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Update the averages after optimizer step n, counted from 1."""
        most = (n - 1) / (n + 9) if self._warmup else 1.0
        for name, averages in self._averages.items():
            kept = self._keep[name]
            decay = min(kept, most) if kept >= 0 else (1 - 1 / n) ** -kept
            torch._foreach_lerp_(averages, self._weights, 1 - decay)
        self._copy_buffers()

    @torch.no_grad()
    def put_back_buffers(self, bad: Tensor) -> None:
        """Restore the network's buffers from the last update if `bad` is 1, so that a skipped step changes nothing."""
        for copied, module, name in self._buffers:
            new = getattr(module, name)
            new.copy_(torch.where(bad > 0, getattr(copied, name), new))

    @torch.no_grad()
    def distance(self) -> Tensor:
        """Return |first average - weights| / |weights|, a scalar."""
        shown: list[Tensor] = list(self.network.parameters())
        apart = torch.stack(torch._foreach_norm(torch._foreach_sub(shown, self._weights))).norm()
        return apart / torch.stack(torch._foreach_norm(self._weights)).norm()

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages as {average/weight name: value}."""
        named = ((name, zip(self._names(), weights, strict=True)) for name, weights in self._averages.items())
        return {f"{name}/{key}": value for name, pairs in named for key, value in pairs}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors that `tensors` returned."""
        for key, value in self.tensors().items():
            value.copy_(tensors[key])
        self._copy_buffers()

    def snapshot(self) -> dict[str, Tensor]:
        """Return the power-function averages, for `combine`."""
        return {key: value for key, value in self.tensors().items() if key.startswith("power-")}

    def _copy_buffers(self) -> None:
        for copied, module, name in self._buffers:
            getattr(copied, name).copy_(getattr(module, name))

    def _names(self) -> Iterator[str]:
        return (name for name, _ in self._source.named_parameters())


def combine(
    saved: Mapping[str, Tensor], snapshots: Path, terms: Sequence[Term], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the sum of `terms`, from a checkpoint or a folder of snapshots, with one snapshot in memory at a time.

    Raises `UserError` if a snapshot is damaged, or does not have the names and shapes of `weights`.
    """
    if len(terms) == 1 and terms[0].step is None:
        return below(saved, terms[0].name)
    paths = {step_of(path): path for path in checkpoints(snapshots)}
    total = dict[str, Tensor]()
    for step, of_step in itertools.groupby(terms, key=lambda term: term.step):
        tensors = read_intact(paths[step or 0], "cpu")
        for term in of_step:
            if tensors is None or differing(below(tensors, term.name), weights):
                said = "is damaged" if tensors is None else "does not fit the run"
                raise UserError(f"{paths[step or 0]}: {said}. Choose evaluate.average=ema, or train the run again.")
            for name, value in below(tensors, term.name).items():
                total[name] = total.get(name, torch.zeros((), dtype=torch.float64)) + term.share * value.double()
    return {name: value.float() for name, value in total.items()}
