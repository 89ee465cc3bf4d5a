"""Judge of samples under one protocol: it extracts features once and scores them by every metric."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.core.arrays import read_arrays
from harness.core.config import digest
from harness.core.errors import Diverged, Stopped
from harness.core.files import locked, npz, results_folder, write_atomic
from harness.core.reading import Damaged, say_once
from harness.core.rng import stream
from harness.core.signals import Stop
from harness.data.base import Data
from harness.evaluation.decoder import load_decoder
from harness.evaluation.extractors import extractor_of, features, load_extractor
from harness.evaluation.kept import KeptRows, Rows
from harness.evaluation.metric import MOMENTS, Estimate, SampleMetric, Summary, reference_rows
from harness.evaluation.protocol import EvaluateConfig, Protocol, num_reference
from harness.evaluation.reference import read_reference


class SampleBatch(NamedTuple):
    """One batch of the samples to judge."""

    samples: Tensor
    """Decoded, [B, ...], on any device."""
    classes: Tensor | None = None
    """Requested classes, int64 [B]."""
    calls: int = 0
    """Network calls per sample."""
    seconds: float = 0.0
    """Time to generate the whole batch."""


ShowProgress = Callable[[Iterable[SampleBatch], str, int], Generator[SampleBatch, None, None]]
"""Passes batches through and shows how many have passed. Arguments: the batches, a title, the number of batches."""


def unshown(batches: Iterable[SampleBatch], title: str, total: int) -> Generator[SampleBatch, None, None]:
    """Pass batches through without showing progress."""
    yield from batches


class Judge:
    """Scores samples against a data set's training or held-out samples, or against a file of statistics.

    The reference's summaries are cached on disk. `ConfigError` if a metric cannot read the data.
    """

    def __init__(
        self, config: EvaluateConfig, data: Data, device: str,
        show_progress: ShowProgress = unshown, stop: Stop = lambda: False,
    ):  # fmt: skip
        self.config = config
        self.data = data
        self.device = device
        self.stop = stop
        self.show_progress = show_progress
        self.protocol = Protocol.of(config, data)
        self.metrics = config.sample_metrics
        self.extractor = None if extractor_of(config.extractor) is None else load_extractor(config.extractor, device)
        self.decoder = load_decoder(device) if self.protocol.decoder else None
        self.beside = torch.cuda.Stream() if device == "cuda" else None
        self.reference = self._reference()

    def __call__(self, batches: Iterable[SampleBatch]) -> dict[str, float]:
        """Return {metric: value} of samples; `Diverged` as in `estimates`."""
        return {name: found.value for name, found in self.estimates(batches, KeptRows())[0].items()}

    def showing(
        self, batches: Iterable[SampleBatch], title: str, samples: int
    ) -> contextlib.closing[Generator[SampleBatch, None, None]]:
        """Return a context that yields the batches and shows progress; `samples` is their total number of samples."""
        return contextlib.closing(self.show_progress(batches, title, -(-samples // self.config.batch_size)))

    def estimates(
        self, batches: Iterable[SampleBatch], kept: KeptRows, show: int = 0
    ) -> tuple[dict[str, Estimate], Rows]:
        """Return {metric: estimate} and the rows of all samples; these include the first `show` samples themselves.

        `batches` continues where `kept` ends. `Diverged` if a sample or a value is not finite.
        """
        rows = self.read(batches, kept, show)
        return self.scores(rows), rows

    def scores(self, rows: Rows) -> dict[str, Estimate]:
        """Return {metric: estimate} for the rows of all or the first samples; `Diverged` as in `estimates`."""
        if not rows["read"].isfinite().all():
            raise Diverged("the samples cannot be judged: some are not finite.")
        summaries = {metric.summary: metric for metric in self.metrics}
        known = {name: metric.summarise(*self._rows(metric, rows)) for name, metric in summaries.items()}
        scores = {m.name: m.estimate(known[m.summary], self.reference.get(m.reference_name, {})) for m in self.metrics}
        if not all(math.isfinite(score.value) for score in scores.values()):
            raise Diverged(
                f"the samples cannot be judged: { ({name: score.value for name, score in scores.items()}) }."
            )
        return scores

    def resampled(self, number: int | None = None) -> Iterator[SampleBatch]:
        """Return batches of `number` training samples drawn with replacement: the score of perfect memorisation.

        The default of `number` is `evaluate.num_samples`, here and in the methods below.
        """
        wanted = number or self.config.num_samples
        return self.training(torch.randint(len(self.data.train), (wanted,), generator=stream(0, "resampled")))

    def held_out(self, number: int | None = None) -> Iterator[SampleBatch] | None:
        """Return batches of `number` held-out samples with their classes; None if fewer are held out."""
        held = self.data.held_out
        number = number or self.config.num_samples
        if len(held) < number:
            return None
        return self.held_out_rows(torch.randperm(len(held), generator=stream(0, "held out"))[:number].sort().values)

    def gaussian(self, number: int | None = None) -> Iterator[SampleBatch]:
        """Yield batches of `number` decoded standard normal samples: the score of a model that learnt nothing."""
        number = number or self.config.num_samples
        for i, start in enumerate(range(0, number, self.config.batch_size)):
            size = min(self.config.batch_size, number - start)
            noise = torch.randn((size, *self.data.shape), generator=stream(0, "gaussian", i))
            yield SampleBatch(
                self.data.decode(noise),
                self._classes(torch.randint(len(self.data.train), (size,), generator=stream(0, "classes", i))),
            )

    @property
    def decoding(self) -> str:
        """Hash (6 hex digits) of decoded noise; it identifies the decoder, which the protocol does not cover."""
        batch = next(self.gaussian(2))
        return hashlib.sha256(batch.samples.numpy().tobytes()).hexdigest()[:6]

    def training(self, indices: Tensor) -> Iterator[SampleBatch]:
        """Return batches of the training samples at these indices, int64 [N]."""
        return (
            SampleBatch(self.data.train[batch], self._classes(batch))
            for batch in indices.split(self.config.batch_size)
            if len(batch)
        )

    def held_out_rows(self, indices: Tensor) -> Iterator[SampleBatch]:
        """Yield batches of the held-out samples at these indices, int64 [N]."""
        data = self.data
        for batch in indices.split(self.config.batch_size):
            classes = None if data.held_out_classes is None else data.held_out_classes[batch]
            if len(batch):
                yield SampleBatch(data.held_out[batch], classes)

    def read(self, batches: Iterable[SampleBatch], kept: KeptRows, show: int = 0) -> Rows:
        """Extract rows of all batches, append them to `kept` and return all; keep the first `show` samples themselves.

        A thread extracts the features of one batch while the next is generated. On `Stopped`, all rows so far are
        written to disk.
        """
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            waiting = None
            try:
                for batch in batches:
                    if self.stop():
                        raise Stopped("stopped while evaluating")
                    if self.beside:  # the extractor's stream does not wait for the sampler's
                        torch.cuda.current_stream().synchronize()
                    done = waiting
                    waiting = pool.submit(self._extract, batch, show)
                    show = max(0, show - len(batch.samples))
                    if done:
                        kept.add(done.result())
                    if self.config.precision == "tf32":  # sampling switches the whole process to it
                        waiting.result()
                if waiting:
                    kept.add(waiting.result())
            except Stopped:
                if waiting:
                    kept.add(waiting.result())
                kept.write()
                raise
        return kept.all()

    def _extract(self, batch: SampleBatch, show: int) -> Rows:
        """Extract the rows of a batch, on the CPU."""
        number = len(batch.samples)
        rows = {
            "calls": torch.full((number,), batch.calls),
            "seconds": torch.full((number,), batch.seconds / number, dtype=torch.float64),
        }
        if batch.classes is not None:
            rows["classes"] = batch.classes.cpu()
        if self.extractor is None:
            return {**rows, "read": batch.samples.cpu(), "shown": batch.samples[:show].cpu()}
        with torch.cuda.stream(self.beside):  # does nothing without a GPU
            images = batch.samples if self.decoder is None else self.decoder(batch.samples)
            found, logits = features(self.extractor, images, self.device)
            rows["read"] = found.cpu()
            if logits is not None and any(metric.reads == "logits" for metric in self.metrics):
                rows["logits"] = logits.cpu()
        return {**rows, "shown": batch.samples[:show].cpu()}

    def _rows(self, metric: SampleMetric, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Return what a metric reads: features, values or logits float64 [N, ...], and classes [N]."""
        return rows["logits" if metric.reads == "logits" else "read"].double(), rows.get("classes")

    def _reference(self) -> dict[str, Summary]:
        """Return {`SampleMetric.reference_name`: summary of the real samples}."""
        known = self._summaries("held_out", torch.arange(len(self.data.held_out)), self.held_out_rows)
        if self.config.reference:
            extractor = extractor_of(self.config.extractor)
            assert extractor is not None
            return known | {MOMENTS: read_reference(self.config.reference, extractor.dimensions)[1]}
        rows = reference_rows(self.data, num_reference(self.config, self.data))
        return known | self._summaries("training", rows, self.training)

    def _summaries(
        self, against: str, rows: Tensor, real: Callable[[Tensor], Iterator[SampleBatch]]
    ) -> dict[str, Summary]:
        """Return summaries of these real samples. The first process computes them; feature summaries stay on disk."""
        metrics = [m for m in self.metrics if m.reads != "logits" and m.against == against]
        if not (wanted := {metric.reference_name: metric.of_reference for metric in metrics}):
            return {}
        about = {key: getattr(self.protocol, key) for key in ("extractor", "weights", "reference", "version")}
        if self.protocol.decoder:
            about["decoder"] = self.protocol.decoder
        if against == "held_out":
            about["reference"] = self.data.fingerprint
        folder = results_folder() / "local" / "references" / digest(about)
        with locked(folder / "lock"):
            found = {n: self._kept_summary(folder / f"{n}.npz", m.summary, len(rows)) for n, m in wanted.items()}
            known: dict[str, Summary] = {name: summary for name, summary in found.items() if summary is not None}
            if missing := wanted.keys() - known.keys():
                rows_folder = folder / f"{against}-parts-{self.config.batch_size}"
                kept = KeptRows(None if self.extractor is None else rows_folder)
                left = rows[kept.batches * self.config.batch_size :]
                with self.showing(real(left), "features of the reference", len(left)) as batches:
                    read = self.read(batches, kept)
                for name in missing:
                    known[name] = wanted[name].summarise(*self._rows(wanted[name], read))
                    if self.extractor is not None:
                        write_atomic(folder / f"{name}.npz", npz(known[name]))
                kept.clear()
        return known

    def _kept_summary(self, path: Path, name: str, number: int) -> dict[str, np.ndarray] | None:
        """Read a summary from disk; None if the file is absent or damaged. Print a line if it is damaged."""
        if self.extractor is None or not path.exists():
            return None
        try:
            summary = read_arrays(path)
            self._require_fit(name, summary, number)
        except Damaged as error:
            say_once(f"{path}: is damaged ({error}) and is computed again.")
            return None
        return summary

    def _require_fit(self, name: str, summary: Summary, number: int) -> None:
        """Raise `Damaged` unless a summary has finite arrays of the expected shapes; skip a user's own summaries."""
        extractor = extractor_of(self.config.extractor)
        d = 0 if extractor is None else extractor.dimensions
        of_classes = {} if self.data.classes is None else {"classes": (number,)}
        shapes = {MOMENTS: {"mu": (d,), "sigma": (d, d)}, SampleMetric.summary: {"features": (number, d), **of_classes}}
        for part, shape in shapes.get(name, {}).items():
            array = summary.get(part)
            if array is None or array.shape != shape or array.dtype.kind not in "fi" or not np.isfinite(array).all():
                raise Damaged(f"it holds no {part} {list(shape)} of finite numbers")

    def _classes(self, indices: Tensor) -> Tensor | None:
        return None if self.data.classes is None else self.data.classes[indices]
