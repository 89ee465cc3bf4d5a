import contextlib
import dataclasses
import io
import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.report import figures, grids, tables
from harness.ablation.report.findings import Report
from harness.ablation.report.mirrored import mirrored
from harness.ablation.report.notes import remarks
from harness.core.config import override, to_dict
from harness.core.files import write_json
from harness.core.registry import build, names
from harness.evaluation.metric import label_of
from harness.evaluation.yardsticks import judge_references
from harness.runs.config import RunConfig

COLUMNS = [
    "study", "scale", "arm", "metric", "nfe", "samples", "seeds", "n", "diverged", "failed", "mean", "sd", "min",
    "pairs", "difference", "level", "low", "high", "tie_low", "tie_high", "primary", "look", "verdict", "reason",
]  # fmt: skip
REFERENCES = {"resampled": {"fid": 1.5}, "held_out": {"fid": 2.25}, "gaussian": {"fid": 300.0}}
COMMAND = "harness ablate toy --scale digits"
MEANS = {"a": 10.0, "b": 8.0, "c": 10.1}

Values = dict[tuple[str, int, int], float]
"""{(arm, seed, nfe): FID}."""


def planned(base: RunConfig, seeds: int = 4, arms: dict[str, dict[str, Any]] | None = None, nfe: int = 2) -> Plan:
    of = {"a": {"weighting": "uniform"}, "b": {"weighting": "data_end"}, "c": {"weighting": "noise_end"}}
    study = Study(
        name="toy",
        question="Which end?",
        baseline="a",
        arms=arms or of,
        nfe=nfe,
        smallest_difference=0.05,
        looks=(max(3, seeds),),
    )
    return Plan.of(study, "digits", base, {}, seeds, [])


def made_up(plan: Plan) -> Values:
    rng = np.random.default_rng(0)
    return {
        (arm, seed, nfe): MEANS[arm] * math.exp(rng.normal(0, 0.01)) / nfe
        for arm, seed in plan.trials()
        for nfe in (1, 2)
    }


@pytest.fixture
def reported(score: Any) -> Callable[..., Report]:
    """The report of a plan whose runs have these values."""

    def report(plan: Plan, values: Values, commits: Callable[[int], str] = lambda seed: "abc") -> Report:
        for arm, seed in plan.trials():
            own = {nfe: value for (a, s, nfe), value in values.items() if (a, s) == (arm, seed)}
            if own:
                score(plan.run(arm, seed), plan.protocol(arm), own, (commits(seed),))
        return tables.report(plan, REFERENCES)

    return report


def row(report: Report, arm: str, nfe: int = 2) -> pd.Series:
    rows = report.summary.rows
    return rows[(rows.arm == arm) & (rows.nfe == nfe)].iloc[0]


def written(report: Report, folder: Path) -> dict[str, Path]:
    return {path.name.removeprefix(report.plan.name): path for path in tables.write(report, folder, COMMAND)}


@pytest.mark.usefixtures("undrawn")
def test_the_csv_has_a_row_for_each_arm_metric_and_nfe(
    tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path
) -> None:
    plan = planned(tiny)
    frame = pd.read_csv(written(reported(plan, made_up(plan)), tmp_path)[".csv"])
    assert frame.columns.tolist() == COLUMNS
    cells = list(zip(frame.arm, frame.metric, frame.nfe, strict=True))
    assert sorted(cells) == [(arm, "fid", nfe) for arm in "abc" for nfe in (1, 2)]
    assert (set(frame.study), set(frame.scale), set(frame.n)) == ({"toy"}, {"digits"}, {4})


def test_means_spreads_and_minima_are_numpys(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = planned(tiny)
    values = made_up(plan)
    report = reported(plan, values)
    for arm in plan.arms:
        for nfe in (1, 2):
            own, base = (np.array([values[a, seed, nfe] for seed in plan.seeds]) for a in (arm, "a"))
            got = row(report, arm, nfe)
            assert [got["mean"], got.sd, got["min"]] == pytest.approx([own.mean(), own.std(ddof=1), own.min()])
            if arm != "a":
                assert got.difference == pytest.approx(np.exp(np.log(own / base).mean()) - 1)
                assert got.low < got.difference < got.high


@pytest.mark.usefixtures("undrawn")
def test_verdicts_are_only_in_the_primary_rows(
    tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path
) -> None:
    plan = planned(tiny)
    report = reported(plan, made_up(plan))
    assert {arm: row(report, arm).verdict for arm in "abc"} == {"a": "baseline", "b": "better", "c": "tie"}
    frame = pd.read_csv(written(report, tmp_path)[".csv"], dtype=str, keep_default_na=False)
    assert set(frame[frame.primary == "True"].nfe) == {"2"}
    others = frame[(frame.primary == "False") & (frame.arm != "a")]
    assert len(others) == 2
    assert {*others.look, *others.tie_low, *others.tie_high, *others.verdict} == {""}
    assert {*others.level} == {"0.05"}
    assert frame[frame.arm == "a"].level.tolist() == ["", ""]


def test_the_interval_of_a_look_spends_the_share_of_an_arm(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    """SciPy's paired t at 1 - .05 / 2 arms, for the only look; a tie uses the interval at 1 - .05."""
    plan = planned(tiny)
    values = made_up(plan)
    report = reported(plan, values)
    for arm in "bc":
        logs, base = ([math.log(values[of, seed, 2]) for seed in plan.seeds] for of in (arm, "a"))
        test = stats.ttest_rel(logs, base)
        wide, narrow = (test.confidence_interval(confidence) for confidence in (0.975, 0.95))
        found = row(report, arm)
        got = [found.level, found.low, found.high, found.tie_low, found.tie_high]
        expected = [0.025, *map(math.expm1, (wide.low, wide.high, narrow.low, narrow.high))]
        assert got == pytest.approx(expected), arm


def test_two_seeds_decide_nothing_and_the_table_explains_it(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = planned(tiny, seeds=2)
    report = reported(plan, made_up(plan))
    assert [row(report, arm).verdict for arm in "bc"] == ["undecided", "undecided"]
    assert "Undecided: b, c (2 of the 3 pairs of seeds of the first look have values)." in remarks(report)


def test_a_single_seed_is_shown_without_a_spread(
    tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path
) -> None:
    plan = planned(tiny, seeds=1)
    report = reported(plan, made_up(plan))
    assert row(report, "b").verdict == "undecided"
    assert not any("±" in cell for cells in grids.grids(report)[0].rows for cell in cells)
    assert "nan" not in written(report, tmp_path)[".md"].read_text()


def test_a_primary_nfe_that_was_not_measured_is_reported(
    tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path
) -> None:
    plan = planned(tiny, nfe=32)
    report = reported(plan, made_up(plan))
    assert [row(report, arm, 32).verdict for arm in "abc"] == ["baseline", "not compared", "not compared"]
    assert "Not compared: b, c (the baseline a is not measured at NFE 32)." in remarks(report)
    assert set(written(report, tmp_path)) == {".md", ".csv", ".json", "-seeds.csv", ".png"}


@pytest.mark.usefixtures("undrawn")
def test_several_types_of_hardware_are_told(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = planned(tiny)

    def trained(place: Callable[[str, int], str]) -> None:
        for arm, seed in plan.trials():
            machine = {"processor": "AMD EPYC", "accelerator": place(arm, seed)}
            facts = {"commits": [], "parameters": 1, "weight_mean": 1.0, "resolved": {"device": "cuda"}}
            write_json(plan.run(arm, seed).folder / "environment.json", {**facts, "machine": machine})

    trained(lambda arm, seed: "A100")
    assert not any("hardware" in line or "A100" in line for line in remarks(reported(plan, made_up(plan))))
    trained(lambda arm, seed: "H100" if seed == 1 else "A100")
    apart = "Trials ran on A100, H100, which round differently; "
    assert apart + "the arms of each seed are on one type." in remarks(reported(plan, made_up(plan)))
    trained(lambda arm, seed: "H100" if (arm, seed) in (("a", 1), ("b", 3)) else "A100")
    assert apart + "the arms of seed 1, 3 are not on one type." in remarks(reported(plan, made_up(plan)))


@pytest.mark.usefixtures("undrawn")
def test_different_commits_are_listed(tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path) -> None:
    plan = planned(tiny)
    assert not any("commits" in line for line in remarks(reported(plan, made_up(plan))))
    report = reported(plan, made_up(plan), lambda seed: "abc" if seed else "def-dirty")
    assert "Trials come from 2 versions of the code: commit abc, def-dirty." in remarks(report)
    assert "Trials come from 2 versions of the code" in written(report, tmp_path)[".md"].read_text()


def test_a_diverged_seed_is_reported_and_its_pair_left_out(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = planned(tiny)
    values = {key: value for key, value in made_up(plan).items() if key[:2] != ("b", 1)}
    write_json(plan.run("b", 1).folder / "diverged.json", {"reason": "training diverged: so it did."})
    report = reported(plan, values)
    assert "b seed 1 has no value: training diverged: so it did." in remarks(report)
    pairs = [math.log(values["b", seed, 2] / values["a", seed, 2]) for seed in (0, 2, 3)]
    assert (row(report, "b").n, row(report, "a").n, row(report, "c").n) == (3, 4, 4)
    assert row(report, "b").difference == pytest.approx(math.expm1(np.mean(pairs)))
    assert (row(report, "b").diverged, row(report, "b").verdict) == (1, "unstable")


def test_an_arm_without_values_has_no_verdict(tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path) -> None:
    plan = planned(tiny)
    report = reported(plan, {key: value for key, value in made_up(plan).items() if key[0] != "b"})
    assert (row(report, "b").n, row(report, "b").verdict, row(report, "c").verdict) == (0, "undecided", "tie")
    assert "Undecided: b (0 of the 4 pairs of seeds of the first look have values)." in remarks(report)
    assert "nan" not in written(report, tmp_path)[".md"].read_text()


def test_protocols_that_differ_are_reported(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = planned(tiny, arms={"a": {}, "b": {"evaluate.num_samples": 65, "evaluate.num_reference": 512}})
    report = reported(plan, {key: value for key, value in made_up(planned(tiny)).items() if key[0] != "c"})
    assert [line for line in remarks(report) if "Protocols" in line] == [
        "Protocols differ: b and a are judged with another num_samples."
    ]


@pytest.mark.usefixtures("undrawn")
def test_the_files_state_their_origin(tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path) -> None:
    plan = planned(tiny)
    report = reported(plan, made_up(plan))
    files = written(report, tmp_path)
    text = files[".md"].read_text()
    assert all(
        words in text for words in (plan.question, f"`{COMMAND}`", plan.digest, "better", "300", *report.commits)
    )
    assert len([line for line in text.splitlines() if line.startswith(("| a |", "| b |", "| c |"))]) == 17
    assert f'"plan": "{plan.digest}"' in files[".json"].read_text()
    assert (files[".md"].parent / "../figures/toy-digits.png").resolve() == files[".png"].resolve()


@pytest.mark.usefixtures("undrawn")
def test_the_primary_metric_comes_first(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = planned(override(tiny, {"evaluate.metrics": ["fid", "authenticity", "kid"]}))
    first, *others = (grid.title.partition(" ")[0] for grid in grids.grids(reported(plan, made_up(plan))))
    assert [first, *others[:2]] == ["FID", "Authenticity", "KID"]


@pytest.mark.usefixtures("undrawn")
def test_every_title_says_in_which_direction_the_metric_is_better(
    tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path
) -> None:
    plan = planned(tiny)
    report = reported(plan, made_up(plan))
    assert [grid.title for grid in grids.grids(report)] == [
        "FID ↓ by NFE, mean ± sd over 4 seeds", "FID ↓ at NFE 2 against a",
        "Differences in FID ↓ that each arm's look finds with 80 % power (95 % interval of the sd), and "
        "the seeds that a single look would need",
        "Read off FID ↓ against NFE (fewest within 5% of a best)", "Seconds a trial, mean",
    ]  # fmt: skip
    text = written(report, tmp_path)[".md"].read_text()
    assert all(f"{grid.title}:\n" in text for grid in grids.grids(report))
    report.plan = dataclasses.replace(plan, smallest_difference=0.025)
    assert grids.grids(report)[2].header[-1] == "seeds for +2.5%"
    assert any(line.startswith("Verdicts: FID ↓ at NFE 2, paired t") for line in remarks(report))
    arrows = {name: grids.titled(name) for name in names("metric")}
    better_up = {name for name, title in arrows.items() if title.endswith(" ↑")}
    assert better_up == {"precision", "recall", "label_accuracy", "authenticity", "isc"}
    assert {name for name, title in arrows.items() if title.endswith(" ↓")} == arrows.keys() - better_up


def test_metrics_are_shown_as_people_write_them(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    """A metric's label is capitalised at the start of a title; a metric without a label has its name in words."""
    labels = {name: label_of(name) for name in names("metric")}
    assert len(set(labels.values())) == len(labels)
    for name, label in labels.items():
        assert label, name
        assert "_" not in label, name
    expected = {"fid": "FID", "held_out_fid": "held-out FID", "label_accuracy": "label accuracy", "recall": "recall"}
    assert expected.items() <= labels.items()
    assert label_of("of_no_loaded_plugin") == "of no loaded plugin"
    assert "label" not in json.dumps(to_dict(build("metric", "held_out_fid")))

    base = override(tiny, {"evaluate.metrics": ["fid", "held_out_fid"]})
    plan = dataclasses.replace(planned(base, seeds=3), metric="held_out_fid")
    report = reported(plan, made_up(plan))
    titles = [grid.title for grid in grids.grids(report)]
    assert titles[0] == "Held-out FID ↓ by NFE, mean ± sd over 3 seeds"
    assert titles[2] == "Held-out FID ↓ at NFE 2 against a"
    assert titles[3].startswith("Differences in held-out FID ↓ that each arm's look finds")
    assert any(line.startswith("Verdicts: held-out FID ↓ at NFE 2, paired t") for line in remarks(report))
    axes = figures.draw(plan, report.cells, report.summary.rows, {}).axes
    assert [axes[0].get_ylabel(), axes[1].get_xlabel()] == ["Held-out FID", "Held-out FID at NFE 2 against a, %"]


def test_expected_calls_are_next_to_the_needed_ones(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = dataclasses.replace(planned(tiny, seeds=2), expected_nfe={"b": (1, 1), "c": (1, 1)})
    curves = {"a": {1: 4.0, 2: 2.0}, "b": {1: 2.05, 2: 2.0}, "c": {1: 8.0, 2: 4.0}}
    values = {(arm, seed, nfe): curves[arm][nfe] for arm, seed in plan.trials() for nfe in (1, 2)}
    grid = grids.grids(reported(plan, values))[-2]
    assert grid.title == "NFE for FID ↓ within 5% of the value at NFE 2, geometric mean over seeds (95 % interval)"
    assert grid.header == ["arm", "expected", "near own value", "verdict", "near a's value", "verdict"]
    assert grid.rows == [
        ["a", "", "2 (2 to 2)", "", "2 (2 to 2)", ""],
        ["b", "1 to 1", "1 (1 to 1)", "as expected", "1 (1 to 1)", "as expected"],
        ["c", "1 to 1", "2 (2 to 2)", "more", "never in 2 seeds", "more"],
    ]


def test_the_scores_of_real_samples_and_noise_are_reported(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = planned(tiny)
    report = reported(plan, made_up(plan))
    assert remarks(report)[:3] == [
        "FID ↓ of training samples drawn with replacement, as many as generated samples: 1.5.",
        "FID ↓ of held-out samples, as many as generated samples: 2.25.",
        "FID ↓ of Gaussian noise, as many as generated samples: 300.",
    ]


class FakeJudge:
    """Scores a set by its first number and counts its calls."""

    def __init__(self, config: Any, held_out: list[float] | None):
        self.config = config
        self.metrics = config.metrics
        self.protocol = SimpleNamespace(digest="abc")
        self.decoding = "def"
        self.asked = 0
        self.resampled = lambda number: [1.0]
        self.held_out = lambda number: held_out
        self.gaussian = lambda number: [3.0]
        self.showing = lambda batches, title, samples: contextlib.nullcontext(batches)

    def __call__(self, batches: list[float]) -> dict[str, float]:
        self.asked += 1
        return {metric.name: batches[0] for metric in self.config.metrics}


def test_references_are_judged_once_for_each_metric_and_only_where_there_are_enough(tiny: RunConfig) -> None:
    more = override(tiny, {"evaluate.metrics": ["fid", "kid"]})
    judge: Any = FakeJudge(tiny.evaluate, [2.0])
    first, again = (judge_references(judge) for _ in range(2))
    assert first == again == {"resampled": {"fid": 1}, "held_out": {"fid": 2}, "gaussian": {"fid": 3}}
    assert judge.asked == 3
    other: Any = FakeJudge(more.evaluate, None)
    assert judge_references(other) == {"resampled": {"fid": 1, "kid": 1}, "gaussian": {"fid": 3, "kid": 3}}


def test_values_without_a_ratio_leave_an_arm_not_compared(
    tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path
) -> None:
    """The other arms are decided; the table says so, and the figure is drawn with a linear axis."""
    plan = planned(tiny)
    values = made_up(plan) | {("b", 1, 2): -0.01}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        report = reported(plan, values)
        text = written(report, tmp_path)[".md"].read_text()
    assert {arm: row(report, arm).verdict for arm in "abc"} == {"a": "baseline", "b": "not compared", "c": "tie"}
    assert "Not compared: b (some values of FID are not positive, so they have no ratios to compare)." in text
    assert "nan" not in text


def test_the_figure_is_a_picture(tiny: RunConfig, reported: Callable[..., Report], tmp_path: Path) -> None:
    plan = planned(tiny)
    content = written(reported(plan, made_up(plan)), tmp_path)[".png"].read_bytes()
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    assert min(picture.size) > 400
    assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 50


def test_evaluations_on_disk_beyond_the_request_are_left_out(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = planned(override(tiny, {"evaluate.nfe": [2]}))
    assert set(reported(plan, made_up(plan)).summary.rows.nfe) == {2}


def test_mlflow_gets_the_best_arm_and_its_certainty(tiny: RunConfig, reported: Callable[..., Report]) -> None:
    plan = planned(tiny)
    report = reported(plan, made_up(plan))
    told = mirrored(report, [Path("table.md")])
    best = min(plan.arms, key=lambda arm: row(report, arm)["mean"])
    assert best != plan.baseline
    found = row(report, best)
    assert told.note.startswith(f"**Which end?** `{best}` is {found.verdict}, {found.difference:+.1%} (")
    assert f"against `a`. It has the best mean, {found['mean']:.4g} over 4 seeds." in told.note
    assert told.metrics["difference/b"] == row(report, "b").difference
    assert (told.metrics["p/b"] < row(report, "b").level) == (row(report, "b").verdict in ("better", "worse"))
    for arm in ("b", "c"):
        assert re.search(rf"{row(report, arm).verdict}: [^;]*\b{arm}\b", told.tags["verdict"])
    assert (told.seeds, [*told.files]) == (4, [Path("table.md")])


def test_a_best_baseline_and_a_study_without_values_are_reported(
    tiny: RunConfig, reported: Callable[..., Report]
) -> None:
    plan = planned(tiny)
    assert mirrored(reported(plan, {}), []).note.startswith("**Which end?** No arm has a value yet.")
    values = {(arm, seed, nfe): value * (1 if arm == "a" else 9) for (arm, seed, nfe), value in made_up(plan).items()}
    assert "`a` has the best mean" in (note := mirrored(reported(plan, values), []).note)
    assert "it is the baseline." in note
