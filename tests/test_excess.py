"""The floor of a metric, and the excess above it, compared with closed forms and SciPy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import gamma
from typed import tensor

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.report import excess, tables
from harness.ablation.report.findings import Report
from harness.ablation.report.outcomes import MEASURED, Cell
from harness.core import registry
from harness.core.config import override
from harness.core.files import results_folder
from harness.data.base import Data
from harness.evaluation import floor as module
from harness.evaluation.fidelity import FID, HeldOutFID
from harness.evaluation.floor import Floor, judge_floor
from harness.evaluation.judge import Judge
from harness.evaluation.metric import SampleMetric
from harness.evaluation.protocol import EvaluateConfig
from harness.runs.config import RunConfig

SHIFT = 0.5


def drawn(kind: str, number: int, shift: float, generator: torch.Generator) -> torch.Tensor:
    """Draw samples of the real distribution, or of a shifted one; a fifth of the real values are 0."""
    values = torch.rand(number, *((6, 2) if kind == "sequence" else (4,)), generator=generator, dtype=torch.float64)
    if kind == "sequence":
        return values + 2 * shift * torch.cumsum(values - 0.5, 1)
    return (1 + shift / 2) * values ** (1 + 2 * shift) * (values > 0.2 + 0.3 * shift)


def scores(metric: Any, number: int, shift: float, sets: int = 12) -> np.ndarray:
    """Return the scores of `sets` sets of `number` samples against 600 real samples, all of one class."""
    kind = metric.kinds[0] if metric.kinds else "points"
    generator = torch.Generator().manual_seed(0)

    def summary(of: Any, number: int, shift: float) -> Any:
        return of.summarise(drawn(kind, number, shift, generator), torch.zeros(number, dtype=torch.int64))

    real = summary(metric.of_reference, 600, 0.0)
    parts = [summary(metric, number, shift) for _ in range(sets)]
    return np.array([metric.compare(part, real) for part in parts])


def lower_ones() -> dict[str, Any]:
    shorter: dict[str, dict[str, Any]] = {"c2st": {"trees": 5}, "kid": {"subsets": 3}}
    made = {
        name: registry.build("metric", {"name": name, **shorter.get(name, {})}) for name in registry.names("metric")
    }
    return {name: m for name, m in made.items() if isinstance(m, SampleMetric) and m.lower_is_better}


@pytest.mark.parametrize("name", lower_ones())
def test_a_metric_says_whether_real_samples_score_above_zero(name: str) -> None:
    """With a floor, all sets score above zero; without a floor, on both sides of zero. A forest learns more from more
    samples, so the excess of a c2st does not transfer to other numbers of samples.
    """
    metric = lower_ones()[name]
    values = scores(metric, 60, 0.0)
    assert (metric.floor_power > 0) == (min(values) > 0 and name not in ("c2st", "lowest_fid")), values
    assert max(values) > 0


@pytest.mark.parametrize("name", [name for name, metric in lower_ones().items() if metric.floor_power])
def test_the_excess_of_a_power_is_the_same_for_any_number_of_samples(name: str) -> None:
    """Within a tenth from 50 to 400 samples, by means over sets; the excess of the other power changes more."""
    metric = lower_ones()[name]
    moved = {}
    for power in (1, 2):
        sizes = [
            np.mean(scores(metric, n, SHIFT) ** power) - np.mean(scores(metric, n, 0.0) ** power) for n in (50, 400)
        ]
        moved[power] = abs(math.log(sizes[1] / sizes[0])) / power if min(sizes) > 0 else math.inf
    assert moved[metric.floor_power] < min(0.1, moved[3 - metric.floor_power]), moved


DIMENSIONS = 20


def normal(train: int, held_out: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(number, DIMENSIONS, generator=generator) for number in (train, held_out)]
    return Data(parts[0], parts[1], torch.Tensor.float, torch.Tensor.float, "points")


def judge_of(data: Data, **changes: Any) -> Judge:
    plain = {"num_samples": 100, "batch_size": 30, "num_reference": 400, "extractor": "values", "metrics": ["energy"]}
    return Judge(override(EvaluateConfig(), plain | changes), data, "cpu")


def test_the_floor_of_the_energy_distance_is_its_closed_form() -> None:
    """Over all pairs, the mean square is (1 / n + 1 / m) E|x - x'|; for unit normals this is the mean of a chi
    variable.
    """
    found = judge_floor(judge_of(normal(900, 100)), "energy", 100)
    assert found
    assert (found.kind, found.samples, len(found.values)) == ("fresh", 100, 5)
    apart = 2 * gamma((DIMENSIONS + 1) / 2) / gamma(DIMENSIONS / 2)
    assert np.mean(np.square(found.values)) == pytest.approx((1 / 100 + 1 / 400) * apart, rel=0.1)
    squares = np.square(found.values)
    assert found.value == pytest.approx(math.sqrt(squares.mean()))
    error = squares.std(ddof=1) / math.sqrt(5)
    assert [found.moved(-1), found.moved(1)] == pytest.approx(np.sqrt([squares.mean() - error, squares.mean() + error]))
    assert found.moved(-1e9) == 0


def test_fresh_sets_share_no_sample_with_each_other_or_the_reference() -> None:
    """Rows have numbers as values; published statistics may include any training sample."""
    train, held_out = torch.arange(900.0)[:, None], torch.arange(1000.0, 1250.0)[:, None]
    data = Data(train, held_out, torch.Tensor.float, torch.Tensor.float, "points")
    judge = judge_of(data)

    def rows_of(metric: SampleMetric) -> list[list[float]]:
        sets = module._fresh(judge, metric, 100)
        return [torch.cat([tensor(batch.samples) for batch in one]).flatten().tolist() for one in sets]

    drawn = rows_of(FID())
    assert [len(one) for one in drawn] == [100] * 7
    every = [row for one in drawn for row in one]
    assert len({*every}) == 700
    assert not {*every} & {*module.reference_rows(data, 400).float().tolist()}
    assert [min(one) >= 1000 for one in drawn] == [False] * 5 + [True] * 2
    object.__setattr__(judge.config, "reference", "statistics.npz")
    assert [min(one) >= 1000 for one in rows_of(FID())] == [True] * 2
    assert [max(one) < 1000 for one in rows_of(HeldOutFID())] == [True] * 9


@pytest.mark.parametrize(
    ("train", "held_out", "kind", "number"), [(500, 50, "fresh", 1), (400, 50, "resampled", 5), (400, 350, "fresh", 3)]
)
def test_where_few_are_fresh_training_samples_are_drawn_again(
    train: int, held_out: int, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_of(normal(train, held_out))
    found = judge_floor(judge, "energy", 100)
    assert found
    assert (found.kind, len(found.values)) == (kind, number)
    assert found.sd > 0
    monkeypatch.setattr(module, "_score", None)
    assert judge_floor(judge, "energy", 100) == found, "it is kept"
    assert len([*(results_folder() / "local" / "references").glob("*-100-floor.json")]) == 1


def test_a_metric_without_a_floor_has_none() -> None:
    judge = judge_of(normal(500, 100), metrics=["energy", "authenticity"])
    assert judge_floor(judge, "authenticity", 100) is None
    assert judge_floor(judge, "straightness", 100) is None


def planned(tiny: RunConfig) -> Plan:
    arms = {arm: {"weighting": {"name": "data_end", "power": i + 1}} for i, arm in enumerate("abcd")}
    return Plan.of(Study(name="toy", question="Which?", baseline="a", arms=arms, nfe=2), "digits", tiny, {}, 4, [])


ABOVE = {"a": 1.0, "b": 0.5, "c": 1.2}
FLOOR = Floor("fresh", 64, 1, (9.9, 10.1), 0.2)


def values() -> dict[tuple[str, int], float]:
    """`ABOVE` a floor of 10, within a tenth; arm d falls below it on one seed."""
    rng = np.random.default_rng(0)
    found = {(arm, seed): 10 + mean * math.exp(rng.normal(0, 0.1)) for arm, mean in ABOVE.items() for seed in range(4)}
    return found | {("d", seed): 9.99 if seed == 2 else 10.3 for seed in range(4)}


@pytest.mark.parametrize("power", [1, 2])
def test_excesses_are_compared_as_scipy_compares_their_logs(tiny: RunConfig, power: int) -> None:
    plan = planned(tiny)
    known = {key: value ** (1 / power) for key, value in values().items()}
    cells = pd.DataFrame([Cell(arm, seed, "fid", 2, value, 2, MEASURED) for (arm, seed), value in known.items()])
    floor = Floor("fresh", 64, power, (10 ** (1 / power),), 0.2)
    found = excess.excesses(plan, cells, floor, "abcd")
    own = {arm: np.array([known[arm, seed] ** power - 10 for seed in range(4)]) for arm in "abcd"}
    for arm, above in own.items():
        assert found[arm].excess == pytest.approx(above.mean() ** (1 / power))
        assert found[arm].value == pytest.approx((10 + above.mean()) ** (1 / power))
    for arm in "bc":
        ratios = np.log(own[arm] / own["a"]) / power
        low, high = stats.ttest_1samp(ratios, 0).confidence_interval(0.95)
        against = found[arm].against
        assert against
        assert [against.difference, against.low, against.high] == pytest.approx(
            [math.expm1(x) for x in (ratios.mean(), low, high)]
        )
        ends = [np.expm1(np.log((own[arm] + d) / (own["a"] + d)).mean() / power) for d in (0.2, -0.2)]
        assert found[arm].ends == pytest.approx(tuple(ends))
    assert (found["a"].against, found["d"].against) == (None, None)
    assert found["d"].reason == "1 of 4 pairs have a value at or below the floor, so their excesses have no ratio"
    assert excess.excesses(plan, cells, floor, "a")["b"].against is None
    unsure = Floor("fresh", 64, power, (10 ** (1 / power),), 0.9)
    assert excess.excesses(plan, cells, unsure, "abcd")["b"].ends is None, "an error higher, b has no excess"
    below = Floor("fresh", 64, power, (12 ** (1 / power),), 0.2)
    assert excess.excesses(plan, cells, below, "abcd")["b"].excess == pytest.approx(
        -((12 - 10 - own["b"].mean()) ** (1 / power))
    )


def test_in_a_sweep_an_excess_is_compared_at_the_same_setting(tiny: RunConfig) -> None:
    study = Study(
        name="toy", question="Which?", baseline="a", nfe=2, sweep={"train.learning_rate": [1e-3, 1e-2]},
        arms={"a": {}, "b": {"weighting": "data_end"}},
    )  # fmt: skip
    plan = Plan.of(study, "digits", tiny, {}, 3, [])
    above = dict(zip(plan.arms, (1.0, 8.0, 0.5, 2.0), strict=True))
    cells = pd.DataFrame(
        [Cell(arm, seed, "fid", 2, 10 + mean, 2, MEASURED) for arm, mean in above.items() for seed in range(3)]
    )
    found = excess.excesses(plan, cells, FLOOR, [*plan.arms])
    expected = {arm: above[arm] / above[base] - 1 for arm, base in plan.bases.items()}
    assert len({*expected.values()}) == len(plan.bases) == 2
    assert {arm: own.against and own.against.difference for arm, own in found.items()} == pytest.approx(
        {arm: expected.get(arm) for arm in plan.arms}
    )


@pytest.fixture
def reported(tiny: RunConfig, score: Callable[..., None]) -> Callable[..., Report]:
    """The report of these values with a floor."""

    def report(floor: Floor | None) -> Report:
        plan = planned(tiny)
        for (arm, seed), value in values().items():
            score(plan.run(arm, seed), plan.protocol(arm), {1: 2 * value, 2: value})
        return tables.report(plan, {}, floor=floor)

    return report


@pytest.mark.usefixtures("undrawn")
def test_the_table_tells_of_the_excess(reported: Callable[..., Report], tmp_path: Path) -> None:
    files = {path.suffix: path for path in tables.write(reported(FLOOR), tmp_path, "harness ablate toy")}
    text = files[".md"].read_text()
    title = "Excess of FID ↓ over its floor at NFE 2, against a:"
    rows = [line.split(" | ") for line in text.partition(title)[2].partition("\n\n")[2].splitlines()[2:6]]
    about = json.loads(files[".json"].read_text())
    assert rows[1][0] == "| b"
    assert rows[1][3] == f"{about['excess']['b']['against']['difference']:+.1%}"
    assert rows[3][3] == ""
    assert "- Floor of FID at NFE 2: 10 (one standard error either way: 9.859 to 10.14), measured on 2 sets" in text
    assert "- To score 5% less than a, an arm must have 54% less excess, and ties are nearly automatic." in text
    assert "- d has no comparison of excesses: 1 of 4 pairs have" in text
    assert about["floor"]["value"] == 10
    assert about["excess"]["d"]["against"] is None


@pytest.mark.usefixtures("undrawn")
def test_without_a_floor_there_is_no_note_about_it(reported: Callable[..., Report], tmp_path: Path) -> None:
    files = {path.suffix: path for path in tables.write(reported(None), tmp_path, "harness ablate toy")}
    assert "floor" not in files[".md"].read_text().lower()


def test_the_effect_of_a_floor_on_ratios_is_reported_where_it_matters(tiny: RunConfig) -> None:
    plan = planned(tiny)

    def told(value: float, error: float, mean: float) -> list[str]:
        floor = Floor("resampled", 64, 1, (value,), error)
        lines = excess.remarks(plan, floor, {"a": excess.Excess(value + mean, mean)})
        assert "drawn with replacement, because too few others exist" in lines[0]
        return lines[1:]

    assert told(4.0, 0.1, 4.5) == []
    assert told(98.0, 0.1, 2.0) == [
        "No arm can score 5% less than a, because a is so near the floor, and ties are nearly automatic. "
        "Read the excesses."
    ]
    assert told(92.0, 0.1, 8.0) == [
        "To score 5% less than a, an arm must have 62% less excess, and ties are nearly automatic. Read the excesses."
    ]
    assert told(60.0, 0.1, 40.0) == ["To score 5% less than a, an arm must have 12% less excess."]
    assert told(98.0, 1.1, 2.0)[0].startswith("The value of a, 100, cannot be told from the floor: here the metric")
    assert told(98.0, 1.1, -2.0)[0].startswith("The value of a, 96, cannot be told")
    squares = Floor("fresh", 64, 2, (5.0,), 0.1)
    assert "The rest of a value is its excess: value^2 = floor^2 + excess^2." in excess.remarks(plan, squares, {})[0]
