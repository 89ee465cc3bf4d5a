"""The promises of components, family by family. `harness check` tries them on users' components."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from harness.core.config import digest, to_dict
from harness.core.errors import UserError
from harness.core.registry import Component, about, build
from harness.testing import of_evaluations, of_networks, of_objectives, of_samples
from harness.testing.probes import Promises, told


def promises(component: Component) -> list[tuple[str, bool]]:
    """Return every promise of a component's family, as (statement about the component, whether it is kept).

    An exception ends a family's promises and is one broken promise: a `UserError` in its words, another with the last
    promise that was tried before it, and the line of the user's file. A kept `Note` is for the user to read.
    """
    kept: list[tuple[str, bool]] = []
    for check in (_any, FAMILIES[component.family]):
        try:
            kept.extend(check(component))
        except UserError as error:  # names the place and the remedy
            kept.append((str(error), False))
        except (Exception, SystemExit) as error:  # whatever a user's component raises
            after = kept[-1][0] if kept else "the start"
            kept.append((f"after '{after}': {told(error, component)}", False))
    return kept


def _any(component: Component) -> Promises:
    plain = json.loads(json.dumps(to_dict(component)))
    said = about(type(component))
    again = build(component.family, plain)
    yield "the configuration is the same after it is written to JSON and read back", again == component
    yield (
        "the digest is the same after the configuration is written to JSON and read back",
        digest(again) == digest(component),
    )
    yield "the component is hashable, so it can be a dictionary key", len({component, again}) == 1
    yield "the class has a docstring", bool(said) and not said.startswith(f"{type(component).__name__}(")
    yield "the formula can be written out with the values of the fields", bool(component.written_out())


FAMILIES: dict[str, Callable[[Any], Promises]] = {
    "interpolant": of_objectives.interpolant,
    "prediction": of_objectives.prediction,
    "weighting": of_objectives.weighting,
    "loss": of_objectives.loss,
    "perceptual": of_objectives.perceptual,
    "time_sampler": of_objectives.time_sampler,
    "noise": of_objectives.noise,
    "coupling": of_objectives.coupling,
    "solver": of_samples.solver,
    "time_grid": of_samples.time_grid,
    "time_embedding": of_networks.time_embedding,
    "backbone": of_networks.backbone,
    "optimizer": of_networks.optimizer,
    "schedule": of_networks.schedule,
    "average": of_networks.average,
    "dataset": of_samples.dataset,
    "metric": of_evaluations.metric,
    "extractor": of_evaluations.extractor,
}
"""{family: the function that yields its promises}"""
