"""Metrics of features in known configurations, and the judge that computes the features once for all metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from typed import tensor

from harness.core.errors import Diverged
from harness.core.files import results_folder
from harness.core.registry import build, find, names
from harness.data.base import Data, load
from harness.data.images import Digits
from harness.data.points import EightGaussians
from harness.evaluation import judge as module
from harness.evaluation.judge import Judge, SampleBatch
from harness.evaluation.metric import SampleMetric, Summary
from harness.evaluation.protocol import EvaluateConfig


def normal(*shape: int, seed: int) -> np.ndarray:
    """Return normal values that are exact in float32, the dtype of a summary."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32).astype(np.float64)


def value(name: str, samples: np.ndarray, reference: np.ndarray, **fields: Any) -> float:
    """Return the metric's value for samples and a reference of one class."""
    metric: SampleMetric = build("metric", {"name": name, **fields})
    of_samples, of_reference = (
        m.summarise(torch.from_numpy(x), torch.zeros(len(x), dtype=torch.int64))
        for m, x in ((metric, samples), (metric.of_reference, reference))
    )
    return metric.compare(of_samples, of_reference)


def unbiased_cubic_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018: means of (x . y / D + 1)^3 over pairs, without pairs of a sample with itself."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def among(a: np.ndarray) -> float:
        return float((kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1)))

    return among(x) + among(y) - 2 * float(kernel(x, y).mean())


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_kid_of_everything_is_the_unbiased_mmd_of_a_cubic_kernel(shift: float) -> None:
    x = normal(90, 7, seed=0) + shift
    y = 1.2 * normal(90, 7, seed=1)
    expected = unbiased_cubic_mmd(x.astype(np.float32).astype(np.float64), y.astype(np.float32).astype(np.float64))
    for fields in ({"subset_size": 90, "subsets": 1}, {"subsets": 3}):
        assert value("kid", x, y, **fields) == pytest.approx(expected, rel=1e-9)


def test_kid_of_subsets_averages_to_that_of_everything() -> None:
    x = normal(300, 4, seed=0) + 0.5
    y = normal(700, 4, seed=1)
    each = [value("kid", x, y, subsets=100, subset_size=size) for size in (20, 100, 200)]
    assert each == pytest.approx([unbiased_cubic_mmd(x, y)] * 3, rel=0.25)
    assert len(set(each)) == 3
    assert value("kid", x, y, subsets=100) == pytest.approx(unbiased_cubic_mmd(x, y), rel=0.05)  # 300 samples of each


def test_kid_has_no_bias() -> None:
    """Over pairs of sets from one distribution, its mean is zero; half of the values are negative."""
    values = np.array(
        [value("kid", normal(30, 3, seed=seed), normal(30, 3, seed=seed + 1000), subsets=1) for seed in range(200)]
    )
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert 0.3 < (values < 0).mean() < 0.8


LINE = np.arange(20.0)[:, None] * [1, 0]
"""Twenty points at distance one."""
FAR = np.array([0.0, 1000.0])


def precision_and_recall(samples: np.ndarray, reference: np.ndarray, **fields: Any) -> tuple[float, float]:
    return value("precision", samples, reference, **fields), value("recall", samples, reference, **fields)


def test_samples_in_one_cluster_of_two_are_precise_and_recall_half() -> None:
    both = np.concatenate([LINE, LINE + FAR])
    assert precision_and_recall(LINE + 0.1, both) == (1, 0.5)
    assert precision_and_recall(both + 0.1, LINE) == (0.5, 1)
    assert precision_and_recall(np.concatenate([LINE, LINE[:10] + FAR]), LINE) == (pytest.approx(2 / 3), 1)


def test_samples_far_from_everything_are_neither_precise_nor_recall_anything() -> None:
    assert precision_and_recall(LINE + FAR, LINE) == (0, 0)
    assert precision_and_recall(LINE, LINE) == (1, 1)


def test_the_ball_of_a_sample_reaches_to_its_neighbour_of_the_number() -> None:
    """The last point of the line has its k-th neighbour at distance k; beyond it, no other ball reaches farther."""
    beyond = LINE[:8] + np.array([21.5, 0])  # 2.5, 3.5, 4.5 ... past the end
    assert [8 * value("precision", beyond, LINE, neighbours=k) for k in (2, 3, 4, 5)] == pytest.approx([0, 1, 2, 3])
    assert [20 * value("recall", beyond, LINE, neighbours=k) for k in (2, 3, 4, 5)] == pytest.approx([0, 1, 2, 3])
    assert value("precision", beyond, LINE) == value("precision", beyond, LINE, neighbours=3)


SHORTER: dict[str, dict[str, Any]] = {"c2st": {"trees": 5}, "kid": {"subsets": 10, "subset_size": 60}}
"""Settings for short tests."""
JUDGES = [name for name in names("metric") if issubclass(find("metric", name), SampleMetric)]

CELLS = np.array([[0.0, 2.0, 1.0, 0.0, 3.0] * 8, [1.0, 0.0, 5.0, 2.0, 2.0] * 8]).T


def good_and_bad(metric: type[SampleMetric]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a reference, similar samples and different samples."""
    if metric.kinds == ("cells",):
        return CELLS, CELLS[:-3], 4 * CELLS + 1
    if metric.kinds == ("sequence",):
        return normal(200, 6, 2, seed=0), normal(200, 6, 2, seed=1), normal(200, 6, 2, seed=2).cumsum(1)
    if metric.name == "authenticity":
        return normal(100, 3, seed=0), normal(100, 3, seed=1), normal(100, 3, seed=0)
    return normal(100, 3, seed=0), normal(100, 3, seed=1), 4 + 0.1 * normal(100, 3, seed=2)


@pytest.mark.parametrize("name", JUDGES)
def test_every_metric_says_in_which_direction_it_is_better(name: str) -> None:
    metric = find("metric", name)
    assert issubclass(metric, SampleMetric)
    if metric.needs_classes:
        classes = torch.arange(100) % 2
        features = [torch.from_numpy(normal(100, 1, seed=seed)) + 9 * classes[:, None] for seed in (0, 1)]
        built = build("metric", name)
        reference, good, bad = (
            built.summarise(x, y)
            for x, y in zip((*features, features[1]), (classes, classes, 1 - classes), strict=True)
        )
        values = built.compare(good, reference), built.compare(bad, reference)
    else:
        whole, *sets = good_and_bad(metric)
        fields = SHORTER.get(name, {})
        values = value(name, sets[0], whole, **fields), value(name, sets[1], whole, **fields)
    assert (values[0] < values[1]) == metric.lower_is_better
    assert values[0] != values[1]


def clusters(metric: type[SampleMetric], number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return samples of three classes in any order, and their classes."""
    classes = torch.arange(number) % 3
    shape = (6, 2) if "sequence" in metric.kinds else (5,)
    x = torch.from_numpy(normal(number, *shape, seed=seed)) + 3 * classes.view(-1, *[1] * len(shape))
    return (x.clamp_min(0) if "cells" in metric.kinds else x), classes


def test_no_metric_depends_on_the_order_of_the_rows() -> None:
    """Samples and reference sorted by class, by size, and reversed: values stay within the spread over permutations."""
    for name in JUDGES:
        metric: SampleMetric = build("metric", {"name": name, **SHORTER.get(name, {})})
        x, of = clusters(type(metric), 180, 0)
        y, known = clusters(type(metric), 240, 1)

        def value_of(  # type: ignore[no-untyped-def]
            rows: Tensor, real: Tensor, metric=metric, x=x, of=of, y=y, known=known
        ) -> float:
            return metric.compare(
                metric.summarise(x[rows], of[rows]), metric.of_reference.summarise(y[real], known[real])
            )

        number = 60 if name in ("fid_infinity", "lowest_fid") else 6  # parts of them have unequal shares of the classes
        draws = [torch.Generator().manual_seed(seed) for seed in range(number)]
        usual = [value_of(torch.randperm(180, generator=draw), torch.randperm(240, generator=draw)) for draw in draws]
        slack = 1.5 * (max(usual) - min(usual)) + 1e-6 * abs(np.mean(usual)) + 1e-9
        size, real_size = (part.flatten(1).sum(1) for part in (x, y))
        for order, rows, real in (
            ("by class", of.argsort(stable=True), known.argsort(stable=True)),
            ("by class, falling", of.argsort(descending=True, stable=True), torch.arange(240)),
            ("by size", size.argsort(), real_size.argsort(descending=True)),
            ("reference by class", torch.arange(180), known.argsort(stable=True)),
        ):
            assert value_of(rows, real) == pytest.approx(np.mean(usual), abs=float(slack)), (name, order)


def broken(x: np.ndarray, real: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return samples with faults that a single metric may not detect."""
    mean = x.mean(0)
    spread = x.std(0)
    noise = np.random.default_rng(seed).normal(size=x.shape) * spread + mean
    half = x[np.argsort(x.reshape(len(x), -1).sum(1))[: len(x) // 2]]
    return {
        "one": np.repeat(x[:1], len(x), axis=0),
        "narrow": mean + 0.3 * (x - mean),
        "wide": mean + 3 * (x - mean),
        "elsewhere": x + 2 * spread,
        "noise": noise,
        "half of the modes": np.concatenate([half, half]),
    }


def test_real_samples_lose_to_no_broken_ones_where_less_is_better() -> None:
    """Or at most by the difference between draws of real samples. For metrics where more is better, more can be a
    fault; the names say which.
    """
    scores = {name for name in JUDGES if not find("metric", name).lower_is_better}  # type: ignore[attr-defined]
    assert scores == {"precision", "recall", "isc", "label_accuracy", "authenticity"}
    for name in sorted(set(JUDGES) - scores):
        kind = find("metric", name)
        fields = SHORTER.get(name, {})
        assert issubclass(kind, SampleMetric)
        real = clusters(kind, 600, 0)[0].numpy()
        drawn = [clusters(kind, 120, seed)[0].numpy() for seed in (1, 2, 3)]
        unseen = [value(name, x, real, **fields) for x in drawn]
        for fault, samples in broken(drawn[0], real, 4).items():
            assert value(name, samples, real, **fields) > np.mean(unseen) - 3 * np.std(unseen, ddof=1), (name, fault)
    copies = normal(100, 3, seed=0)
    assert value("c2st", copies, copies, trees=10) > value("c2st", normal(100, 3, seed=1), copies, trees=10)


def metrics(*chosen: str) -> tuple[SampleMetric, ...]:
    return tuple(build("metric", name) for name in chosen)


DIGITS = EvaluateConfig(
    num_samples=100,
    batch_size=40,
    num_reference=200,
    extractor="digits",
    metrics=metrics("fid", "kid", "precision", "recall"),
)
POINTS = EvaluateConfig(
    num_samples=300, batch_size=128, extractor="values", metrics=metrics("energy", "label_accuracy", "mmd")
)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load(Digits())


@pytest.fixture(scope="module")
def points() -> Data:
    return load(EightGaussians(number=2000))


def batches(samples: Tensor, size: int = 40) -> list[SampleBatch]:
    return [SampleBatch(part) for part in samples.split(size)]


def files() -> set[str]:
    """Return the files below references/."""
    folder = results_folder() / "local" / "references"
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_features_are_computed_once_for_all_metrics(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = module.features

    def counted(extractor: Any, images: Tensor, device: str) -> tuple[Tensor, Tensor | None]:
        seen.append(len(images))
        return original(extractor, images, device)

    monkeypatch.setattr(module, "features", counted)
    judge = Judge(DIGITS, digits, "cpu")
    assert seen == [40] * 5
    scores = judge(batches(tensor(digits.held_out)[:100]))
    assert seen == [40] * 5 + [40, 40, 20]
    assert list(scores) == ["fid", "kid", "precision", "recall"]


def test_the_shared_summary_of_metrics_is_computed_and_written_once(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    summarised: list[int] = []
    write = module.write_atomic
    whole = SampleMetric.summarise

    def noted(path: Path, content: bytes) -> None:
        written.append(path.name)
        write(path, content)

    def counted(self: SampleMetric, features: Tensor, classes: Tensor | None) -> dict[str, np.ndarray]:
        summarised.append(len(features))
        return whole(self, features, classes)

    monkeypatch.setattr(module, "write_atomic", noted)
    monkeypatch.setattr(SampleMetric, "summarise", counted)
    shared = dataclasses.replace(DIGITS, metrics=metrics("kid", "precision", "recall"))
    judge = Judge(shared, digits, "cpu")
    judge(batches(tensor(digits.held_out)[:100]))
    assert written == ["whole.npz"]
    assert summarised == [200, 100]
    Judge(shared, digits, "cpu")
    assert written == ["whole.npz"]
    Judge(DIGITS, digits, "cpu")
    assert written == ["whole.npz", "fid.npz"]
    assert files() == {"lock", "whole.npz", "fid.npz"}


def test_a_kept_reference_gives_the_same_scores(digits: Data) -> None:
    samples = batches(tensor(digits.held_out)[:100])
    first, again = (Judge(DIGITS, digits, "cpu")(samples) for _ in range(2))
    assert first == again


def test_values_keep_nothing_on_disk_but_a_lock(points: Data) -> None:
    passes: list[int] = []

    def watch(given: Iterable[SampleBatch], title: str, total: int) -> Generator[SampleBatch, None, None]:
        passes.append(total)
        yield from given

    for _ in range(2):
        Judge(POINTS, points, "cpu", watch)
    assert files() == {"lock"}
    assert passes == [16, 16]  # 2,000 points in batches of 128, each time


def test_the_reference_is_of_the_size_that_is_asked_for_and_its_classes_follow_its_samples(points: Data) -> None:
    assert points.classes is not None
    known = {
        row.tobytes(): label
        for row, label in zip(tensor(points.train).numpy(), tensor(points.classes).tolist(), strict=True)
    }
    whole = Judge(dataclasses.replace(POINTS, num_reference=500), points, "cpu").reference["whole"]
    rows = [row.tobytes() for row in whole["features"]]
    assert len(set(rows)) == 500
    assert [known[row] for row in rows] == whole["classes"].tolist()
    assert rows != [row.numpy().tobytes() for row in tensor(points.train)[:500]]


def test_the_classes_of_kept_features_follow_them_too(digits: Data) -> None:
    """Read back from disk, they agree with a nearest neighbour classifier in feature space."""
    config = dataclasses.replace(DIGITS, num_reference=None, num_samples=200, metrics=metrics("label_accuracy"))
    for _ in range(2):
        judge = Judge(config, digits, "cpu")
        assert len(judge.reference["whole"]["classes"]) == 1438
        assert judge(judge.resampled())["label_accuracy"] > 0.98


def test_resampled_samples_bring_their_own_classes(points: Data) -> None:
    judge = Judge(POINTS, points, "cpu")
    assert points.classes is not None
    known = {
        row.tobytes(): label
        for row, label in zip(tensor(points.train).numpy(), tensor(points.classes).tolist(), strict=True)
    }
    drawn = list(judge.resampled())
    assert [len(batch.samples) for batch in drawn] == [128, 128, 44]
    for samples, classes, *_ in drawn:
        assert classes is not None
        assert [known[row.tobytes()] for row in samples.numpy()] == classes.tolist()
    assert judge(drawn)["label_accuracy"] > 0.99


def test_the_classes_of_noise_come_as_often_as_in_training_and_are_read_by_chance(points: Data) -> None:
    rare = dataclasses.replace(
        points, classes=(torch.arange(2000) >= 1800).long(), held_out_classes=(torch.arange(400) >= 360).long()
    )
    judge = Judge(dataclasses.replace(POINTS, num_samples=2000), rare, "cpu")
    drawn = torch.cat([batch.classes for batch in judge.gaussian() if batch.classes is not None])
    assert len(drawn) == 2000
    assert stats.binomtest(int(drawn.sum()), 2000, 0.1).pvalue > 1e-3
    by_chance = Judge(POINTS, points, "cpu")
    assert by_chance(by_chance.gaussian())["label_accuracy"] == pytest.approx(1 / 8, abs=0.07)


def test_data_without_classes_are_judged_without(points: Data) -> None:
    nameless = dataclasses.replace(points, classes=None, held_out_classes=None)
    judge = Judge(dataclasses.replace(POINTS, metrics=metrics("energy")), nameless, "cpu")
    assert "classes" not in judge.reference["whole"]
    for batch in (*judge.resampled(), *judge.gaussian(), *(judge.held_out() or ())):
        assert batch.classes is None


def test_the_requested_number_of_real_samples_is_never_trained_on(points: Data) -> None:
    config = dataclasses.replace(POINTS, metrics=metrics("energy"))
    found = Judge(config, points, "cpu").held_out()
    assert found is not None
    rows = [row.numpy().tobytes() for batch in found for row in batch.samples]
    held = [row.numpy().tobytes() for row in tensor(points.held_out)]
    assert len(rows) == len(set(rows)) == 300
    assert set(rows) <= set(held)
    assert rows != held[:300]
    every = Judge(dataclasses.replace(config, num_samples=400), points, "cpu").held_out()
    assert every is not None
    assert sum(len(batch.samples) for batch in every) == len(points.held_out) == 400


def test_there_are_no_real_samples_if_fewer_are_held_out(points: Data) -> None:
    more = dataclasses.replace(POINTS, num_samples=401, metrics=metrics("energy"))
    assert Judge(more, points, "cpu").held_out() is None


def test_real_samples_bring_their_own_classes(points: Data, digits: Data) -> None:
    for config, data in (
        (POINTS, points),
        (dataclasses.replace(DIGITS, metrics=metrics("fid", "label_accuracy")), digits),
    ):
        judge = Judge(config, data, "cpu")
        found = judge.held_out()
        assert found is not None
        assert data.held_out_classes is not None
        known = {
            row.numpy().tobytes(): label
            for row, label in zip(tensor(data.held_out), tensor(data.held_out_classes).tolist(), strict=True)
        }
        batches = list(found)
        for batch in batches:
            assert batch.classes is not None
            assert [known[row.numpy().tobytes()] for row in batch.samples] == batch.classes.tolist()
        assert judge(batches)["label_accuracy"] > 0.9


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_have_no_score(points: Data, wrong: float) -> None:
    judge = Judge(dataclasses.replace(POINTS, metrics=metrics("energy", "mmd")), points, "cpu")
    samples = tensor(points.held_out)[:300].clone()
    assert judge(batches(samples)).keys() == {"energy", "mmd"}
    samples[299, 1] = wrong
    with pytest.raises(Diverged, match="cannot be judged: some are not finite"):
        judge(batches(samples))


def test_a_score_that_is_not_finite_is_no_value(points: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_number(self: SampleMetric, samples: Summary, reference: Summary) -> float:
        return math.inf

    judge = Judge(dataclasses.replace(POINTS, metrics=metrics("energy", "mmd")), points, "cpu")
    monkeypatch.setattr(find("metric", "mmd"), "compare", no_number)
    with pytest.raises(Diverged, match=r"cannot be judged: .*mmd"):
        judge(batches(tensor(points.held_out)[:300]))
