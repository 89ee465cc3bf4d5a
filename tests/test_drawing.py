"""Every picture: names are not formulas, nothing is cut off, and a failure never ends a training."""

from __future__ import annotations

import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import test_fronts
import test_search
import torch
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from test_pictures import normal, plain
from test_tables import REFERENCES

from harness.ablation.design.plan import Plan
from harness.ablation.design.space import log, one_of
from harness.ablation.design.study import Study
from harness.ablation.execute.tuner import SearchBoard
from harness.ablation.report import figures, fronts, history, interaction_plots, tables
from harness.ablation.report.findings import Report
from harness.core import drawing, registry
from harness.core.config import override
from harness.core.drawing import Undrawable, plain_log, png, shown, spared, write_picture
from harness.core.errors import Diverged, Pruned, Stopped, UserError
from harness.core.registry import find
from harness.data import pictures
from harness.data.base import Data
from harness.data.pictures import draw
from harness.runs import explain, lineage
from harness.runs.config import RunConfig
from harness.runs.explain import Explained
from harness.runs.lineage import Link
from harness.runs.train import ensure

NAMES = ("$", "$$", r"$\frac{", "^_{\\", "y" * 500, "a\nb\0c", "שלום עולם", "\U0001f600 emoji", "", "_hidden", "a&b%#")
Figures = list[Figure]


@pytest.fixture
def no_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if any text is parsed as a formula."""

    def refuse(self: Any, text: str, *more: Any, **named: Any) -> None:
        raise AssertionError(f"{text!r} was read as a formula")

    monkeypatch.setattr(MathTextParser, "parse", refuse)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Figures:
    """The drawn figures, as they were when they were saved."""
    found: Figures = []

    def keep(figure: Figure, dpi: int = 130) -> bytes:
        found.append(figure)
        return png(figure, 100)

    for module in (tables, fronts, history, explain, lineage, pictures):
        monkeypatch.setattr(module, "png", keep)
    return found


def planned(base: RunConfig, names: tuple[str, ...], nfe: tuple[int, ...] = (1, 2, 64)) -> Plan:
    """Return a plan with arms of these names."""
    arms = {name: {"train.learning_rate": 1e-3 * (i + 1)} for i, name in enumerate(names)}
    study = Study(
        name="toy", question="$?", baseline=names[0], arms=arms, nfe=nfe[0], smallest_difference=0.05, looks=(3,)
    )
    return Plan.of(study, "digits", override(base, {"evaluate.nfe": list(nfe)}), {}, 2, [])


def report_of(plan: Plan, score: Any, scale: float = 10.0) -> Report:
    """Return the report of runs whose values are near `scale`."""
    rng = np.random.default_rng(0)
    for arm, seed in plan.trials():
        values = {n: scale * rng.uniform(1, 1.2) / n**0.5 for n in plan.arms[arm].evaluate.nfe}
        score(plan.run(arm, seed), plan.protocol(arm), values)
    return tables.report(plan, REFERENCES)


def texts(figure: Figure) -> dict[Text, Bbox]:
    """Return every visible text of a drawn figure, with its extent in pixels."""
    found = {text: text.get_window_extent() for text in figure.findobj(Text) if text.get_text().strip()}
    for axes in figure.axes:
        for axis, low, high in ((axes.xaxis, "x0", "x1"), (axes.yaxis, "y0", "y1")):
            for tick in (*axis.majorTicks, *axis.minorTicks):
                for label in (tick.label1, tick.label2):
                    if label in found and not (label.get_visible() and _within(found[label], axes.bbox, low, high)):
                        del found[label]
    return {text: place for text, place in found.items() if text.get_visible() and (place.width or place.height)}


def _within(label: Bbox, axes: Any, low: str, high: str) -> bool:
    """Whether a tick label lies at its axes; a label beyond their ends is not drawn."""
    middle = (getattr(label, low) + getattr(label, high)) / 2
    return bool(getattr(axes, low) - 1 <= middle <= getattr(axes, high) + 1)


def require_whole(figure: Figure) -> None:
    """Check that no text crosses an edge of the figure."""
    for text, place in texts(figure).items():
        seen = place.x0 >= -1 and place.y0 >= -1 and place.x1 <= figure.bbox.x1 + 1 and place.y1 <= figure.bbox.y1 + 1
        assert seen, (text.get_text(), place)


def require_plain(figure: Figure) -> None:
    """Check that the numbers of logarithmic axes are plain and all in one format."""
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.get_scale() == "log"]
    labels = {tick.label1.get_text() for axis in axes for tick in (*axis.majorTicks, *axis.minorTicks)}
    assert len(labels - {""}) > 1
    assert all(re.fullmatch(r"|\d+(\.\d+)?|\de[+-]\d+", label) for label in labels), labels


def words(figure: Figure) -> set[str]:
    return {text.get_text() for text in texts(figure)}


def test_no_text_of_any_kind_is_a_formula(no_formulas: None) -> None:
    """This includes the ticks of logarithmic axes."""
    for name in (r"$\frac{$", "$x$", "a $ or two $^$"):
        figure = Figure()
        axes = figure.subplots()
        figure.suptitle(name)
        axes.plot([1e-3, 1, 1e3], [1e-9, 1, 1e9], label=name)
        axes.set(title=name, xlabel=name, ylabel=name)
        axes.text(1, 1, name)
        axes.annotate(name, (1, 1))
        plain_log(axes, "x", 1e-3, 1e3)
        plain_log(axes, "y", 1e-9, 1e9)
        axes.legend(title=name)
        twin = axes.twinx()
        twin.set_yticks([0], [name])
        assert png(figure).startswith(b"\x89PNG")
    assert matplotlib.rcParams["text.parse_math"]  # the figures of other code do not change


def test_names_stay_one_short_line() -> None:
    for name in NAMES:
        line = shown(name, 12)
        assert len(line) <= 13, name
        assert line.isprintable() or line.startswith("\u200b"), name
    assert (shown("gene A"), shown("$"), shown("a\nb\0c"), shown("abcdef", 4)) == ("gene A", "$", "a b c", "abc…")


@pytest.mark.parametrize("kind", ["cells", "sequence"])
def test_samples_are_drawn_whatever_their_features_are_called(
    kind: str, no_formulas: None, drawn: Figures, tmp_path: Path
) -> None:
    """Each name is visible, although dollar signs usually mark a formula, here a broken and an empty one."""
    names = (r"$\frac{$", "$$")
    real = normal(12, 2) if kind == "cells" else normal(12, 6, 2)
    draw(plain(real, kind, names=names), real[:5], tmp_path / "x.png")
    added = ", log1p" if kind == "cells" else ""
    assert words(drawn[-1]) >= {name + added for name in names}


def awkward(kind: str) -> dict[str, tuple[Data, torch.Tensor]]:
    """Return {oddity: (data, samples)}."""
    shape = {"cells": (4,), "points": (2,), "sequence": (6, 1), "latents": (4, 8, 8)}[kind]
    more = {"names": tuple("abcd"[: shape[-1]])} if kind in ("cells", "sequence") else {}
    real = normal(20, *shape)
    data = plain(real, kind, **more)
    few = normal(9, *shape, seed=1)
    few[2] = torch.nan
    few[4].view(-1)[0] = torch.inf
    constant = plain(torch.ones(20, *shape), kind, **more)
    return {
        "not finite": (data, few),
        "constant": (constant, torch.ones(5, *shape)),
        **({} if kind == "cells" else {"single": (data, real[:1]), "vast": (data, 1e37 * real[:5])}),
    }


@pytest.mark.parametrize("kind", ["cells", "points", "sequence", "latents"])
def test_samples_are_drawn_whatever_their_values_are(kind: str, tmp_path: Path, drawn: Figures) -> None:
    for what, (data, samples) in awkward(kind).items():
        draw(data, samples, tmp_path / f"{what}.png")
        if what == "not finite" and drawn:
            assert "7 of 9 samples are finite" in words(drawn[-1])
    with pytest.raises(Undrawable, match=r"none.png: cannot be drawn \(ValueError: none of 9 samples is finite\)\.$"):
        draw(data, torch.full_like(awkward(kind)["not finite"][1], torch.nan), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_sequences_are_shown_one_by_one(tmp_path: Path, drawn: Figures) -> None:
    """Three real sequences and three samples do not overlap; they are not neighbours, which share most
    of their rows.
    """
    real = torch.arange(40.0).view(40, 1, 1) + torch.linspace(0, 0.5, 6).view(6, 1)
    draw(plain(real, "sequence", names=("a",)), real + 1000, tmp_path / "x.png")
    for panel, first in ((drawn[0].axes[1], 0), (drawn[0].axes[3], 1000)):
        lines = [np.asarray(line.get_xydata()) for line in panel.lines]
        windows = [xy for xy in lines if len(xy) == 6]
        assert [round(xy[0, 1] - first) for xy in windows] == [0, 19, 39]
        ends = [end for xy in windows for end in (xy[0, 0], xy[-1, 0])]
        assert ends == sorted(ends)


@pytest.mark.slow
def test_of_many_channels_some_are_drawn_and_the_picture_says_so(tmp_path: Path, drawn: Figures) -> None:
    many = normal(5, 4, 300)
    draw(plain(many, "sequence", names=tuple(map(str, range(300)))), many, tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").height < 2000
    assert any("8 of 300 channels" in word for word in words(drawn[0]))


@pytest.mark.slow
def test_a_studys_figure_holds_all_its_text(
    tiny: RunConfig,
    no_formulas: None,
    drawn: Figures,
    score: Any,
    tmp_path: Path,
) -> None:
    """With many arms, long names, few and many NFEs; its numbers are plain."""
    cases = {
        "odd": (("x" * 500, *NAMES, *(f"arm number {i} of the study" for i in range(9))), (8,), 1e-4),
        "crowded": (("a", "b"), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 512), 1e9),
    }
    for what, (names, nfe, scale) in cases.items():
        report = report_of(planned(tiny, names, nfe), score, scale)
        paths = tables.write(report, tmp_path / what, "made")
        assert paths[-1].name == "toy-digits.png"
        require_whole(drawn[-1])
        seen = words(drawn[-1])
        assert {shown(name) for name in names if name} <= seen
        curve = drawn[-1].axes[0]
        if len(names) <= figures.LINES_AT_MOST:
            require_plain(drawn[-1])
        ticks = {tick.label1 for tick in curve.xaxis.majorTicks}
        placed = sorted((p.x0, p.x1) for text, p in texts(drawn[-1]).items() if text in ticks)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(placed)), what


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (-15, 15, [-10, 0, 10]),
        (-60, 12, [-50, -20, -10, 0, 10]),
        (-35, 150, [-30, -10, 0, 10, 30, 100]),
        (-95, 2000, [-10, 0, 10, 100, 1000]),
    ],
)
def test_differences_have_ticks_on_both_sides_as_many_as_fit(low: float, high: float, ticks: list[float]) -> None:
    assert sorted(figures.signed_ticks(10, low, high)) == ticks


def test_many_arms_are_a_grid_of_their_means_coloured_by_their_ratios(
    tiny: RunConfig, no_formulas: None, drawn: Figures, score: Any
) -> None:
    """The ratios use common seeds: if an arm lacks a seed, its colour also leaves out the baseline's value for this
    seed.
    """
    report = report_of(planned(tiny, tuple("abcdefghi"), (1, 2)), score)
    rows: Any = report.summary.rows
    cells = report.cells[(report.cells.arm != "b") | (report.cells.seed != 0)]
    tables.png(figures.draw(report.plan, cells, rows, {}))
    require_whole(drawn[-1])
    grid = drawn[-1].axes[0]
    means = rows.pivot(index="arm", columns="nfe", values="mean").to_numpy()
    assert [text.get_text() for text in grid.texts] == [f"{mean:.3g}" for mean in means.flat]
    coloured = np.asarray(grid.images[0].get_array())
    logs: Any = {key: math.log(value) for key, value in cells.set_index(["arm", "seed", "nfe"]).value.items()}
    for y, arm in enumerate("abcdefghi"):
        for x, nfe in enumerate((1, 2)):
            seeds = [seed for other, seed, at in logs if (other, at) == (arm, nfe)]
            ratios = [logs[arm, seed, nfe] - logs["a", seed, nfe] for seed in seeds]
            assert coloured[y, x] == pytest.approx(np.mean(ratios), abs=1e-12)


def test_the_picture_of_interactions_holds_all_its_text(
    tiny: RunConfig, no_formulas: None, drawn: Figures, score: Any
) -> None:
    """With axes and levels of any name; its numbers are plain, for factors of a thousand and of a tenth."""
    axes = {
        "$": {"$x$": {}, "x" * 500: {"train.steps": 9}, "a\nb": {"train.steps": 8}},
        "_hidden": {r"$\frac{$": {}, "_a": {"train.batch_size": 16}},
        "c": {"d": {}, "e": {"train.learning_rate": 1e-3}},
    }
    study = Study(name="toy", question="?", axes=axes, nfe=1, looks=(3,))
    plan = Plan.of(study, "digits", tiny, {}, 3, [])
    for scale in (0.0, 7.0):
        rng = np.random.default_rng(0)
        for arm, seed in plan.trials():
            value = rng.uniform(1, 1.1) * math.exp(scale * ("$x$" in arm))
            score(plan.run(arm, seed), plan.protocol(arm), {1: value, 2: value})
        found = tables.report(plan, {}).interactions
        assert found
        tables.png(interaction_plots.draw(plan, found))
        require_whole(drawn[-1])
        require_plain(drawn[-1])
        assert len(drawn[-1].axes) == 3
        assert {"$", shown("_hidden"), shown("x" * 500, 20), "a b", r"$\frac{$"} <= words(drawn[-1])


def test_a_searchs_figures_hold_all_their_text(
    tiny: RunConfig, no_formulas: None, drawn: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With choices of any name; the numbers of the logarithmic axes are plain."""
    choices = ("linear", "$x$", r"$\frac{$", "a\nb", "x" * 500)
    for name in choices:
        monkeypatch.setitem(registry._MEMBERS["interpolant"], name, find("interpolant", "linear"))
    space = {"interpolant": one_of(*choices), "train.learning_rate": log(1e-4, 1e-1), "train.ema_decay": log(0.5, 0.9)}
    board = SearchBoard(test_search.planned(tiny, spaces={"digits": space}, fixed={}, trials=3))
    values = iter((3e-2, 20.0, 2e4))
    test_search.drawn(board, 3, lambda _: next(values))
    for draw_one in (history.draw_history, history.draw_importances):
        draw_one(board)
        require_whole(drawn[-1])
        require_plain(drawn[-1])
    assert {shown(name, 20) for name in choices} <= words(drawn[-1])


def test_a_choice_of_none_has_a_place_in_a_searchs_figure(tiny: RunConfig, drawn: Figures) -> None:
    space = {"train.clip_norm": one_of(None, 1.0), "train.learning_rate": log(1e-4, 1e-1)}
    board = SearchBoard(test_search.planned(tiny, spaces={"digits": space}, fixed={}, trials=8))
    found = test_search.drawn(board, 8, lambda values: 1 + values["train.learning_rate"])
    history.draw_importances(board)
    (axes,) = (each for each in drawn[-1].axes if each.get_xlabel() == "clip_norm")
    places = sorted(x for line in axes.lines[:2] for x in np.asarray(line.get_xdata()).tolist())
    assert places == sorted(float(values["train.clip_norm"] is not None) for values in found)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["None", "1.0"]


def test_a_fronts_figure_holds_all_its_text(tiny: RunConfig, no_formulas: None, drawn: Figures) -> None:
    """With and without values from other seeds, with costs of any size, and with a single trial."""
    many: Any = [[3e-2, 32.0], [20.0, 4.0], [2e4, 1.0]], {"default": [[10.0, 2.0]], "knee": [[1.0, 2.0], [3.0, 2.0]]}
    alone: Any = [[-1.0, 0.0]], {"best": [[-1.0, 0.0], [2.0, 0.0], [0.0, 1e-9]]}
    cases = {"calls": many, "training_flops": ([[1.0, 3e15], [1.5, 2e13]], {}), "sampling_seconds": alone}
    for against, (points, again) in cases.items():
        board = test_fronts.board_of(test_fronts.planned(tiny, against=against), points)
        fronts.draw_front(board, again)
        require_whole(drawn[-1])
        if again is not alone[1]:
            require_plain(drawn[-1])
        told = {f"{arm}, {len(values)} other seed{'s' * (len(values) > 1)}" for arm, values in again.items()}
        assert {"trials", "front", "best, trial 0", *told} <= words(drawn[-1]), against


def test_a_lineages_text_stays_in_its_boxes(tmp_path: Path, drawn: Figures, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(png(Figure())[:400])
    facts = ("520 of 520 steps of 128", "fid 12.3 at NFE 1, 2.34 at NFE 64, " * 3, "w" * 90)
    names = ("1-rectified", "12-rectified distilled", "10,000,000 of 10,000,000 pairs", "$", "x" * 500)
    links = [Link("flow", name, "", facts, 7000, damaged if i == 1 else None) for i, name in enumerate(names)]
    lineage.draw(links, tmp_path / "chain.png")
    (figure,) = drawn
    placed = texts(figure)
    boxes = [box for patch in figure.findobj(FancyBboxPatch) if (box := patch.get_window_extent()).width > 100]
    assert len(boxes) == len(names)
    assert len(placed) >= 2 * len(names) - 1
    for text, place in placed.items():
        inside = [b for b in boxes if b.x0 < place.x0 and place.x1 < b.x1 and b.y0 < place.y0 and place.y1 < b.y1]
        assert len(inside) == 1, (text.get_text(), place, boxes[0])
        assert float(text.get_fontsize()) > 3.5, "it can still be read"
    require_whole(figure)
    assert capsys.readouterr().err.startswith(f"{damaged}: cannot be read (")


def test_weights_of_many_arms_are_drawn(tiny: RunConfig, no_formulas: None, drawn: Figures, tmp_path: Path) -> None:
    explain.draw({name: Explained.of(tiny) for name in (*NAMES, *map(str, range(9)))}, tmp_path / "x.png")
    require_whole(drawn[0])
    require_plain(drawn[0])
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == [shown(name) for name in (*NAMES, *map(str, range(9))) if name]


def test_a_picture_that_fails_ends_no_training(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At two looks and two evaluations; one line for each folder and reason."""

    def broken(*_: Any) -> bytes:
        raise ValueError("\n$^$\nParseException: Expected end of text")

    monkeypatch.setitem(pictures._PICTURES, "image", broken)
    monkeypatch.setattr(drawing, "_TOLD", set())
    run = ensure(override(tiny, {"train.sample_every": 2, "train.steps": 4, "evaluate.nfe": [1]}), print, lambda: False)
    assert run.finished
    assert run.evaluated(run.config.protocol())
    place = run.folder / "samples" / "step-0000002.png"
    why = "cannot be drawn (ValueError: $^$ ParseException: Expected end of text)."
    assert capsys.readouterr().err == f"{place}: {why} The work goes on without it.\n"


def test_a_table_is_written_without_its_figure(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, score: Any, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def broken(*_: Any) -> bytes:
        raise MemoryError

    monkeypatch.setattr(figures, "draw", broken)
    paths = tables.write(report_of(planned(tiny, ("a", "b")), score), tmp_path, "made")
    assert [path.name for path in paths] == [f"toy-digits{ending}" for ending in (".md", ".csv", ".json", "-seeds.csv")]
    assert f"{tmp_path}/figures/toy-digits.png: cannot be drawn (MemoryError)." in capsys.readouterr().err


def test_an_error_outside_the_drawing_is_not_hidden(tmp_path: Path) -> None:
    for error in (OSError(28, "No space left on device"), Stopped("now"), Pruned(), Diverged("x"), UserError("y")):

        def make(error: Exception = error) -> bytes:
            raise error

        with pytest.raises(type(error)) as caught, spared():
            write_picture(tmp_path / "x.png", make)
        assert caught.value is error
    with pytest.raises(KeyboardInterrupt), spared():
        write_picture(tmp_path / "x.png", _interrupted)
    assert not (tmp_path / "x.png").exists()
    write_picture(tmp_path / "x.png", lambda: png(Figure()))
    Image.open(io.BytesIO((tmp_path / "x.png").read_bytes())).verify()


def _interrupted() -> bytes:
    raise KeyboardInterrupt
