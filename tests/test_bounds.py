"""Bounds of whole numbers: every field has a bound with a reason, and common settings are allowed."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from harness.ablation.design.plan import Plan
from harness.ablation.design.search import Search
from harness.ablation.design.study import Study, load_scale
from harness.cli import main
from harness.components.backbones.dit import DiT
from harness.core.config import Config, Count, override
from harness.core.errors import UserError
from harness.core.fields import Range, hints, range_of
from harness.core.files import results_folder
from harness.core.registry import HOMES, find, names
from harness.flow.formulation import Formulation
from harness.runs.config import RunConfig
from harness.runs.validate import refuse_unreached
from harness.training.advice import cut_short

BILLION = 10**9


def classes() -> Iterator[type[Config]]:
    """Yield all components, and the other classes of a run's configuration."""
    yield from (find(family, name) for family in HOMES for name in names(family))
    yield RunConfig
    for hint in hints(RunConfig).values():
        if isinstance(hint, type) and issubclass(hint, Config) and hint not in Formulation.__mro__:
            yield hint


def wholes(hint: Any) -> bool:
    """Whether an annotation allows whole numbers."""
    if typing.get_origin(hint) is typing.Literal:
        return False
    return hint is int or any(map(wholes, typing.get_args(hint)))


def test_every_whole_number_has_an_upper_bound_and_a_reason() -> None:
    seen = 0
    for cls in classes():
        for name, hint in hints(cls).items():
            if "__dataclass_fields__" in vars(cls) and wholes(hint):
                allowed = range_of(hint)
                assert allowed is not None, (cls, name)
                assert math.isfinite(allowed.high), (cls, name)
                assert allowed.why or allowed.high <= 100, (cls, name)
                seen += 1
    assert seen > 40


@pytest.mark.parametrize(
    ("scale", "changes", "said"),
    [
        ("digits", {"train.steps": 10**18}, "train.steps: 1000000000000000000 is outside [1, 999999999] (checkpoints "),
        ("digits", {"train.threads": 10**6}, "train.threads: 1000000 is outside [1, 1024] (no machine has more cores"),
        ("digits", {"train.keep_checkpoints": 10**10}, "train.keep_checkpoints: 10000000000 is outside "),
        ("digits", {"evaluate.nfe": [1, BILLION]}, "evaluate.nfe[1]: 1000000000 is outside [0, 10000] (no published "),
        ("digits", {"evaluate.num_samples": 10**12}, "evaluate.num_samples: 1000000000000 is outside "),
        ("digits", {"backbone.channels": 2**17}, "backbone.channels: 131072 is outside [4, 65536] (no published "),
        ("digits", {"backbone.multipliers": [1, 4096]}, "backbone.multipliers[1]: 4096 is outside [1, 1024]"),
        ("digits_dit", {"backbone.depth": 10**6}, "backbone.depth: 1000000 is outside [1, 1000] (no published network"),
        ("points", {"backbone.blocks": 10**6}, "backbone.blocks: 1000000 is outside [1, 1000]"),
        ("points", {"dataset.number": 10**12}, "dataset.number: 1000000000000 is outside [2, 1000000000]"),
        ("points", {"evaluate.metrics": [{"name": "c2st", "trees": BILLION}]}, "evaluate.metrics[0].trees: 1000000000"),
        ("points", {"evaluate.metrics": [{"name": "curvature", "steps": BILLION}]}, "evaluate.metrics[0].steps: "),
        ("sequences", {"dataset.window": BILLION}, "dataset.window: 1000000000 is outside [2, 1000000]"),
        ("digits", {"reflow.number": 10**12}, "reflow.number: 1000000000000 is outside "),
        ("digits", {"reflow.nfe": 10**7}, "reflow.nfe: 10000000 is outside [0, 10000]"),
        (
            "digits",
            {"dataset": {"name": "image_folder", "path": "x", "size": 10**5}},
            "dataset.size: 100000 is outside",
        ),
        ("digits", {"dataset": {"name": "latents", "path": "x", "workers": 10**6}}, "dataset.workers: 1000000 is "),
    ],
    ids=str,
)
def test_a_count_beyond_reason_is_refused_where_it_is_set(scale: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        override(load_scale(scale), changes)
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("Choose a value inside.")


@dataclass(frozen=True, kw_only=True)
class Own(Config):
    """A component of a plugin."""

    number: Count = 1
    real: typing.Annotated[float, Range(0, 2, why="more is noise")] = 1.0


def test_a_range_names_both_ends_and_gives_a_reason_only_above() -> None:
    for value, said in ((0, "0 is outside [1, 1000000000]. "), (BILLION + 1, "[1, 1000000000] (no machine completes ")):
        with pytest.raises(UserError, match=r"^number: ") as caught:
            Own(number=value)
        assert said in str(caught.value)
    with pytest.raises(UserError, match=r"^number: a int too large to be written out is outside "):
        Own(number=10**5000)
    with pytest.raises(UserError) as caught:
        Own(real=3)
    assert str(caught.value) == "real: 3.0 is outside [0, 2] (more is noise). Choose a value inside."
    assert Own(number=BILLION).number == BILLION


LARGE: list[tuple[str, dict[str, Any]]] = [
    ("digits", {"train.steps": 10_000_000}),
    ("digits", {"train.threads": 192}),
    ("digits", {"train.log_every": BILLION, "train.sample_every": BILLION}),
    ("digits", {"evaluate.nfe": [1000, 8192]}),
    ("digits", {"evaluate.num_samples": 1_000_000}),
    ("digits", {"backbone.channels": 512, "backbone.multipliers": [1, 2, 4, 8]}),
    ("digits", {"reflow.number": 4_000_000}),
    ("digits", {"seed": 2**70}),
    ("digits", {"backbone": DiT(**DiT.presets["XL/2"])}),
    ("points", {"backbone.width": 8192}),
    ("points", {"dataset.number": 10_000_000}),
    ("points", {"dataset": {"name": "gaussian_mixture", "dimensions": 10_000, "components": 1000}}),
    ("points", {"evaluate.metrics": [{"name": "sliced_wasserstein", "projections": 10_000}]}),
]


def test_common_settings_are_accepted() -> None:
    for scale, changes in LARGE:
        assert override(load_scale(scale), changes) != load_scale(scale), changes


def study(**changes: Any) -> Study:
    return Study(question="Which?", baseline="a", arms={"a": {}, "b": {"train.steps": 9}}, **changes)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            lambda tiny: study(looks=(3, BILLION)),
            "looks: 1000000000 is outside [1, 10000] (a verdict needs tens of seeds).",
        ),
        (lambda tiny: Plan.of(study(), "digits", tiny, {}, BILLION, ()), "--seeds: 1000000000 is outside [1, 10000]"),
        (lambda tiny: Search(question="?", spaces={}, trials=10**12), "trials: 1000000000000 is outside [1, 100000]"),
        (lambda tiny: Search(question="?", spaces={}, looks=(500_000,), seed=10**6), "looks: 500000 is outside "),
    ],
)
def test_studies_and_searches_have_the_same_bounds(
    made: Callable[[RunConfig], Any], said: str, tiny: RunConfig
) -> None:
    with pytest.raises(UserError) as caught:
        made(tiny)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("ablate weighting --workers 1000000", "argument --workers: 1000000 is outside [1, 1024] (each is a process)"),
        ("ablate weighting --trials-per-gpu 99999", "argument --trials-per-gpu: 99999 is outside [1, 1024]"),
        ("tune tuning --trials 1000000000000", "argument --trials: 1000000000000 is outside [1, 100000]"),
        ("reflow x --rounds 1000000000", "argument --rounds: 1000000000 is outside [1, 20]"),
        ("evaluate x --workers " + "9" * 5000, "argument --workers: 9999999999"),
        ("ui --port 700000", "argument --port: 700000 is outside [1, 65535]"),
        (
            "ablate weighting --seeds 1000000000",
            "--seeds: 1000000000 is outside [1, 10000] (a verdict needs tens of seeds).",
        ),
        ("sample x --number 1000000000000", "--number: 1000000000000 is outside [1, 1000000000]"),
    ],
    ids=lambda text: text[:40],
)
def test_options_have_the_same_bounds(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(command.split())
    except SystemExit as ended:
        code = ended.code
    line = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert said in line
    assert len(line) < 250
    assert not results_folder().exists()


def test_the_list_of_components_shows_the_bounds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["list", "backbone"]) == 0
    shown = capsys.readouterr().out
    assert "depth = 12 in [1, 1000]" in shown
    assert "multipliers = (1, 2) in [1, 1024]" in shown


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "train --scale digits --set train.steps=520 --set train.warmup_steps=521",
            "train.warmup_steps: the warm-up of 521 steps is longer than the training of 520, so the learning rate",
        ),
        ("train --scale points --set train.steps=9 --set train.warmup_steps=10", "the warm-up of 10 steps is longer"),
        ("train --set train.steps=520 --set train.snapshot_every=521", "the first snapshot (step 521)"),
        ("ablate weighting --set train.steps=9 --set train.warmup_steps=10", "arm 'uniform'.train.warmup_steps: the"),
        ("explain ema --set train.steps=9", "train.snapshot_every: the first snapshot (step 10) comes after the last"),
    ],
)
def test_steps_that_never_come_are_refused_where_they_are_asked_for(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not results_folder().exists()


def test_a_warm_up_to_the_last_step_is_accepted_and_a_scales_warm_up_is_named(tiny: RunConfig) -> None:
    config = override(tiny, {"train.warmup_steps": 12})
    refuse_unreached(["train.warmup_steps"], config)
    assert config.train.rate(11) == config.train.learning_rate
    assert cut_short(config.train) == []
    shorter = override(config, {"train.steps": 3})
    refuse_unreached(["train.steps"], shorter)
    (line,) = cut_short(shorter.train)
    assert line.startswith("train.warmup_steps: the warm-up of 12 steps is longer than the training of 3, so")
    assert "ends at 0.25 of its peak" in line


def test_snapshots_that_are_never_taken_give_no_average(tiny: RunConfig) -> None:
    changes = {"evaluate.average": {"name": "posthoc", "width": 0.1}, "train.snapshot_every": 12}
    assert override(tiny, changes).train.steps == 12
    with pytest.raises(UserError, match=r"^evaluate\.average: training keeps no snapshots"):
        override(tiny, {**changes, "train.snapshot_every": 13})
