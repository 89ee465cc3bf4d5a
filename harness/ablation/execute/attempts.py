"""Number and title that all attempts at a trial share; every attempt except the last ended with its worker's death."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial


def number_of(trial: optuna.Trial | FrozenTrial) -> int:
    """Return the number of a trial's first attempt."""
    attributes: dict[str, Any] = trial.user_attrs
    return attributes.get("again", trial.number)


def title_of(trial: optuna.Trial | FrozenTrial) -> str:
    return f"trial {number_of(trial)}"
