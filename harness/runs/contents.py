"""What the files of a run directory hold, and what to do about one that does not hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, FiniteFloat, PositiveFloat
from typing_extensions import TypedDict

WRITTEN_AGAIN = "Remove it, then run the command that trained the run, like `harness train`: it writes the file again."
"""What to do about a damaged config.json or environment.json."""
TRAINED = "Remove it, then run the command that trained the run: it goes on from the last checkpoint."
"""What to do about a damaged diverged.json or pruned.json."""
EVALUATED = "Remove it, then run the command that evaluated the run, like `harness evaluate`: it measures all again."
"""What to do about a damaged evaluation."""


NFE = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
"""How often the network was called for each sample, as a text: JSON has no other names."""
Ends = Annotated[list[float], Field(min_length=2, max_length=2)]
Steps = Annotated[int, Field(ge=0, lt=10**9)]


class Line(TypedDict, extra_items=float):  # type: ignore[call-arg]
    """A line of metrics.jsonl: when it was written, and what was measured, by name, which may be NaN or infinite."""

    step: Steps
    time: FiniteFloat
    """Unix seconds."""


class Calls(TypedDict):
    """The network's calls for a sample, over the samples."""

    mean: float
    sd: float


class Note(TypedDict):
    """A `NoValue` of `harness.core.errors`."""

    kind: Literal["Diverged", "Unsolvable"]
    reason: str


class Precise(TypedDict):
    """A value of more samples than `evaluate.num_samples`."""

    samples: int
    value: float
    interval: NotRequired[Ends]


class Evaluation(TypedDict, total=False):
    """evaluations/<protocol digest>.json, as `Run.evaluation` explains; earlier code left some out."""

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
    """Guidance; empty without."""

    scale: float


class Way(TypedDict):
    """How a protocol samples."""

    solver: Named
    guidance: Guided


class Elsewhere(TypedDict):
    """An evaluation under a protocol that nobody asked for."""

    protocol: Way
    values: dict[str, dict[NFE, float]]
    time: dict[NFE, float]


class DeviceUse(TypedDict):
    """How much of the device's arithmetic a training can use."""

    flops_per_sample: float
    peak_flops: PositiveFloat


class Environment(TypedDict):
    """environment.json, without the facts that the run's name covers."""

    commits: list[str]
    parameters: int
    weight_mean: float
    device_use: NotRequired[DeviceUse]
    data: NotRequired[dict[str, Any]]
    sources: NotRequired[dict[str, str]]


class Reason(TypedDict):
    """diverged.json and pruned.json."""

    reason: str


class Look(TypedDict):
    """A line of rungs.jsonl: what a search saw of a run before its end."""

    step: Steps
    time: FiniteFloat
    protocol: str
    nfe: int
    values: dict[str, FiniteFloat]


def value_of(known: Mapping[str, Any], metric: str, nfe: int) -> float | None:
    """What an evaluation knows of a metric at an NFE: of more samples where these are asked for, as verdicts take it.

    Its `values` are of equally many at every NFE.
    """
    precise = known["precise"].get(metric, {}).get(str(nfe))
    return precise["value"] if precise else known["values"].get(metric, {}).get(str(nfe))
