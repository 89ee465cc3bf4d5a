import contextlib
import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from typed import tensor

from harness.core import registry
from harness.core.config import override
from harness.core.errors import ConfigError
from harness.data.base import Data, Kind, load
from harness.data.images import Digits, decode, encode
from harness.evaluation import protocol as module
from harness.evaluation.doubts import short_of_samples
from harness.evaluation.extractors import JUDGE_VALUES, InceptionExtractor
from harness.evaluation.fidelity import FID
from harness.evaluation.metric import SampleMetric, reference_rows
from harness.evaluation.protocol import EvaluateConfig, Protocol, num_reference
from harness.runs.config import RunConfig
from harness.runs.folder import Run

BASE = EvaluateConfig(nfe=(2, 4), num_samples=64, batch_size=32, extractor="digits")
VALUES = override(BASE, {"extractor": "values", "metrics": ["mmd"]})
POINTS = Data(torch.zeros(99, 3), torch.zeros(9, 3), torch.Tensor.float, torch.Tensor.float, "points")
LARGE = Data(
    torch.zeros(99, 3, 32, 32, dtype=torch.uint8), torch.zeros(9, 3, 32, 32, dtype=torch.uint8), encode, decode, "image"
)
IN_THE_PROTOCOL: dict[str, Any] = {
    "solver": "heun",
    "time_grid": "quadratic",
    "guidance": {"scale": 2},
    "num_samples": 65,
    "more_samples": [{"nfe": 4, "num_samples": 65}],
    "precision": "bf16",
    "sampling_seed": 1,
    "noise": "laplace",
    "num_reference": 500,
    "batch_size": 16,
    "extractor": "inception",
    "average": "last",
    "reference": "statistics.npz",
    "checkpoint": "best",
}
SOLVERS: dict[str, Any] = {name: registry.find("solver", name) for name in registry.names("solver")}
ADAPTIVE = [name for name, solver in SOLVERS.items() if solver.adaptive]
WHAT_IS_MEASURED = {"nfe", "metrics"}


@pytest.fixture
def data() -> Data:
    return load(Digits())


def test_every_field_is_tested_here() -> None:
    assert {f.name for f in dataclasses.fields(EvaluateConfig)} == IN_THE_PROTOCOL.keys() | WHAT_IS_MEASURED


@pytest.mark.parametrize("name", IN_THE_PROTOCOL)
def test_a_changed_field_is_another_protocol(
    data: Data, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "weights_hash", lambda extractor: "0" * 12)
    monkeypatch.chdir(tmp_path)
    np.savez("statistics.npz", mu=np.zeros(64), sigma=np.eye(64))
    assert Protocol.of(override(BASE, {name: IN_THE_PROTOCOL[name]}), data).digest != Protocol.of(BASE, data).digest


def test_other_weights_or_data_are_another_protocol(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Protocol.of(BASE, data)
    assert Protocol.of(BASE, dataclasses.replace(data, train=255 - tensor(data.train))).digest != one.digest
    monkeypatch.setattr(module, "weights_hash", lambda extractor: "0" * 12)
    assert Protocol.of(BASE, data).digest != one.digest


def test_metrics_of_the_flow_differ_from_those_of_samples() -> None:
    config = override(BASE, {"metrics": ["straightness", "fid", "field_error", "kid"]})
    assert [metric.name for metric in config.flow_metrics] == ["straightness", "field_error"]
    assert [metric.name for metric in config.sample_metrics] == ["fid", "kid"]


def test_nfe_and_metrics_select_values_within_a_protocol(
    tiny: RunConfig, data: Data, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._MEMBERS, "metric", dict(registry._MEMBERS["metric"]))

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(FID, name="other"):
        """Another metric of the harness; a plugin's file would be part of the protocol."""

    Other.__module__ = FID.__module__
    run = Run.of(dataclasses.replace(tiny, evaluate=BASE))
    protocol = Protocol.of(BASE, data)
    assert run.missing(protocol) == [2, 4]
    score(run, protocol, {2: 1.0, 4: 1.0})
    assert run.missing(protocol) == []
    for change, missing in (({"nfe": [4, 8]}, [8]), ({"metrics": ["fid", "other"]}, [2, 4])):
        changed = override(BASE, change)
        assert Protocol.of(changed, data) == protocol
        assert Run.of(dataclasses.replace(tiny, evaluate=changed)).missing(protocol) == missing


def test_the_reference_is_eight_times_the_samples_or_all_there_are(data: Data) -> None:
    assert num_reference(BASE, data) == 512
    assert num_reference(override(BASE, {"num_samples": 180}), data) == len(data.train) == 1438
    assert num_reference(override(BASE, {"num_reference": 100}), data) == 100
    with pytest.raises(
        ConfigError,
        match=r"evaluate\.num_reference: 1439 is more than the 1438 training samples\. Give null or fewer\.",
    ):
        num_reference(override(BASE, {"num_reference": 1439}), data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "heun", "nfe": [2, 5]}, r"^nfe: heun spends 2 calls a step and cannot spend 5\. Use 4\.$"),
        ({"solver": "heun", "nfe": [1]}, r"Use 2\.$"),
        ({"nfe": []}, r"^nfe: \[\] is empty"),
        ({"nfe": [4, 4]}, r"^nfe: \[4, 4\] .* names one twice"),
        ({"nfe": [-1]}, r"^nfe\[0\]: -1 is outside \[0, 10000\]"),
        ({"nfe": [0]}, r"^nfe: euler spends 1 calls a step and cannot spend 0\. Use 1\.$"),
        ({"nfe": [4, 0], "solver": "rk4"}, r"^nfe: rk4 spends 4 calls a step and cannot spend 0\. Use 4\.$"),
        (
            {"solver": "dopri5"},
            r"^nfe: dopri5 chooses its own steps and cannot spend exactly 2\. Use 0; its calls are counted\.$",
        ),
        ({"solver": "dopri5", "nfe": [0, 8]}, r"^nfe: dopri5 .* cannot spend exactly 8"),
        ({"solver": "dopri5", "nfe": [0, 0]}, r"^nfe: \[0, 0\] .* names one twice"),
        ({"metrics": []}, r"^metrics: \[\] is empty"),
        ({"metrics": ["fid", "fid"]}, r"^metrics: .* names one twice"),
        ({"num_samples": 1}, r"^num_samples: one sample has no spread\. Take two or more\.$"),
        ({"num_reference": 1}, r"^num_reference: one sample has no spread"),
        ({"extractor": "digit"}, r"^extractor: .* Did you mean 'digits'"),
        (
            {"metrics": ["fid", {"name": "kid", "subset_size": 1}]},
            r"^metrics\[1\]\.subset_size: 1 is outside \[2, 1000000000\]",
        ),
    ],
)
def test_impossible_measurements_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(BASE, changes)


@pytest.mark.parametrize("name", registry.names("solver"))
def test_no_calls_are_for_adaptive_solvers_alone(name: str) -> None:
    """0 lets the solver choose; all other solvers need a fixed number."""
    taken, refused = ([0], [4]) if name in ADAPTIVE else ([4], [0])
    assert override(BASE, {"solver": name, "nfe": taken}).nfe == tuple(taken)
    with pytest.raises(ConfigError, match=rf"^nfe: {name} .*cannot spend (exactly )?{refused[0]}\."):
        override(BASE, {"solver": name, "nfe": refused})


def test_a_field_of_the_solver_or_the_grid_is_another_protocol(data: Data) -> None:
    digests = {Protocol.of(BASE, data).digest}
    for change in (
        {"solver": "dopri5", "nfe": [0]},
        {"solver": {"name": "dopri5", "rtol": 1e-3}, "nfe": [0]},
        {"solver": "euler_maruyama"},
        {"solver": {"name": "euler_maruyama", "diffusion": "kl"}},
        {"time_grid": "shifted"},
        {"time_grid": {"name": "shifted", "shift": 2}},
    ):
        digests.add(Protocol.of(override(BASE, change), data).digest)
    assert len(digests) == 7


def test_values_are_a_protocol_without_weights(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "weights_hash", lambda extractor: pytest.fail("no weights are read"))
    protocol = Protocol.of(VALUES, data)
    assert (protocol.extractor, protocol.weights) == ("values", "")


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (LARGE, {}, "evaluate.extractor: the digits classifier reads 8x8 images, and these are 32x32. Set "
         f"evaluate.extractor=inception. Without its weights: {JUDGE_VALUES}"),
        (POINTS, {}, f"evaluate.extractor: digits reads images, and these data are points. {JUDGE_VALUES}"),
        (POINTS, {"extractor": "inception"},
         f"evaluate.extractor: inception reads images, and these data are points. {JUDGE_VALUES}"),
        (
            POINTS, {"extractor": "values"},
            "evaluate.metrics[0]: fid reads features, and evaluate.extractor gives values. Choose an extractor or "
            "another metric.",
        ),
        (
            LARGE, {"extractor": "values", "metrics": ["mmd", "kid"]},
            "evaluate.metrics[1]: kid reads features, and evaluate.extractor gives values. Choose an extractor or "
            "another metric.",
        ),
        (
            LARGE, {"extractor": "inception", "metrics": ["fid", "energy"]},
            "evaluate.metrics[1]: energy reads values, and evaluate.extractor gives features. Choose "
            "evaluate.extractor=values or another metric.",
        ),
        (
            POINTS, {"extractor": "values", "metrics": ["gene_mean"]},
            "evaluate.metrics[0]: gene_mean is for cells, and these data are points. Choose another.",
        ),
        (
            POINTS, {"extractor": "values", "metrics": ["spectrum"]},
            "evaluate.metrics[0]: spectrum is for sequence, and these data are points. Choose another.",
        ),
        (
            POINTS, {"extractor": "values", "metrics": ["label_accuracy"]},
            "evaluate.metrics[0]: label_accuracy needs classes, and these data have none. Choose another.",
        ),
    ],
)  # fmt: skip
def test_metrics_that_cannot_read_the_data_are_refused(
    data: Data, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "weights_hash", lambda extractor: "0" * 12)
    with pytest.raises(ConfigError) as caught:
        Protocol.of(override(BASE, {"num_reference": 50, **changes}), data)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", registry.names("metric"))
def test_every_metric_reads_data_of_its_kinds_with_its_requirements(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other data: over all kinds, with and without an extractor and classes."""
    monkeypatch.setattr(module, "weights_hash", lambda extractor: "0" * 12)
    monkeypatch.setattr(InceptionExtractor, "gives_logits", lambda extractor: True)
    metric = registry.build("metric", name)
    read = set()
    for kind in get_args(Kind):
        for extractor, classes in itertools.product(("inception", "values"), (None, torch.arange(99))):
            known = None if classes is None else torch.arange(9)
            given = dataclasses.replace(
                LARGE if kind == "image" else POINTS, kind=kind, classes=classes, held_out_classes=known
            )
            config = override(BASE, {"extractor": extractor, "metrics": [name], "num_reference": 99, "num_samples": 63})
            with contextlib.suppress(ConfigError):
                read.add((Protocol.of(config, given).extractor, kind, classes is not None))
    both = ["inception", "values"]
    by_reading = {"features": both[:1], "logits": both[:1], "values": both[1:], "either": both}
    extractors = by_reading[metric.reads] if isinstance(metric, SampleMetric) else both
    assert read == {
        (extractor, kind, classes)
        for extractor in extractors
        for kind in metric.kinds or get_args(Kind)
        for classes in (False, True)
        if (extractor == "values" or kind == "image") and (classes or not metric.needs_classes)
    }
    assert read


def test_parameters_of_a_metric_are_part_of_the_protocol(data: Data) -> None:
    usual = Protocol.of(override(BASE, {"metrics": ["kid"]}), data)
    assert Protocol.of(override(BASE, {"metrics": [{"name": "kid", "subset_size": 1000}]}), data) == usual
    assert Protocol.of(override(BASE, {"metrics": [{"name": "kid", "subset_size": 20}]}), data).digest != usual.digest
    with pytest.raises(ConfigError, match="names one twice"):
        override(BASE, {"metrics": ["kid", {"name": "kid", "subset_size": 20}]})


SMALL = 60
"""Samples of every kind, enough for all metrics."""


def few(kind: Kind) -> Data:
    """Return samples of six classes in turn, in a shape that every metric of the kind reads."""
    shape = {"image": (1, 8, 8), "sequence": (4, 2)}.get(kind, (3,))
    values = torch.rand(SMALL, *shape, generator=torch.Generator().manual_seed(0))
    train = (255 * values).byte() if kind == "image" else values
    classes = torch.arange(SMALL) % 6
    return Data(train, train, torch.Tensor.float, torch.Tensor.float, kind, classes=classes, held_out_classes=classes)


def refusal(config: EvaluateConfig, data: Data) -> str | None:
    """Return the error line of a configuration, or None."""
    try:
        Protocol.of(config, data)
    except ConfigError as error:
        return str(error)
    return None


def test_a_metric_has_a_value_or_is_refused_in_one_line_however_few_the_samples_are() -> None:
    """Over all metrics and sizes of samples and reference; accepted settings are computed."""
    shorter: dict[str, dict[str, Any]] = {"c2st": {"trees": 3}, "kid": {"subsets": 3}}
    refused = set()
    for name in registry.names("metric"):
        chosen = {"name": name, **shorter.get(name, {})}
        metric = registry.build("metric", chosen)
        if not isinstance(metric, SampleMetric):
            continue
        kind: Any = metric.kinds[0] if metric.kinds else "points" if metric.reads == "values" else "image"
        data = few(kind)
        values = tensor(data.held_out).double().squeeze(1) if kind == "image" else tensor(data.held_out).double()
        classes = tensor(data.held_out_classes)
        values = values if metric.kinds else values.flatten(1)
        for samples, reference in itertools.product((2, 3, 4, 5, 19, 20, 40), (2, 3, 4, 5, 60)):
            changes = {"extractor": "digits" if kind == "image" else "values", "metrics": [chosen]}
            said = refusal(override(BASE, changes | {"num_samples": samples, "num_reference": reference}), data)
            if said is not None:
                refused.add(name)
                assert re.match(rf"evaluate\.metrics\[0\]: .*\b({samples}|{reference})\b.*\. (Take|Raise) ", said), said
                continue
            rows = reference_rows(data, reference)
            real = metric.of_reference.summarise(values[rows], classes[rows])
            found = metric.estimate(metric.summarise(values[:samples], classes[:samples]), real).value
            assert math.isfinite(found), (name, samples, reference)
    assert refused == {
        "precision", "recall", "c2st", "isc", "label_accuracy", "class_wasserstein", "fid_infinity", "lowest_fid",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["precision"], "num_samples": 3}, "precision has no value for 3 samples. Take 4 or more."),
        (
            {"metrics": ["recall"], "num_reference": 3},
            "recall has no value for 3 samples of the reference. Take 4 or more.",
        ),
        (
            {"metrics": [{"name": "recall", "neighbours": 9}], "num_samples": 9},
            "recall has no value for 9 samples. Take 10 or more.",
        ),
        (
            {"metrics": ["isc"], "num_samples": 19},
            "19 samples are too few for 10 splits: a single sample always scores 1. Take 20 or more",
        ),
        ({"metrics": [{"name": "isc", "splits": 40}]}, "64 samples are too few for 40 splits"),
        ({"metrics": ["fid_infinity"], "num_samples": 39}, "39 samples are too few for 10 blocks. Take 40 or more."),
        ({"metrics": ["label_accuracy"], "num_reference": 9}, "the 9 samples of the reference lack "),
    ],
)
def test_too_few_samples_for_a_metric_are_refused_before_training(data: Data, changes: dict, message: str) -> None:
    """At the metric's path, with sample sizes counted from its definition."""
    with pytest.raises(ConfigError) as caught:
        Protocol.of(override(BASE, changes), data)
    assert str(caught.value).startswith(f"evaluate.metrics[0]: {message}")


def test_label_accuracy_needs_two_classes(data: Data) -> None:
    one = dataclasses.replace(
        data, classes=0 * tensor(data.classes), held_out_classes=0 * tensor(data.held_out_classes), class_names=()
    )
    with pytest.raises(ConfigError, match="the data have one class"):
        Protocol.of(override(BASE, {"metrics": ["label_accuracy"]}), one)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_samples": 63}, "63 samples are fewer than the 64 features: FID is far too high"),
        ({"num_samples": 64}, None),
        ({"num_samples": 63, "metrics": ["kid"]}, None),
        (
            {"num_samples": 127, "metrics": ["fid_infinity"]},
            "FID at infinity halves 127 samples, to fewer than the 64 features.",
        ),
        ({"num_samples": 128, "metrics": ["fid_infinity"]}, None),
        ({"num_samples": 2047, "extractor": "inception"}, "2047 samples are fewer than the 2048 features"),
        (
            {"num_samples": 100, "extractor": "values", "metrics": ["c2st"]},
            "classifier two-sample test (C2ST) on 100 generated and 100 real samples: a forest that",
        ),
        (
            {"num_samples": 192, "extractor": "values", "metrics": ["c2st"]},
            "classifier two-sample test (C2ST) on 192 generated",
        ),
        ({"num_samples": 193, "extractor": "values", "metrics": ["c2st"]}, None),
        (
            {"num_samples": 999, "num_reference": 50, "extractor": "values", "metrics": ["c2st"]},
            "classifier two-sample test (C2ST) on 50 generated",
        ),
    ],
    ids=str,
)
def test_too_few_samples_give_a_note(changes: dict, said: str | None) -> None:
    """1.96 standard errors of an accuracy of 1/2 over 2 n samples are 0.05 at n = 192.08."""
    many = Data(torch.zeros(5000, 1), torch.zeros(9, 1), torch.Tensor.float, torch.Tensor.float, "points")
    found = short_of_samples(override(BASE, changes), many)
    assert (found is None) == (said is None)
    assert (found or "").startswith(said or "")


def test_a_small_training_set_gives_a_note() -> None:
    asked = override(BASE, {"num_samples": 999, "extractor": "values", "metrics": ["c2st"]})
    assert str(short_of_samples(asked, POINTS)).startswith(
        "classifier two-sample test (C2ST) on 99 generated and 99 real samples"
    )
