"""Attempts at a trial: the number and title that they share. All but the last ended with their worker's death."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial


def number_of(trial: optuna.Trial | FrozenTrial) -> int:
    """Return the number of a trial's first attempt."""
    attributes: dict[str, Any] = trial.user_attrs
    return attributes.get("again", trial.number)


def title_of(trial: optuna.Trial | FrozenTrial) -> str:
    return f"trial {number_of(trial)}"


def last_written(folder: Path) -> float:
    """Return the time of the last write of training or evaluation in a run directory, in Unix time; 0 if none."""
    last = 0.0
    for pattern in ("*.jsonl", "checkpoints/*", "evaluations/*"):
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # another command works there
                last = max(last, path.stat().st_mtime)
    return last
