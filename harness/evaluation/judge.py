"""Judges images under one protocol: features once, every metric on them, against a cached reference."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import digest
from harness.data.base import Data
from harness.errors import Diverged
from harness.evaluation.fidelity import extract, load_extractor
from harness.evaluation.protocol import EvaluateConfig, Protocol, num_reference
from harness.files import locked, results_folder, write_atomic
from harness.rng import stream

Summary = dict[str, np.ndarray]
Watch = Callable[[Iterable[Tensor], int], Iterable[Tensor]]
"""Passes batches through and may show progress; the number is how many batches there will be."""


def unwatched(batches: Iterable[Tensor], total: int) -> Iterable[Tensor]:
    """No progress shown."""
    return batches


class Judge:
    """Metrics of images against the training images of a data set."""

    def __init__(self, config: EvaluateConfig, data: Data, device: str, watch: Watch = unwatched):
        self.config, self.data, self.device = config, data, device
        self.protocol = Protocol.of(config, data)
        self.extractor = load_extractor(config.extractor, device)
        self.reference = self._reference(watch)

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """{metric: value} of uint8 images, given in batches [B, C, H, W]; `Diverged` when one is not finite."""
        features = extract(self.extractor, batches, self.device)
        values = {m.name: m.compare(m.summarise(features), self.reference[m.name]) for m in self.config.metrics}
        if not all(map(math.isfinite, values.values())):
            raise Diverged(f"the samples cannot be judged: {values}.")
        return values

    def resampled(self) -> Iterator[Tensor]:
        """As many training images as there are samples, drawn with replacement: what a perfect model would score."""
        generator = stream(0, "resampled")
        return self._training_images(torch.randint(len(self.data.train), (self.config.num_samples,), generator=generator))

    def gaussian(self) -> Iterator[Tensor]:
        """As many images of standard normal noise, clipped to [-1, 1]: what a model that learnt nothing would score."""
        for i, start in enumerate(range(0, self.config.num_samples, self.config.batch_size)):
            size = min(self.config.batch_size, self.config.num_samples - start)
            yield self.data.decode(torch.randn((size, *self.data.shape), generator=stream(0, "gaussian", i)))

    def _reference(self, watch: Watch) -> dict[str, Summary]:
        """Summaries of the training images, computed by the first process that asks and kept on disk."""
        about = {key: getattr(self.protocol, key) for key in ("extractor", "weights", "reference")}
        folder = results_folder() / "local" / "references" / digest(about)
        with locked(folder / "lock"):
            found = {m.name: _read_summary(folder / f"{m.name}.npz") for m in self.config.metrics}
            kept = {name: summary for name, summary in found.items() if summary is not None}
            missing = [m for m in self.config.metrics if m.name not in kept]
            if missing:
                chosen = torch.randperm(len(self.data.train), generator=stream(0, "reference"))
                images = self._training_images(chosen[: num_reference(self.config, self.data)].sort().values)
                total = -(-num_reference(self.config, self.data) // self.config.batch_size)
                features = extract(self.extractor, watch(images, total), self.device)
            for metric in missing:
                kept[metric.name] = metric.summarise(features)
                _write_summary(folder / f"{metric.name}.npz", kept[metric.name])
        return kept

    def _training_images(self, indices: Tensor) -> Iterator[Tensor]:
        return (self.data.train[batch] for batch in indices.split(self.config.batch_size))


def _read_summary(path: Path) -> Summary | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # absent or damaged: computed anew
        return None


def _write_summary(path: Path, summary: Summary) -> None:
    content = io.BytesIO()
    np.savez(content, **summary)  # type: ignore[arg-type]
    write_atomic(path, content.getvalue())
