"""Scores of real samples and of Gaussian noise, to compare a judge's values with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import read_json_if_there, results_folder, write_json
from harness.core.reading import say_once
from harness.evaluation.judge import Judge, SampleBatch


def judge_references(judge: Judge, samples: int | None = None) -> dict[str, dict[str, float]]:
    """Return {"resampled" | "held_out" | "gaussian": {metric: value}} under a judge's protocol, cached on disk.

    Each is the score of `samples` samples, by default `evaluate.num_samples`. "held_out" is absent if fewer are held
    out.
    """
    number = samples or judge.config.num_samples
    path = results_folder() / "local" / "references" / f"{judge.protocol.digest}-{judge.decoding}-{number}.json"
    known = kept(path, dict[str, dict[str, float]])
    if not all(m.name in known.get("gaussian", {}) for m in judge.metrics):
        sets = {
            "resampled": judge.resampled(number),
            "held_out": judge.held_out(number),
            "gaussian": judge.gaussian(number),
        }
        known = {kind: _scores(judge, kind, batches, number) for kind, batches in sets.items() if batches is not None}
        write_json(path, known)
    return known


def kept(path: Path, shape: Any) -> dict[str, Any]:
    """Read a cached object of this shape; {} if the file is absent or damaged. Print a line if it is damaged."""
    try:
        return read_json_if_there(path, shape, "It is computed again.")
    except UserError as error:
        say_once(str(error))
        return {}


def _scores(judge: Judge, kind: str, batches: Iterable[SampleBatch], number: int) -> dict[str, float]:
    with judge.showing(batches, f"score of {kind.replace('_', ' ')} samples", number) as shown:
        return judge(shown)
