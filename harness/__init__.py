"""An ablation lab for flow matching. These names are for notebooks; each is imported on first use.

>>> from harness import RunConfig, Study, build, load_run, names
>>> names("coupling")
['class_conditional_ot', 'exact_ot', 'independent', 'pairs', 'sinkhorn']
>>> build("weighting", {"name": "min_snr", "gamma": 3})
MinSNR(gamma=3.0)
>>> study = Study(question="Which weighting?", baseline="even", arms={"even": {}, "edm": {"weighting": "edm"}})
>>> sorted(study.arms)
['edm', 'even']
>>> run = load_run(RUN)  # STUDY/ARM/SEED, the name of a folder in results/local/runs, or the path of a run's folder
>>> isinstance(run.config, RunConfig), run.finished
(True, True)
>>> losses = [line["loss"] for line in run.metrics() if "loss" in line]

`report = run_study(study)` trains a study's arms and compares them, as docs/first_study.ipynb shows.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.ablation.design.search import Search
    from harness.ablation.design.study import Study
    from harness.cli.in_python import run_study
    from harness.core.registry import build, names
    from harness.runs.config import RunConfig
    from harness.runs.export import load_network
    from harness.runs.folder import Run

__all__ = ["RunConfig", "Search", "Study", "build", "load_network", "load_run", "names", "run_study"]

_HOMES = {
    "RunConfig": "harness.runs.config",
    "Search": "harness.ablation.design.search",
    "Study": "harness.ablation.design.study",
    "build": "harness.core.registry",
    "load_network": "harness.runs.export",
    "names": "harness.core.registry",
    "run_study": "harness.cli.in_python",
}
"""{public name: its module}"""


def load_run(name: str | Path, changes: Mapping[str, Any] | None = None) -> Run:
    """Return an existing run, by STUDY/ARM/SEED, its name or the path of its directory; `changes` set `evaluate.*`.

    `UserError` unless the folder's name follows from its configuration.
    """
    from harness.ablation.design.addresses import find_run

    return find_run(str(name)).opened(changes or {})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__]
