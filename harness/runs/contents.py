"""Types of the files in a run directory, and advice for damaged files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, FiniteFloat, PositiveFloat
from typing_extensions import TypedDict

WRITTEN_AGAIN = "Remove it, then run the command that trained the run, like `harness train`: it writes the file again."
"""Advice for a damaged config.json or environment.json."""
TRAINED = "Remove it, then run the command that trained the run: it continues from the last checkpoint."
"""Advice for a damaged diverged.json or pruned.json."""
EVALUATED = "Remove it, then run the command that evaluated the run, like `harness evaluate`: it measures again."
"""Advice for a damaged evaluation."""


NFE = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
"""Network calls per sample, as text: keys in JSON are strings."""
Ends = Annotated[list[float], Field(min_length=2, max_length=2)]
Steps = Annotated[int, Field(ge=0, lt=10**9)]


class Line(TypedDict, extra_items=float):  # type: ignore[call-arg]
    """A line of metrics.jsonl: step, time, and {metric: value}, which may be NaN or infinite."""

    step: Steps
    time: FiniteFloat
    """Unix seconds."""


class Calls(TypedDict):
    """Network calls per sample, over the samples."""

    mean: float
    sd: float


class Note(TypedDict):
    """A stored `NoValue` of `harness.core.errors`."""

    kind: Literal["Diverged", "Unsolvable"]
    reason: str


class Precise(TypedDict):
    """A value from more samples than `evaluate.num_samples`."""

    samples: int
    value: float
    interval: NotRequired[Ends]


class Evaluation(TypedDict, total=False):
    """evaluations/<protocol digest>.json, as `Run.evaluation` explains; files of earlier code lack some keys."""

    run: str
    protocol: dict[str, Any]
    values: dict[str, dict[NFE, float]]
    intervals: dict[str, dict[NFE, Ends]]
    precise: dict[str, dict[NFE, Precise]]
    seconds: dict[NFE, float]
    sampling_seconds: dict[NFE, float]
    time: dict[NFE, float]
    calls: dict[NFE, Calls]
    failures: dict[str, Note]
    commits: list[str]


class Named(TypedDict):
    """A component."""

    name: str


class Guided(TypedDict, total=False):
    """Guidance; empty without guidance."""

    scale: float


class Way(TypedDict):
    """The sampling settings of a protocol."""

    solver: Named
    guidance: Guided


class Elsewhere(TypedDict):
    """An evaluation under any other protocol than the requested one."""

    protocol: Way
    values: dict[str, dict[NFE, float]]
    time: dict[NFE, float]


class DeviceUse(TypedDict):
    """FLOPs per training sample, and the device's peak in FLOP/s."""

    flops_per_sample: float
    peak_flops: PositiveFloat


class Environment(TypedDict):
    """environment.json, without the facts that the run's name covers."""

    commits: list[str]
    graph: NotRequired[list[str]]
    """on: a CUDA graph took steps. off: a part of the training asked for no graph, or could not have one."""
    parameters: int
    weight_mean: float
    device_use: NotRequired[DeviceUse]
    data: NotRequired[dict[str, Any]]
    sources: NotRequired[dict[str, str]]


class Reason(TypedDict):
    """diverged.json and pruned.json."""

    reason: str


class Look(TypedDict):
    """A line of rungs.jsonl: values that a search measured before the end of a run."""

    step: Steps
    time: FiniteFloat
    protocol: str
    nfe: int
    values: dict[str, FiniteFloat]


def value_of(known: Mapping[str, Any], metric: str, nfe: int) -> float | None:
    """Return a metric's value at an NFE, as verdicts use it: from more samples if the settings ask for more.

    `known["values"]` have the same number of samples at every NFE. None if there is no value.
    """
    precise = known["precise"].get(metric, {}).get(str(nfe))
    return precise["value"] if precise else known["values"].get(metric, {}).get(str(nfe))
