"""The pictures on a study's page: samples of its arms, and how they were made from other flows."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from harness.ablation.design.plan import Plan
from harness.core.errors import UserError, in_a_line
from harness.core.progress import duration
from harness.core.reading import bytes_of, say_once
from harness.runs.folder import Run
from harness.runs.lineage import Link, lineage

LARGEST = 720
"""Longest side of a picture on the page, in pixels; a larger one is reduced to it."""


@dataclass(frozen=True)
class Samples:
    """The picture of an arm's samples."""

    arm: str
    told: str
    """The NFE of the samples, or why there is no picture."""
    address: str
    """The picture as a data URI; empty if there is none."""


@dataclass(frozen=True)
class Step:
    """A link of a lineage, ready for the page."""

    link: Link
    cost: str
    address: str
    """Its picture as a data URI; empty if there is none."""


def samples(plan: Plan) -> list[Samples]:
    """Return each arm's samples of the first seed, at the primary NFE or at the nearest one with a picture."""
    seed = plan.seeds[0]
    out = []
    for arm in plan.arms:
        digest = plan.protocol(arm).digest
        found = plan.run(arm, seed).folder.glob(f"samples/{digest}-nfe-*.png")
        by_nfe = {int(end): path for path in found if (end := path.stem.rpartition("-")[2]).isdecimal()}
        if not by_nfe:
            out.append(Samples(arm, f"no picture: seed {seed} has no samples under this protocol", ""))
            continue
        nfe = min(sorted(by_nfe), key=lambda nfe: abs(nfe - plan.nfe))
        address = embedded(by_nfe[nfe])
        told = f"NFE {nfe or 'adaptive'}" if address else f"no picture: {by_nfe[nfe].name} cannot be read"
        out.append(Samples(arm, told, address))
    return out


def chains(plan: Plan) -> dict[str, list[Step]]:
    """Return {arm: its lineage} at the first seed, for arms made from another flow.

    An arm that is part of another arm's lineage is left out, and an arm whose files are damaged.
    """
    runs = {arm: plan.run(arm, plan.seeds[0]) for arm in plan.arms}
    above = {run.name for run in runs.values() for run in _above(run)}
    out = {}
    for arm, run in runs.items():
        if run.parent is not None and run.name not in above:
            try:
                out[arm] = [_step(link) for link in lineage(run)]
            except UserError as error:  # a damaged file of an ancestor
                say_once(str(error))
    return out


def _above(run: Run) -> Sequence[Run]:
    """Return the ancestors of a run."""
    return [] if run.parent is None else [run.parent, *_above(run.parent)]


def _step(link: Link) -> Step:
    cost = "" if math.isnan(link.seconds) else duration(link.seconds)
    return Step(link, cost, embedded(link.picture) if link.picture else "")


def embedded(path: Path) -> str:
    """Return a PNG as a data URI, at most `LARGEST` pixels long; empty if it cannot be read."""
    try:
        content = bytes_of(path)
        picture: Image.Image = Image.open(io.BytesIO(content), formats=["PNG"])
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        say_once(f"{path}: cannot be read ({in_a_line(error)}). It is left out.")
        return ""
    if max(picture.size) > LARGEST:
        picture = picture.convert("RGB")
        picture.thumbnail((LARGEST, LARGEST))
        picture.save(reduced := io.BytesIO(), "png")
        content = reduced.getvalue()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
