"""Main effects, interactions and variance of a study of axes, compared with statsmodels, and in the tables."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.weightstats import DescrStatsW
from test_crossing import AXES, LATE, PATHS, SWEPT, planned
from test_looks import cells_of

from harness.ablation.design.plan import Plan
from harness.ablation.report import published, tables
from harness.ablation.report.findings import Report
from harness.ablation.report.interactions import Interactions, interactions
from harness.ablation.report.outcomes import DIVERGED
from harness.ablation.report.verdicts import settle
from harness.runs.config import RunConfig

SEEDS = 4
THREE = {"interpolant": PATHS, "weighting": ["uniform", "data_end"], "train.steps": [9, 12]}
FOUR = {**THREE, "interpolant": PATHS[:2], "train.batch_size": [16, 32]}


def simulated(plan: Plan) -> tuple[np.ndarray, pd.DataFrame]:
    """Return log values [arms, seeds] with all effects, and a table of them: value, seed, levels of the axes."""
    assert plan.crossing
    rng = np.random.default_rng(5)
    logs = (
        rng.normal(0, 0.2, (len(plan.arms), 1))
        + rng.normal(0, 0.1, SEEDS)
        + rng.normal(0, 0.05, (len(plan.arms), SEEDS))
    )
    rows = [
        dict(zip("abcd", own, strict=False)) | {"seed": seed, "value": logs[i, seed]}
        for i, own in enumerate(plan.crossing.arms.values())
        for seed in range(SEEDS)
    ]
    return logs, pd.DataFrame(rows)


def found_of(plan: Plan, logs: np.ndarray) -> Interactions:
    found = interactions(plan, cells_of(plan, logs))
    assert found
    return found


@pytest.mark.parametrize("axes", [AXES, THREE], ids=["two", "three"])
def test_main_effects_are_those_of_a_linear_model_with_seeds_as_blocks(tiny: RunConfig, axes: dict[str, Any]) -> None:
    """The estimates of OLS; the intervals from the paired t test over the seeds' estimates."""
    plan = planned(tiny, SEEDS, (SEEDS,), axes=axes)
    logs, table = simulated(plan)
    assert plan.crossing
    letters = dict(zip(plan.crossing.levels, "abc", strict=False))
    terms = " + ".join(f"C({letters[axis]}, Treatment('{levels[0]}'))" for axis, levels in plan.crossing.levels.items())
    model = ols(f"value ~ C(seed) + {terms}", table).fit()
    settled = settle(plan, cells_of(plan, logs))
    for axis, levels in plan.crossing.levels.items():
        for level in levels[1:]:
            comparison = settled.standings[f"{axis}: {level}"].comparison
            theirs = model.params[f"C({letters[axis]}, Treatment('{levels[0]}'))[T.{level}]"]
            assert math.log1p(comparison.difference) == pytest.approx(theirs)
            own = table[table[letters[axis]] == level].groupby("seed").value.mean()
            base = table[table[letters[axis]] == levels[0]].groupby("seed").value.mean()
            low, high = DescrStatsW(own - base).tconfint_mean(comparison.level)
            assert (comparison.low, comparison.high) == pytest.approx((math.expm1(low), math.expm1(high)))


@pytest.mark.parametrize("axes", [AXES, THREE], ids=["two", "three"])
def test_the_variance_is_split_as_statsmodels_splits_it(tiny: RunConfig, axes: dict[str, Any]) -> None:
    plan = planned(tiny, SEEDS, (SEEDS,), axes=axes)
    logs, table = simulated(plan)
    found = found_of(plan, logs)
    names = dict(zip("abc", [*plan.crossing.levels] if plan.crossing else [], strict=False))
    theirs = anova_lm(ols(f"value ~ C(seed) + {' * '.join(f'C({letter})' for letter in names)}", table).fit())
    total = theirs.sum_sq.sum()
    terms = {term.name: term for term in found.terms}
    for size in (1, 2):
        for letters in itertools.combinations(names, size):
            row = theirs.loc[":".join(f"C({letter})" for letter in letters)]
            ours = terms[" × ".join(names[letter] for letter in letters)]
            assert (ours.df, ours.share, ours.f, ours.p) == pytest.approx(
                (row.df, row.sum_sq / total, row.F, row["PR(>F)"])
            )
    assert (terms["seeds"].df, terms["seeds"].share) == pytest.approx((SEEDS - 1, theirs.sum_sq["C(seed)"] / total))
    left = theirs.loc["Residual"]
    assert (terms["residual"].df, terms["residual"].share) == pytest.approx((left.df, left.sum_sq / total))
    assert sum(term.share for term in found.terms) == pytest.approx(1)
    assert sum(term.df for term in found.terms) == len(table) - 1
    assert ("other differences of the combinations" in terms) == (len(names) == 3)


def test_ratios_of_ratios_are_the_interactions_of_a_linear_model(tiny: RunConfig) -> None:
    plan = planned(tiny, SEEDS, (SEEDS,), axes=AXES)
    logs, table = simulated(plan)
    model = ols("value ~ C(seed) + C(a, Treatment('linear')) * C(b, Treatment('uniform'))", table).fit()
    found = found_of(plan, logs)
    wide = table.pivot(index="seed", columns=["a", "b"], values="value")
    b = "data_end power 2"
    assert found.pairs.keys() == {f"interpolant {a} × weighting {b}" for a in ("gvp", "cosine")}
    for a in ("gvp", "cosine"):
        comparison = found.pairs[f"interpolant {a} × weighting {b}"]
        theirs = model.params[f"C(a, Treatment('linear'))[T.{a}]:C(b, Treatment('uniform'))[T.{b}]"]
        assert math.log1p(comparison.difference) == pytest.approx(theirs)
        by_seed = (wide[a, b] - wide[a, "uniform"]) - (wide["linear", b] - wide["linear", "uniform"])
        low, high = DescrStatsW(by_seed).tconfint_mean()
        assert (comparison.low, comparison.high) == pytest.approx((math.expm1(low), math.expm1(high)))


def test_a_fraction_tests_the_sums_of_aliased_interactions(tiny: RunConfig) -> None:
    """Half of 2^4: statsmodels' model with AB, AC and AD, each of which stands for two interactions."""
    plan = planned(tiny, SEEDS, (SEEDS,), axes=FOUR, fraction=1 / 2)
    logs, table = simulated(plan)
    found = found_of(plan, logs)
    theirs = anova_lm(
        ols("value ~ C(seed) + C(a) + C(b) + C(c) + C(d) + C(a):C(b) + C(a):C(c) + C(a):C(d)", table).fit()
    )
    tested = {term.name: (term.df, term.f, term.p) for term in found.terms if term.is_effect}
    assert [*tested][4:] == [
        "interpolant × weighting + steps × batch_size",
        "interpolant × steps + weighting × batch_size",
        "interpolant × batch_size + weighting × steps",
    ]
    expected = theirs.iloc[1:8][["df", "F", "PR(>F)"]].to_numpy().tolist()
    assert [*tested.values()] == [pytest.approx(tuple(row)) for row in expected]


def test_interactions_that_are_aliased_with_main_effects_are_not_estimated(tiny: RunConfig) -> None:
    three = {**THREE, "interpolant": PATHS[:2]}
    plan = planned(tiny, SEEDS, (SEEDS,), axes=three, fraction=1 / 2)
    found = found_of(plan, simulated(plan)[0])
    assert (found.pairs, found.groups) == ({}, [])
    assert [term.name for term in found.terms] == ["interpolant", "weighting", "steps", "seeds", "residual"]
    assert found.notes[0] == (
        "Aliased, so not estimated: interpolant × weighting, interpolant × steps, weighting × steps."
    )


def test_left_out_combinations_leave_the_complete_pairs(tiny: RunConfig) -> None:
    plan = planned(tiny, SEEDS, (SEEDS,), axes=LATE, skip_invalid=True)
    logs, table = simulated(plan)
    found = found_of(plan, logs)
    assert (found.pairs.keys(), found.terms) == ({"steps 9 × warmup_steps 6"}, [])
    assert found.notes == ["Without the combinations that are left out, the variance has no single split."]
    wide = table.pivot(index="seed", columns=["a", "b"], values="value")
    effect = settle(plan, cells_of(plan, logs)).standings["steps: 4"].comparison
    assert math.log1p(effect.difference) == pytest.approx((wide["4", "2"] - wide["12", "2"]).mean())


def test_a_diverged_combination_leaves_no_interaction(tiny: RunConfig) -> None:
    plan = planned(tiny, SEEDS, (SEEDS,), axes=AXES)
    cells = cells_of(plan, simulated(plan)[0])
    lost = (cells.arm == "gvp, uniform") & (cells.seed == 2)
    found = interactions(plan, cells.assign(state=cells.state.mask(lost, DIVERGED), value=cells.value.mask(lost)))
    assert found
    why = "gvp, uniform lost seeds, and the remaining seeds are a biased sample"
    assert found.notes == [f"No interaction is estimated: {why}."]
    assert (found.terms, found.pairs, found.groups) == ([], {}, [])


@pytest.fixture
def reported(score: Any) -> Callable[[Plan], Report]:
    """The report of a plan in which noise_end and data_end differ from the rest, and more so with gvp."""

    def report(plan: Plan) -> Report:
        rng = np.random.default_rng(0)
        for arm, seed in plan.trials():
            shift = 0.3 * ("noise_end" in arm) - 0.2 * ("data_end" in arm) * (2 if "gvp" in arm else 1)
            values = {nfe: math.exp(shift + rng.normal(0, 0.01)) / nfe for nfe in (1, 2)}
            score(plan.run(arm, seed), plan.protocol(arm), values)
        return tables.report(plan, {})

    return report


@pytest.mark.usefixtures("undrawn")
def test_the_tables_of_a_study_of_axes(tiny: RunConfig, reported: Callable[[Plan], Report], tmp_path: Path) -> None:
    plan = planned(tiny, SEEDS, (SEEDS,), axes={**AXES, "weighting": ["uniform", "data_end", "noise_end"]})
    paths = {path.name.removeprefix(plan.name): path for path in tables.write(reported(plan), tmp_path, "made")}
    text = paths[".md"].read_text()
    for line in (
        "FID ↓ at NFE 2 against the first level of each axis (linear, uniform), averaged over the other axes:",
        "| linear, uniform |  |  |  |  |  |  | baseline |", "| weighting: noise_end | 1 (4 seeds) | +3",
        "| interpolant gvp × weighting data_end | -1", "| interpolant × weighting | 4 | ",
        "is divided over the main effects; smallest", f"![{plan.name}](../figures/{plan.name}-interactions.png)",
    ):  # fmt: skip
        assert line in text, line
    assert "nan" not in text
    rows = pd.read_csv(paths[".csv"])
    primary = rows[rows.primary].set_index("arm").verdict
    assert primary.to_dict() == {
        "linear, uniform": "baseline", "interpolant: gvp": "better", "interpolant: cosine": "tie",
        "weighting: data_end": "better", "weighting: noise_end": "worse",
    }  # fmt: skip
    of_cell = 1 + rows[rows.nfe == 2].set_index("arm").difference.fillna(0)
    at = [of_cell[f"gvp, {w}"] / of_cell[f"linear, {w}"] - 1 for w in ("uniform", "data_end", "noise_end")]
    assert f"| {min(at):+.1%} to {max(at):+.1%} | better, by less than 10 % |" in text
    cell = rows[(rows.arm == "gvp, data_end") & (rows.nfe == 2)].iloc[0]
    assert (cell.level, pd.isna(cell.verdict)) == (0.05, True)
    about = json.loads(paths[".json"].read_text())
    assert about["effects"]["weighting: data_end"]["arms"] == [f"{path}, data_end" for path in PATHS]
    assert about["interactions"]["terms"][2]["name"] == "interpolant × weighting"
    section = published.section(paths[".csv"])
    assert "averaged over the other axes, 4 seeds" in section
    assert "- worse: `weighting: noise_end` +3" in section
    picture = Image.open(io.BytesIO(paths["-interactions.png"].read_bytes()))
    assert min(picture.size) > 400


@pytest.mark.parametrize("crossed", [{"axes": AXES}, SWEPT], ids=["axes", "sweep"])
def test_crossed_axes_have_the_figure_of_every_study(
    tiny: RunConfig, reported: Callable[[Plan], Report], crossed: dict[str, Any], tmp_path: Path
) -> None:
    plan = planned(tiny, 3, (3,), **crossed)
    (path,) = [path for path in tables.write(reported(plan), tmp_path, "made") if path.name == f"{plan.name}.png"]
    assert min(Image.open(path).size) > 400


@pytest.mark.usefixtures("undrawn")
def test_the_tables_of_a_sweep(tiny: RunConfig, reported: Callable[[Plan], Report], tmp_path: Path) -> None:
    plan = planned(tiny, SEEDS, (SEEDS,), **SWEPT)
    report = reported(plan)
    paths = {path.suffix: path for path in tables.write(report, tmp_path, "made")[:3]}
    text = paths[".md"].read_text()
    assert "FID ↓ at NFE 2 against uniform at the same setting:" in text
    assert "| arm | 0.001 | 0.003 | 0.01 | in all |" in text
    assert len([line for line in text.splitlines() if line.endswith("| better in all |")]) == 1
    assert "over the arms and their settings" in text
    rows = pd.read_csv(paths[".csv"])
    bases = rows[rows.primary & (rows.verdict == "baseline")].arm
    assert [*bases] == [f"uniform, learning_rate {rate}" for rate in (0.001, 0.003, 0.01)]
    assert json.loads(paths[".json"].read_text())["in_all"]["noise_end"]["verdict"] == "worse in all"
    assert {arm: found.against is None for arm, found in report.readouts.items()} == {
        arm: arm.startswith("uniform") for arm in plan.arms
    }
    assert "against uniform at the same setting, 4 seeds" in published.section(paths[".csv"])


def test_seeds_that_agree_to_the_last_digit_leave_nothing_to_test(tiny: RunConfig) -> None:
    plan = planned(tiny, SEEDS, (SEEDS,), axes=AXES)
    found = found_of(plan, np.repeat(np.arange(6.0)[:, None], SEEDS, axis=1))
    seen = "No interaction shows: the 95 % interval of each includes zero."
    assert (found.terms, found.notes, len(found.pairs)) == ([], [seen], 2)
    json.dumps(found.plain(), allow_nan=False)
