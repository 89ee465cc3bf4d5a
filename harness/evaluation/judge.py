"""Judges samples under one protocol: features once, every metric on them, against a cached reference."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.config import digest
from harness.data.base import Data
from harness.errors import Diverged
from harness.evaluation.fidelity import features, load_extractor
from harness.evaluation.protocol import EvaluateConfig, Protocol, num_reference
from harness.files import locked, results_folder, write_atomic
from harness.rng import stream


class Batch(NamedTuple):
    """Samples to be judged."""

    samples: Tensor
    """Decoded, on the CPU, [B, ...]."""
    classes: Tensor | None = None
    """The classes that they were asked to be of, int64 [B]."""


Watch = Callable[[Iterable[Batch], int], Iterable[Batch]]
"""Passes batches through and may show progress; the number is how many batches there will be."""


def unwatched(batches: Iterable[Batch], total: int) -> Iterable[Batch]:
    """No progress shown."""
    return batches


class Judge:
    """Metrics of samples against the training samples of a data set."""

    def __init__(self, config: EvaluateConfig, data: Data, device: str, watch: Watch = unwatched):
        self.config, self.data, self.device = config, data, device
        self.protocol = Protocol.of(config, data)
        self.extractor = None if config.extractor == "values" else load_extractor(config.extractor, device)
        self.reference = self._reference(watch)

    def __call__(self, batches: Iterable[Batch]) -> dict[str, float]:
        """{metric: value} of samples; `Diverged` when they or a value are not finite."""
        values, classes = self._features(batches)
        if not values.isfinite().all():
            raise Diverged("the samples cannot be judged: some are not finite.")
        summaries: dict[str, dict[str, np.ndarray]] = {}
        for metric in self.config.metrics:
            if metric.summary not in summaries:
                summaries[metric.summary] = metric.summarise(values, classes)
        scores = {m.name: m.compare(summaries[m.summary], self.reference[m.summary]) for m in self.config.metrics}
        if not all(map(math.isfinite, scores.values())):
            raise Diverged(f"the samples cannot be judged: {scores}.")
        return scores

    def resampled(self) -> Iterator[Batch]:
        """As many training samples as there are samples, drawn with replacement: what a perfect memory would score."""
        generator = stream(0, "resampled")
        return self._training(torch.randint(len(self.data.train), (self.config.num_samples,), generator=generator))

    def held_out(self) -> Iterator[Batch] | None:
        """As many samples that were never trained on: real against real. None where fewer are held out."""
        held, number = self.data.held_out, self.config.num_samples
        if len(held) < number or any(metric.needs_classes for metric in self.config.metrics):
            return None
        chosen = torch.randperm(len(held), generator=stream(0, "held out"))[:number].sort().values
        return (Batch(held[batch]) for batch in chosen.split(self.config.batch_size))

    def gaussian(self) -> Iterator[Batch]:
        """As many decoded samples of standard normal noise: what a model that learnt nothing would score."""
        for i, start in enumerate(range(0, self.config.num_samples, self.config.batch_size)):
            size = min(self.config.batch_size, self.config.num_samples - start)
            noise = torch.randn((size, *self.data.shape), generator=stream(0, "gaussian", i))
            yield Batch(
                self.data.decode(noise), self._classes(torch.randint(len(self.data.train), (size,), generator=stream(0, "classes", i)))
            )

    def _features(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor | None]:
        """Features (or values) float64 [N, ...] and classes [N] of all batches."""
        seen, classes = [], []
        for batch in batches:
            samples = batch.samples
            seen.append(samples.double() if self.extractor is None else features(self.extractor, samples, self.device))
            classes += [] if batch.classes is None else [batch.classes]
        return torch.cat(seen), torch.cat(classes) if classes else None

    def _reference(self, watch: Watch) -> dict[str, dict[str, np.ndarray]]:
        """Summaries of the training samples, computed by the first process that asks; those of features are kept on disk."""
        about = {key: getattr(self.protocol, key) for key in ("extractor", "weights", "reference")}
        folder = results_folder() / "local" / "references" / digest(about)
        wanted = {metric.summary: metric for metric in self.config.metrics}
        with locked(folder / "lock"):
            found = {name: _read_summary(folder / f"{name}.npz") for name in wanted}
            kept = {name: summary for name, summary in found.items() if summary is not None}
            if missing := wanted.keys() - kept.keys():
                chosen = torch.randperm(len(self.data.train), generator=stream(0, "reference"))
                batches = self._training(chosen[: num_reference(self.config, self.data)].sort().values)
                total = -(-num_reference(self.config, self.data) // self.config.batch_size)
                values, classes = self._features(watch(batches, total))
            for name in missing:
                kept[name] = wanted[name].summarise(values, classes)
                if self.extractor is not None:
                    _write_summary(folder / f"{name}.npz", kept[name])
        return kept

    def _training(self, indices: Tensor) -> Iterator[Batch]:
        return (Batch(self.data.train[batch], self._classes(batch)) for batch in indices.split(self.config.batch_size))

    def _classes(self, indices: Tensor) -> Tensor | None:
        return None if self.data.classes is None else self.data.classes[indices]


def _read_summary(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # absent or damaged: computed anew
        return None


def _write_summary(path: Path, summary: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, **summary)  # type: ignore[arg-type]
    write_atomic(path, content.getvalue())
