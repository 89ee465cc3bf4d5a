"""Build the configurations of a study's arms from their settings, and find the metrics and NFEs that they measure."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Mapping, Sequence
from typing import Any

from harness.ablation.design.crossing import Settings
from harness.core.config import ConfigError, override, to_dict
from harness.core.registry import build
from harness.runs.config import RunConfig
from harness.runs.validate import refuse_guided_twice, refuse_unreached


def configured(
    base: RunConfig, changes: Mapping[str, Any], settings: Mapping[str, Settings], metrics: Sequence[str],
    skippable: Container[str] = (),
) -> tuple[dict[str, RunConfig], dict[str, str]]:  # fmt: skip
    """Return {arm: configuration}, and {arm: reason} for `skippable` arms whose settings are invalid.

    `ConfigError` if the settings of another arm are invalid.
    """
    arms = {}
    left_out = {}
    for name, own in settings.items():
        try:
            config = measured(override(base, own), metrics)
            refuse_guided_twice({**changes, **own}, config)
            refuse_unreached({**changes, **own}, config)
        except ConfigError as error:
            if name not in skippable:
                raise error.below(f"arm '{name}'") from None
            left_out[name] = str(error)
        else:
            arms[name] = config
    return arms, left_out


def measured(config: RunConfig, metrics: Sequence[str]) -> RunConfig:
    """Return the configuration plus each of `metrics` that it lacks and that is defined for it.

    For example, metrics of a flow are undefined for a distilled network.
    """
    known = {metric.name for metric in config.evaluate.metrics}
    for metric in [build("metric", name) for name in metrics if name not in known]:
        with contextlib.suppress(ConfigError):
            config = override(config, {"evaluate.metrics": [*config.evaluate.metrics, metric]})
    return config


def points(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Return {metric: NFEs at which a configuration measures it}."""
    places = config.evaluate.places
    return {name: tuple(nfe for metric, nfe in places if metric == name) for name, _ in places}


def nfe_of(metric: str, config: RunConfig, otherwise: int) -> int:
    """Return the NFE of a metric of the flow, which does not depend on `evaluate.nfe`; `otherwise` for the others."""
    return next((m.nfe for m in config.evaluate.flow_metrics if m.name == metric), otherwise)


def varied(base: RunConfig, changes: Mapping[str, Any]) -> dict[str, str]:
    """Return the changes that results depend on, {path: value as text}.

    The number of threads is left out: it belongs to the machine, not to the question.
    """
    out = {}
    for path, value in changes.items():
        with contextlib.suppress(ConfigError):  # this change may need another one
            if to_dict(override(base, {path: value}), digested=True) == to_dict(base, digested=True):
                continue
        if path != "train.threads":
            out[path] = str(value)
    return out


def refuse_replaced(study: str, settings: Mapping[str, Settings], changes: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a change that every arm replaces, or that the study sets itself."""
    for path in changes:
        if path == "seed":
            raise ConfigError("seed", "a study sets its seeds itself. Use --seeds N.")
        if all(any(path == own or path.startswith(own + ".") for own in arm) for arm in settings.values()):
            raise ConfigError(path, f"every arm of '{study}' replaces it, so it would change nothing. Leave it out.")
