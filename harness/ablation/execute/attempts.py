"""What the attempts at a trial share, of which each but the last ended by its worker's death."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial


def number_of(trial: optuna.Trial | FrozenTrial) -> int:
    """A trial's number; that of the first attempt where a worker died of it."""
    attributes: dict[str, Any] = trial.user_attrs
    return attributes.get("again", trial.number)


def title_of(trial: optuna.Trial | FrozenTrial) -> str:
    return f"trial {number_of(trial)}"
