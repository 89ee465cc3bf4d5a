"""What a judge's values are read beside: what real samples and Gaussian noise score."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import read_json_if_there, results_folder, write_json
from harness.core.reading import say_once
from harness.evaluation.judge import Judge, SampleBatch


def judge_references(judge: Judge) -> dict[str, dict[str, float]]:
    """{"resampled" | "held_out" | "gaussian": {metric: value}} under a judge's protocol; computed once and kept."""
    path = results_folder() / "local" / "references" / f"{judge.protocol.digest}.json"
    known = _known(path)
    if not all(m.name in known.get("gaussian", {}) for m in judge.metrics):
        sets = {"resampled": judge.resampled(), "held_out": judge.held_out(), "gaussian": judge.gaussian()}
        known = {kind: _scores(judge, kind, batches) for kind, batches in sets.items() if batches is not None}
        write_json(path, known)
    return known


def _known(path: Path) -> dict[str, dict[str, float]]:
    """What is kept; nothing where the file is damaged, which is said."""
    try:
        return read_json_if_there(path, dict[str, dict[str, float]], "It is computed again.")
    except UserError as error:
        say_once(str(error))
        return {}


def _scores(judge: Judge, kind: str, batches: Iterable[SampleBatch]) -> dict[str, float]:
    with judge.showing(batches, f"score of {kind.replace('_', ' ')} samples", judge.config.num_samples) as shown:
        return judge(shown)
