"""Advice about settings appears once, and the diagnoses of measurements are right."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch

from harness.core.config import override
from harness.core.registry import build
from harness.data.base import Data, load
from harness.data.images import Digits
from harness.evaluation.distances import TwoSample
from harness.evaluation.doubts import doubts
from harness.evaluation.fidelity import FID, KID, ExtrapolatedFID, Precision, Recall
from harness.flow.formulation import Formulation
from harness.training.advice import diagnoses, remedy, unfitting, warnings
from harness.training.config import TrainConfig

FAR = Data(torch.rand(100, 2) * 255, torch.rand(10, 2), torch.Tensor.float, torch.Tensor.float, "points")
GOOD = TrainConfig()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"ema_decay": None}, "train.ema_decay: no averaged weights"),
        ({"clip_norm": None}, "train.clip_norm: gradients are not clipped"),
        ({"batch_size": 31}, "train.batch_size: 31 is below 32"),
        ({"batch_size": 32}, None),
        ({"learning_rate": 6e-4}, "train.learning_rate: 0.0006 is outside"),
        ({"learning_rate": 9e-5}, "train.learning_rate: 9e-05 is outside"),
        ({"learning_rate": 1e-4}, None),
        ({"learning_rate": 5e-4}, None),
        ({"learning_rate": 8e-3, "steps": 520}, None),
        ({"learning_rate": 8e-3, "optimizer": "adam"}, None),
    ],
    ids=str,
)
def test_each_departure_from_advice_is_reported_alone(changes: dict[str, Any], said: str | None) -> None:
    found = warnings(override(GOOD, changes), load(Digits()), Formulation())
    assert len(found) == (said is not None)
    assert not said or found[0].startswith(said)


def test_data_that_are_not_normalised_are_seen() -> None:
    (line,) = warnings(GOOD, FAR, Formulation())
    assert line.startswith("dataset: encoded data have mean 1")


TOLD = {"objective": {"label_dropout": 0.1}}
BIASED = " does not see the classes"
UNFITTING: list[tuple[dict[str, Any], float, str | None]] = [
    # formulation, standard deviation of the data, expected text
    (TOLD | {"coupling": "exact_ot"}, 1.0, f"coupling: exact_ot{BIASED}"),
    (TOLD | {"coupling": {"name": "sinkhorn", "reg": 0.1}}, 1.0, f"coupling: sinkhorn{BIASED}"),
    (TOLD | {"coupling": "class_conditional_ot"}, 1.0, None),
    (TOLD, 1.0, None),
    ({"coupling": "exact_ot"}, 1.0, None),  # without classes there is no bias
    ({"prediction": "edm"}, 1.0, "prediction.sigma_data: 0.5 is far from 1, the data's sd"),
    ({"prediction": "edm"}, 0.3, "prediction.sigma_data: 0.5 is far from 0.3, the data's sd"),
    ({"prediction": {"name": "edm", "sigma_data": 2.0}}, 2.0, None),
    ({"prediction": "edm"}, 0.7, None),
    ({"prediction": "edm"}, 0.35, None),
    (
        {"weighting": {"name": "edm", "sigma_data": 0.25}},
        0.5,
        "weighting.sigma_data: 0.25 is far from 0.5, the data's sd",
    ),
    ({"weighting": {"name": "edm", "sigma_data": 0.25}}, 0.3, None),
    (
        {"interpolant": {"name": "ve", "sigma_max": 5.0}},
        1.0,
        "interpolant: ve: at t = 1 data of size 1 remain under noise of sd 5",
    ),
    ({"interpolant": {"name": "ve", "sigma_max": 50.0}}, 1.0, None),
    (
        {"interpolant": {"name": "vp_ddpm", "beta_max": 2.0}},
        1.0,
        "interpolant: vp_ddpm: at t = 1 data of size 0.592 remain",
    ),
    ({"interpolant": "vp_ddpm"}, 1.0, None),
    (
        {"interpolant": {"name": "fm_ot", "sigma_min": 0.2}},
        1.0,
        "interpolant: fm_ot: noise of sd 0.2 stays in samples of data of sd 1",
    ),
    (
        {"interpolant": {"name": "ve", "sigma_min": 0.3}},
        2.0,
        "interpolant: ve: noise of sd 0.3 stays in samples of data of sd 2",
    ),
    ({"interpolant": {"name": "fm_ot", "sigma_min": 0.05}}, 1.0, None),
]


def test_settings_that_do_not_fit_the_data_are_reported_before_training() -> None:
    """alpha(1) of vp_ddpm is exp(-(0.1 + 2) / 4) = 0.592."""
    for made, std, said in UNFITTING:
        x = torch.tensor([-std, std]).repeat(5000, 1)
        data = Data(x, x, torch.Tensor.float, torch.Tensor.float, "points")
        found = unfitting(Formulation.parse(made), data)
        assert len(found) == (said is not None), (made, std, found)
        assert not said or found[0].startswith(said), (made, std, found)
        assert set(found) <= set(warnings(GOOD, data, Formulation.parse(made)))


def test_the_remedy_names_the_first_cause_that_fits() -> None:
    unclipped = override(GOOD, {"clip_norm": None})
    assert "dataset: encoded data" in remedy(unclipped, FAR)
    assert "train.clip_norm is off" in remedy(unclipped, load(Digits()))
    assert "train.precision=fp32" in remedy(override(GOOD, {"precision": "bf16"}), load(Digits()))
    assert "lower train.learning_rate" in remedy(override(GOOD, {"precision": "fp32"}), load(Digits()))


def lines(
    losses: list[float], clipped: float = 0.0, held_out: Mapping[int, float] = MappingProxyType({})
) -> list[dict[str, float]]:
    return [
        {"step": step, "loss": loss, "clipped_share": clipped}
        | ({"held_out_loss": held_out[step]} if step in held_out else {})
        for step, loss in enumerate(losses)
    ]


FALLING = [1 / (1 + i) for i in range(20)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lines(FALLING), None),
        (lines(FALLING[:4]), None),
        (lines([1.0, 1.1] * 10), "the loss does not fall (1.05 in the first fifth, 1.05 in the last)"),
        (lines(FALLING, clipped=0.6), "60% of the last steps were clipped"),
        (
            lines(FALLING, held_out={5: 0.3, 10: 0.2, 19: 0.25}),
            "the held-out loss was lowest at step 10 (0.2, at the end 0.25)",
        ),
        (lines(FALLING, held_out={5: 0.3, 10: 0.2, 19: 0.201}), None),
        (
            lines(FALLING, held_out={5: 0.3, 10: 0.2, 19: 0.18}),
            "the held-out loss still fell at the end (from 0.2 to 0.18)",
        ),
        (lines(FALLING, held_out={5: 0.3, 10: 0.2, 19: 0.195}), None),
        ([*lines(FALLING), {"step": 20, "sample_spread": 0.6}], "the samples spread 60% as far as the data"),
        ([*lines(FALLING), {"step": 20, "sample_spread": 0.6}, {"step": 30, "sample_spread": 0.9}], None),
        (lines([]), None),
    ],
    ids=[
        "well",
        "too short",
        "flat",
        "clipped",
        "overtrained",
        "noise",
        "undertrained",
        "nearly done",
        "narrow",
        "wide in the end",
        "nothing",
    ],
)
def test_measurements_of_training_are_diagnosed(given: list[dict[str, float]], said: str | None) -> None:
    found = diagnoses(given)
    assert len(found) == (said is not None)
    assert not said or found[0].startswith(said)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"fid": {"8": 5.0, "32": 4.0, "0": 9.0}}, "FID still falls with more steps (5 at NFE 8, 4 at 32)"),
        ({"fid": {"8": 5.0, "32": 4.9}}, None),
        ({"fid": {"32": 4.9}}, None),
        (
            {"precision": {"8": 0.5, "32": 0.9}, "recall": {"8": 0.5, "32": 0.4}},
            "recall 0.40 is far below precision 0.90 at NFE 32",
        ),
        ({"precision": {"32": 0.6}, "recall": {"32": 0.5}}, None),
        ({"kid": {"8": -0.001, "32": -0.002}}, None),
        ({"kid": {"8": 0.004, "32": 0.002}}, "KID still falls with more steps (0.004 at NFE 8, 0.002 at 32)"),
        ({"recall": {"8": 0.9, "32": 0.4}}, None),
    ],
    ids=["falling", "flat", "one", "collapsed", "balanced", "by chance", "above 0", "higher is better"],
)
def test_evaluations_are_diagnosed(values: dict[str, dict[str, float]], said: str | None) -> None:
    metrics = [metric for metric in (FID(), KID(), Precision(), Recall()) if metric.name in values]
    found = doubts(values, metrics)
    assert len(found) == (said is not None)
    assert not said or found[0].startswith(said)


def test_a_decrease_within_the_interval_gives_no_diagnosis() -> None:
    """For the distance of c2st from one half, and for the extrapolated FID, with intervals as in JSON."""
    for metric in (TwoSample(), ExtrapolatedFID()):
        for before, after, interval, falls in (
            (0.20, 0.05, [0.15, 0.25], True),
            (0.20, 0.16, [0.15, 0.25], False),
            (0.03, 0.01, [0.0, 0.06], False),
            (0.03, -0.01, [-0.02, 0.06], False),
            (0.03, -0.05, [-0.02, 0.06], True),
        ):
            values = {metric.name: {"8": before, "32": after}}
            intervals = {metric.name: {"8": interval, "32": interval}}
            assert bool(doubts(values, [metric], intervals)) == falls, (metric.name, before, after)


def test_a_metric_without_a_value_hides_no_doubt_about_others() -> None:
    """For example if its samples failed at every NFE; then the evaluation gives the reason."""
    values = {"kid": {"8": 2.0, "16": 1.0}}
    (said,) = doubts(values, [build("metric", "fid"), build("metric", "kid")])
    assert said.startswith("KID still falls")
