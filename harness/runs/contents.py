"""What the files of a run directory hold, and what to do about one that does not hold it."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from harness.core.config import Positive, Range
from harness.core.errors import Note
from harness.core.reading import Measured, Only

WRITTEN_AGAIN = "Remove it, then run the command that trained the run, like `harness train`: it writes the file again."
"""What to do about a damaged config.json or environment.json."""
TRAINED = "Remove it, then run the command that trained the run: it goes on from the last checkpoint."
"""What to do about a damaged diverged.json or pruned.json."""
EVALUATED = "Remove it, then run the command that evaluated the run, like `harness evaluate`: it measures all again."
"""What to do about a damaged evaluation."""


NFE = Annotated[str, Only("an NFE", lambda text: text.isdecimal() and len(text) < 10)]
"""How often the network was called for each sample, as a text: JSON has no other names."""
Ends = Annotated[list[float], Only("a pair", lambda ends: len(ends) == 2)]


class Step(TypedDict):
    """When a line of metrics.jsonl was written."""

    step: Annotated[int, Range(0)]
    time: float
    """Unix seconds."""


Line = Annotated[Step, dict[str, Measured]]
"""A line of metrics.jsonl: what was measured, by name."""


class Calls(TypedDict):
    """The network's calls for a sample, over the samples."""

    mean: float
    sd: float


class Evaluation(TypedDict, total=False):
    """evaluations/<protocol digest>.json, as `Run.evaluation` explains; earlier code left some out."""

    run: str
    protocol: dict[str, Any]
    values: dict[str, dict[NFE, float]]
    intervals: dict[str, dict[NFE, Ends]]
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
    peak_flops: Positive


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

    step: Annotated[int, Range(0)]
    time: float
    protocol: str
    nfe: int
    values: dict[str, float]
