"""The ancestors of a run and their costs: the data, the flow trained on them, its pairs, and so on."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.drawing import COLOURS, png, shown, write_picture
from harness.core.errors import UserError, in_a_line
from harness.core.files import read_json
from harness.core.progress import duration
from harness.core.reading import require_file, say_once
from harness.core.registry import find
from harness.evaluation.flow_metrics import FlowMetric
from harness.evaluation.metric import label_of
from harness.evaluation.protocol import Protocol, digest_of, guidance_of
from harness.runs.contents import EVALUATED, Elsewhere
from harness.runs.folder import Run
from harness.runs.numbers import seconds_of

if TYPE_CHECKING:
    import rich.text
    from matplotlib.text import Text

STRIDE = 2.5
"""Inches from one box of a picture to the next."""
GAP = 0.17
"""Inches beside each box."""
TITLE = 22
FACT = 40
"""Characters per line of a box."""
WRITTEN: dict[str, Any] = {"ha": "center", "va": "top", "parse_math": False}
"""Style of the text in a box."""
COLOUR_OF = {"data": COLOURS[7], "flow": COLOURS[0], "pairs": COLOURS[2], "distilled": COLOURS[1]}


@dataclass(frozen=True)
class Link:
    """One entry of a lineage."""

    kind: str
    """data, flow, pairs or distilled."""
    title: str
    place: str
    """Its folder; empty for the data."""
    facts: tuple[str, ...]
    """How it was made, and its metrics."""
    seconds: float
    """Its cost; NaN if it is not known."""
    picture: Path | None = None
    """A picture of its samples."""


def lineage(run: Run) -> list[Link]:
    """Return the chain from the data to `run`, with values under the protocol of `run`'s `evaluate`.

    A teacher's values are those with the guidance of its pairs, or else those under that protocol. A flow without such
    values shows its last evaluation.
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
    facts = [f"by {reflow.solver.name} at {f'NFE {reflow.nfe}' if reflow.nfe else 'adaptive NFE'}{guided}"]
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
        facts += [f"{label_of(name)} {', '.join(f'{values[nfe]:.3g} at NFE {nfe}' for nfe in shown)}"]
    facts += [f"sampled by {_way(known['protocol'])}"] if known["values"] else []
    pictures = sorted(run.folder.glob(f"samples/{digest_of(known['protocol'])}-nfe-*.png"))
    kind = "distilled" if config.reflow.distil else "flow"
    return Link(
        kind, config.title, str(run.folder), tuple(facts), training_seconds(run), pictures[0] if pictures else None
    )


def _known(run: Run, protocols: Sequence[Protocol]) -> dict[str, Any]:
    """Return a flow's evaluation under the first of these protocols with values, or else its last evaluation."""
    for protocol in protocols:
        if (known := run.evaluation(protocol))["values"]:
            return known
    found = [known, *_intact(sorted(run.folder.glob("evaluations/*.json")))]
    return max(found, key=lambda known: max(known["time"].values(), default=0.0))


def _intact(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the evaluations; a damaged file is reported and skipped."""
    for path in paths:
        try:
            yield read_json(path, Elsewhere, f"It is skipped. {EVALUATED}")
        except UserError as error:
            say_once(str(error))


def _way(protocol: Mapping[str, Any]) -> str:
    """Return the solver and guidance of a protocol in words."""
    scale = protocol["guidance"].get("scale", 1)
    return protocol["solver"]["name"] + (f", guidance {scale:g}" if scale != 1 else "")


def training_seconds(run: Run) -> float:
    """Return the seconds of a run's training steps; NaN if there are none."""
    return seconds_of(run.metrics(), run.config.train.batch_size)


def described(link: Link) -> rich.text.Text:
    """Return a link in a few lines for the terminal."""
    from rich.text import Text

    cost = "" if math.isnan(link.seconds) else f"  {duration(link.seconds)}"
    return Text("\n").join([Text(link.title, "bold") + cost, *map(Text, filter(None, (*link.facts, link.place)))])


def draw(links: list[Link], path: Path) -> None:
    """Write the chain as a PNG, from left to right, each flow with samples at its smallest NFE."""
    write_picture(path, lambda: _chain(links))


def _chain(links: list[Link]) -> bytes:
    """Draw boxes as high as the longest text, with the pictures below; lengths are in inches."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    titles = ["\n".join(textwrap.wrap(shown(link.title, 2 * TITLE), TITLE)) for link in links]
    texts = ["\n".join(line for fact in _written(link) for line in textwrap.wrap(fact, FACT)) for link in links]
    fixed, rows = (max(text.count("\n") + 1 for text in some) for some in (titles, texts))
    box = 0.3 + 0.17 * fixed + 0.147 * rows
    below = 2.3 if any(link.picture for link in links) else 0.1
    figure = Figure(figsize=(STRIDE * len(links), below + box + 0.1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, STRIDE * len(links)), ylim=(0, below + box + 0.1))
    axes.set_axis_off()
    for i, (link, title, text) in enumerate(zip(links, titles, texts, strict=True)):
        left = i * STRIDE + GAP
        middle = (i + 0.5) * STRIDE
        colour = COLOUR_OF[link.kind]
        style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.08", "fc": (colour, 0.15), "ec": colour}
        axes.add_patch(FancyBboxPatch((left, below), STRIDE - 2 * GAP, box, **style))
        _fit(axes.text(middle, below + box - 0.1, title, weight="bold", fontsize=10, **WRITTEN))
        _fit(axes.text(middle, below + box - 0.15 - 0.17 * fixed, text, fontsize=6.5, linespacing=1.35, **WRITTEN))
        if i:
            arrow = {"arrowstyle": "->", "lw": 1.4}
            axes.annotate("", (left, below + box / 2), (left - 2 * GAP, below + box / 2), arrowprops=arrow)
        if link.picture and (picture := _read(link.picture)) is not None:
            inset = axes.inset_axes((left, 0.1, STRIDE - 2 * GAP, 2.1), transform=axes.transData)
            inset.imshow(picture)
            inset.set_axis_off()
            inset.set_anchor("N")
    return png(figure)


def _fit(text: Text) -> None:
    """Shrink a text until it fits its box: wide letters can exceed the width of the box."""
    assert text.figure is not None
    room = (STRIDE - 2 * GAP - 0.1) * text.figure.dpi
    size = float(text.get_fontsize())
    while text.get_window_extent().width > room and size > 2:  # the width of letters is rounded to pixels
        size *= 0.9
        text.set_fontsize(size)


def _written(link: Link) -> list[str]:
    """Return the lines below the title of a link's box."""
    return [*link.facts, *([] if math.isnan(link.seconds) else [duration(link.seconds)])]


def _read(picture: Path) -> Any:
    """Return the pixels of a PNG; None if it is damaged, since its samples can be drawn again."""
    from matplotlib.image import imread

    try:
        require_file(picture)
        return imread(picture)
    except (OSError, SyntaxError, ValueError) as error:
        say_once(f"{picture}: cannot be read ({in_a_line(error)}). It is left out.")
        return None
