"""Where a run comes from, and what each ancestor cost: the data, the flow trained on them, its pairs, and so on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import read_json, write_atomic
from harness.core.reading import say_once
from harness.core.registry import find
from harness.evaluation.flow_metrics import FlowMetric
from harness.evaluation.protocol import Protocol, digest_of, guidance_of
from harness.runs.contents import EVALUATED, Elsewhere
from harness.runs.folder import Run


@dataclass(frozen=True)
class Link:
    """One thing in a lineage."""

    kind: str
    """data, flow, pairs or distilled."""
    title: str
    place: str
    """Its folder; empty for the data."""
    facts: tuple[str, ...]
    """How it was made, and how good it is."""
    seconds: float
    """What it cost; NaN where that is not known."""
    picture: Path | None = None
    """Its samples."""


def lineage(run: Run) -> list[Link]:
    """From the data to `run`, whose `evaluate` says by which protocol all are looked at.

    A teacher is looked at with the guidance of its pairs, or else without it. A flow that has no values so shows its
    last evaluation.
    """
    protocol = run.config.protocol()
    return [*_above(run, protocol), _flow(run, protocol)]


def _above(run: Run, protocol: Protocol) -> list[Link]:
    if run.parent is None:
        return [_data(run)]
    guided = dataclasses.replace(protocol, guidance=guidance_of(run.config.pairs_sampling.guidance))
    return [*_above(run.parent, protocol), _flow(run.parent, guided, protocol), _pairs(run)]


def _data(run: Run) -> Link:
    dataset = run.config.dataset
    found = run.data.fingerprint
    return Link(
        "data", dataset.name, "", (f"{found['train']:,} training samples", f"sha256 {found['sha256']}"), math.nan
    )


def _pairs(run: Run) -> Link:
    pairs = run.pairs
    reflow = run.config.reflow
    scale = run.config.pairs_sampling.guidance.scale
    guided = f", guidance {scale:g}" if scale != 1 else ""
    facts = [f"by {reflow.solver.name} at NFE {reflow.nfe or 'of its own'}{guided}"]
    if not pairs.about:
        return Link("pairs", f"{pairs.done:,} of {pairs.number:,} pairs", str(pairs.folder), tuple(facts), math.nan)
    rate = pairs.about["pairs_per_second"]
    facts += [f"{pairs.number * pairs.about['calls']:,.0f} calls", f"{rate:,.0f} pairs a second"]
    return Link("pairs", f"{pairs.number:,} pairs", str(pairs.folder), tuple(facts), pairs.number / rate)


def _flow(run: Run, *protocols: Protocol) -> Link:
    config = run.config
    known = _known(run, protocols)
    facts = [f"{run.steps_done:,} of {config.train.steps:,} steps of {config.train.batch_size}"]
    for name, values in known["values"].items():
        at = sorted(values, key=int)
        shown = at if issubclass(find("metric", name), FlowMetric) else [*at[:1], *at[1:][-1:]]
        facts += [f"{name} {', '.join(f'{values[nfe]:.3g} at NFE {nfe}' for nfe in shown)}"]
    facts += [f"sampled by {_way(known['protocol'])}"] if known["values"] else []
    pictures = sorted(run.folder.glob(f"samples/{digest_of(known['protocol'])}-nfe-*.png"))
    kind = "distilled" if config.reflow.distil else "flow"
    return Link(
        kind, config.title, str(run.folder), tuple(facts), training_seconds(run), pictures[0] if pictures else None
    )


def _known(run: Run, protocols: Sequence[Protocol]) -> dict[str, Any]:
    """The evaluation of a flow under the first of these protocols that it has values under, or else its last."""
    for protocol in protocols:
        if (known := run.evaluation(protocol))["values"]:
            return known
    found = [known, *_intact(sorted(run.folder.glob("evaluations/*.json")))]
    return max(found, key=lambda known: max(known["time"].values(), default=0.0))


def _intact(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """What evaluations say; a damaged one is said and passed over."""
    for path in paths:
        try:
            yield read_json(path, Elsewhere, f"It is passed over. {EVALUATED}")
        except UserError as error:
            say_once(str(error))


def _way(protocol: Mapping[str, Any]) -> str:
    """Solver and guidance of a protocol."""
    scale = protocol["guidance"].get("scale", 1)
    return protocol["solver"]["name"] + (f", guidance {scale:g}" if scale != 1 else "")


def training_seconds(run: Run) -> float:
    """What the steps in metrics.jsonl took, without looks and checkpoints; NaN where there are none."""
    spent = 0.0
    last = 0
    for line in run.metrics():
        if "samples_per_second" in line:
            spent += (line["step"] - last) * run.config.train.batch_size / line["samples_per_second"]
            last = line["step"]
        elif "learning_rate_factor" in line:  # where training went back to
            last = line["step"]
    return spent if last else math.nan


def described(link: Link) -> str:
    """A link in a few lines for the terminal."""
    cost = "" if math.isnan(link.seconds) else f"  {_duration(link.seconds)}"
    return "\n".join([f"[bold]{link.title}[/bold]{cost}", *link.facts, *([link.place] if link.place else [])])


def draw(links: list[Link], path: Path) -> None:
    """The chain as a PNG, from left to right, each flow with samples at its smallest NFE."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread
    from matplotlib.patches import FancyBboxPatch

    from harness.core.drawing import COLOURS, png

    colours = {"data": COLOURS[7], "flow": COLOURS[0], "pairs": COLOURS[2], "distilled": COLOURS[1]}
    figure = Figure(figsize=(2.5 * len(links), 4.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, len(links)), ylim=(0, 1))
    axes.set_axis_off()
    for i, link in enumerate(links):
        colour = colours[link.kind]
        box = FancyBboxPatch(
            (i + 0.08, 0.6), 0.84, 0.34, boxstyle="round,pad=0,rounding_size=0.03", fc=(*_rgb(colour), 0.15), ec=colour
        )
        axes.add_patch(box)
        axes.text(i + 0.5, 0.91, link.title, ha="center", va="top", fontsize=10, weight="bold")
        text = [*link.facts, *([] if math.isnan(link.seconds) else [_duration(link.seconds)])]
        axes.text(i + 0.5, 0.84, "\n".join(text), ha="center", va="top", fontsize=6.5, linespacing=1.35)
        if i:
            axes.annotate("", (i + 0.08, 0.77), (i - 0.08, 0.77), arrowprops={"arrowstyle": "->", "lw": 1.4})
        if link.picture:
            inset = axes.inset_axes((i + 0.1, 0.04, 0.8, 0.5), transform=axes.transData)
            inset.imshow(imread(link.picture))
            inset.set_axis_off()
    write_atomic(path, png(figure))


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
