"""Configurations: conversion, change by path, identity, and error messages."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from harness.components.couplings import Pairs
from harness.components.interpolants import VariancePreserving
from harness.components.weightings import MinSNR, Uniform, Weighting
from harness.core.config import Config, Range, digest, flatten, override, parse_assignments, to_dict
from harness.core.errors import ConfigError
from harness.data.images import Digits
from harness.runs.config import RunConfig

BASE = RunConfig(dataset=Digits())


def test_dict_and_back_through_json() -> None:
    config = override(
        BASE, {"weighting": "min_snr", "weighting.gamma": 2, "evaluate.nfe": [3, 1], "train.clip_norm": None}
    )
    assert RunConfig.parse(json.loads(json.dumps(to_dict(config)))) == config


def test_override_replaces_a_component_before_its_fields() -> None:
    changed = override(
        BASE, {"weighting.gamma": 3, "weighting": "min_snr", "interpolant": {"name": "vp", "t_max": 0.98}}
    )
    assert changed.weighting == MinSNR(gamma=3.0)
    assert changed.interpolant == VariancePreserving(t_max=0.98)
    assert override(changed, {"weighting": "uniform", "interpolant": "linear"}) == BASE


def test_override_gives_a_component_the_fields_that_it_needs() -> None:
    """A component with required fields takes them by path as well as in one mapping."""
    whole = override(BASE, {"coupling": {"name": "pairs", "path": "here"}})
    assert whole.coupling == Pairs(path="here")
    assert override(whole, {"coupling.path": "there"}).coupling == Pairs(path="there")
    assert override(BASE, {"coupling": "pairs", "coupling.path": "here"}) == whole


def test_override_reaches_nested_fields_and_keeps_their_siblings() -> None:
    changed = override(BASE, {"train.steps": 7, "backbone.multipliers": [1, 2, 2], "seed": 4})
    expected = to_dict(BASE)
    expected["train"]["steps"] = 7
    expected["backbone"]["multipliers"] = [1, 2, 2]
    expected["seed"] = 4
    assert to_dict(changed) == expected


def test_whole_numbers_become_floats() -> None:
    """5 and 5.0 give the same configuration and the same digest."""
    whole, real = (override(BASE, {"weighting": {"name": "min_snr", "gamma": gamma}}) for gamma in (4, 4.0))
    assert type(whole.weighting.gamma) is float  # type: ignore[attr-defined]
    assert digest(whole) == digest(real)


def test_flatten_names_every_leaf() -> None:
    flat = flatten(override(BASE, {"weighting": "min_snr"}))
    some = {
        "weighting": "min_snr",
        "weighting.gamma": 5.0,
        "evaluate.solver": "euler",
        "train.clip_norm": 1.0,
        "seed": 0,
    }
    assert some.items() <= flat.items()
    assert flat["evaluate.nfe"] == [1, 2, 4, 8, 16, 32]
    formulation = {"interpolant", "prediction", "weighting", "loss", "time_sampler", "noise", "coupling"}
    components = {"dataset", "backbone", "evaluate.solver", "evaluate.time_grid", *formulation}
    assert components <= flat.keys()
    assert override(
        BASE, {path: value for path, value in flat.items() if path not in components} | {"weighting": "min_snr"}
    ) == override(BASE, {"weighting": "min_snr"})


@pytest.mark.parametrize(
    ("path", "value"),
    [("train.device", "cpu"), ("train.log_every", 7), ("train.sample_every", 7), ("train.checkpoint_every", 7)],
)
def test_a_digest_ignores_how_a_run_is_carried_out(path: str, value: Any) -> None:
    changed = override(BASE, {path: value})
    assert changed != BASE
    assert digest(changed) == digest(BASE)


def test_a_digest_ignores_the_path_of_pairs() -> None:
    one, other = (override(BASE, {"coupling": {"name": "pairs", "path": path}}) for path in ("a", "b"))
    assert digest(one) == digest(other) != digest(BASE)
    assert one != other
    assert RunConfig.parse(to_dict(one)) == one


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.steps", 7),
        ("train.threads", 2),
        ("seed", 1),
        ("weighting", "min_snr"),
        ("evaluate.nfe", [2, 1]),
        ("coupling", "exact_ot"),
        ("prediction", "data"),
        ("loss", "pseudo_huber"),
        ("evaluate.time_grid", "quadratic"),
    ],
)
def test_a_digest_contains_everything_that_changes_the_result(path: str, value: Any) -> None:
    assert digest(override(BASE, {path: value})) != digest(BASE)


def test_digest_is_that_of_the_canonical_json() -> None:
    """The digest has twelve hex digits and does not depend on the order of keys. It names run directories, so it must
    never change.
    """
    assert digest({"b": [1, 2], "a": None}) == digest({"a": None, "b": [1, 2]}) == "ee743f2fa257"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wieghting": "uniform"}, "wieghting: is not a known field. Did you mean 'weighting'?"),
        (
            {"weighting": {"name": "min_snr", "gama": 1}},
            "weighting.gama: min_snr has no such field. Did you mean 'gamma'?",
        ),
        (
            {"weighting": "min_snr", "weighting.gama": 1},
            "weighting.gama: min_snr has no such field. Did you mean 'gamma'?",
        ),
        ({"weighting": "minsnr"}, "weighting: 'minsnr' is not a known weighting. Did you mean 'min_snr'?"),
        ({"weighting": 3}, "weighting: expected a weighting, got 3. Give its name."),
        ({"weighting": {"gamma": 3}}, "weighting: expected a weighting, got {'gamma': 3}. Give its name."),
        ({"train": 3}, "train: expected TrainConfig, got 3. Give its fields."),
        ({"train.steps": "many"}, "train.steps: expected a whole number, got 'many'. Give a whole number."),
        ({"train.steps": 1.5}, "train.steps: expected a whole number, got 1.5. Give a whole number."),
        ({"train.steps": True}, "train.steps: expected a whole number, got True. Give a whole number."),
        ({"train.steps": None}, "train.steps: expected a whole number, got None. Give a whole number."),
        (
            {"train.learning_rate": True},
            "train.learning_rate: expected a finite number, got True. Give a finite number.",
        ),
        (
            {"train.learning_rate": "1e-3"},
            "train.learning_rate: expected a finite number, got '1e-3'. Give a finite number.",
        ),
        (
            {"train.learning_rate": math.nan},
            "train.learning_rate: expected a finite number, got nan. Give a finite number.",
        ),
        (
            {"train.optimizer.weight_decay": math.inf},
            "train.optimizer.weight_decay: expected a finite number, got inf. Give a finite number.",
        ),
        ({"train.clip_norm": math.nan}, "train.clip_norm: expected a finite number, got nan. Give a finite number."),
        (
            {"objective.normalise_weight": 1},
            "objective.normalise_weight: expected true or false, got 1. Give true or false.",
        ),
        ({"train.steps": 0}, "train.steps: 0 is outside [1, 999999999]. Choose a value inside."),
        ({"train.learning_rate": 0}, "train.learning_rate: 0.0 is outside [1e-150, 1e+150]. Choose a value inside."),
        ({"train.ema_decay": 1}, "train.ema_decay: 1.0 is outside [0, 1). Choose a value inside."),
        ({"seed": -1}, f"seed: -1 is outside [0, {2**128 - 1}]. Choose a value inside."),
        ({"train.precision": "fp64"}, "train.precision: 'fp64' is not a choice. Known: auto, bf16, fp32, tf32."),
        ({"evaluate.nfe": 4}, "evaluate.nfe: expected a list, got 4. Write it like [1, 2]."),
        ({"evaluate.nfe": [1, -1]}, "evaluate.nfe[1]: -1 is outside [0, 10000]. Choose a value inside."),
        ({"evaluate.nfe": [1, 0]}, "evaluate.nfe: euler spends 1 calls a step and cannot spend 0. Use 1."),
        (
            {"evaluate.solver": "dopri5"},
            "evaluate.nfe: dopri5 chooses its own steps and cannot spend exactly 1. Use 0; its calls are counted.",
        ),
        ({"objective.space": "velocty"}, "objective.space: 'velocty' is not a choice. Did you mean 'velocity'?"),
        ({"prediction": "velocty"}, "prediction: 'velocty' is not a known prediction. Did you mean 'velocity'?"),
        (
            {"coupling": "exact_ot", "prediction": "score"},
            "prediction: score needs the score, which the coupling exact_ot does not give. "
            "Choose coupling=independent or prediction=velocity.",
        ),
        ({"evaluate.metrics": ["fdi"]}, "evaluate.metrics[0]: 'fdi' is not a known metric. Did you mean 'fid'?"),
        ({"seed.value": 1}, "seed.value: seed is a single value. Set seed itself."),
        (
            {"train.accumulate": 3},
            "train.accumulate: the batch of 128 cannot be divided into 3 micro-batches of equal size. "
            "Choose a divisor.",
        ),
        (
            {"train.more_ema_decays": [0.5, 0.9, 0.5]},
            "train.more_ema_decays: [0.9999, 0.5, 0.9, 0.5] has a decay twice. Name each once.",
        ),
        ({"backbone.groups": 5}, "backbone.groups: 5 does not divide every width. Choose a divisor of 32."),
        ({"evaluate.solver": "heun"}, "evaluate.nfe: heun spends 2 calls a step and cannot spend 1. Use 2."),
    ],
)
def test_a_mistake_is_reported_with_its_path_and_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(BASE, changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "dataset: is needed. Give a value."),
        (
            {"dataset": "digits", "train": {"step": 3}},
            "train.step: is not a known field. Did you mean 'steps'?",
        ),
    ],
)
def test_a_mistake_in_a_whole_configuration(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(given)
    assert str(caught.value) == message


def test_assignments_are_json_where_they_parse() -> None:
    typed = parse_assignments(
        ["train.learning_rate=1e-3", "evaluate.nfe=[2,8]", "weighting=min_snr", "train.clip_norm=null", "a=b=c"]
    )
    assert {path: value.read() for path, value in typed.items()} == {
        "train.learning_rate": 0.001,
        "evaluate.nfe": [2, 8],
        "weighting": "min_snr",
        "train.clip_norm": None,
        "a": "b=c",
    }


@dataclass(frozen=True, kw_only=True)
class Holds(Config):
    """A configuration with a field of every kind."""

    text: str = ""
    maybe: str | None = None
    texts: tuple[str, ...] = ()
    whole: int = 0
    real: float = 0.0
    switch: bool = False
    numbers: tuple[Annotated[int, Range(0)], ...] = ()
    limit: Annotated[float, Range(0)] | None = None
    choice: Literal["auto", 1, None] = None
    weighting: Weighting = Uniform()


ODD_TEXTS = [
    "2024",
    "true",
    "null",
    "1e3",
    "007",
    "-0",
    "[x]",
    "[1]",
    '{"a": 1}',
    "NaN",
    "1" * 5000,
    "[" * 100_000,
    "",
    "a=b",
    " x ",
]


def test_a_text_field_keeps_the_typed_text() -> None:
    for text in ODD_TEXTS:
        held = override(Holds(), parse_assignments([f"text={text}"]))
        assert held.text == text, text[:20]
        assert type(held.text) is str
        assert Holds.parse(json.loads(json.dumps(to_dict(held)))) == held
        assert override(Holds(), parse_assignments([f"maybe={text}"])).maybe == (None if text == "null" else text), (
            text[:20]
        )
    quoted = override(Holds(), parse_assignments(['text="2024"', 'maybe="null"', 'texts=[2024, 1e3, 0.10, "x"]']))
    assert (quoted.text, quoted.maybe, quoted.texts) == ("2024", "null", ("2024", "1e3", "0.10", "x"))
    whole = RunConfig.parse({"dataset": "digits"})
    mapped = override(whole, parse_assignments(['coupling={"name":"pairs","path":2024}']))
    named = override(whole, parse_assignments(["coupling=pairs", "coupling.path=2024"]))
    assert mapped.coupling == named.coupling == Pairs(path="2024")


def test_other_fields_read_what_was_typed_as_json() -> None:
    """Random numbers, compared with Python's values of the same digits."""
    rng = random.Random(0)
    for _ in range(50):
        whole = rng.randint(-(10**12), 10**12)
        real = rng.gauss(0, 10 ** rng.randint(-8, 8))
        held = override(Holds(), parse_assignments([f"whole={whole}", f"real={real!r}", f"numbers=[{abs(whole)}, 0]"]))
        assert (held.whole, held.real, held.numbers) == (whole, real, (abs(whole), 0))
    typed = ["switch=true", "limit=2", "choice=1", 'weighting={"name":"min_snr","gamma":4}']
    held = override(Holds(), parse_assignments(typed))
    assert held == Holds(switch=True, limit=2.0, choice=1, weighting=MinSNR(gamma=4.0))
    back = parse_assignments(["limit=null", "choice=null", "weighting=uniform"])
    assert override(held, back) == Holds(switch=True)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("whole=1e3", "whole: expected a whole number, got 1000.0. Give a whole number."),
        ("whole=true", "whole: expected a whole number, got True. Give a whole number."),
        ("whole=" + "1" * 5000, "whole: expected a whole number, got '111"),
        ("real=NaN", "real: expected a finite number, got nan. Give a finite number."),
        ("real=-Infinity", "real: expected a finite number, got -inf. Give a finite number."),
        ("switch=True", "switch: expected true or false, got 'True'. Give true or false."),
        ("switch=1", "switch: expected true or false, got 1. Give true or false."),
        ("choice=true", "choice: True is not a choice. "),
        ("choice=1.0", "choice: 1.0 is not a choice. "),
        ("numbers=[1,-1]", "numbers[1]: -1 is outside [0, inf). Choose a value inside."),
        ("texts=[true]", "texts[0]: expected a text, got True. Give a text."),
        ("weighting=2024", "weighting: '2024' is not a known weighting. "),
        ("weighting=min_snr weighting.gamma=[4", "weighting.gamma: '[4' cannot be read ("),
    ],
)
def test_a_typed_value_that_the_field_does_not_allow_is_refused(typed: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(Holds(), parse_assignments(typed.split()))
    assert str(caught.value).startswith(message)


def test_values_that_are_equal_have_one_digest() -> None:
    """Python's 1 == 1.0 == True and 0.0 == -0.0, which JSON writes differently."""
    assert digest(override(Holds(), {"real": -0.0})) == digest(Holds())
    assert digest(override(Holds(), {"real": 3})) == digest(override(Holds(), {"real": 3.0}))
    for value in (True, 1.0):
        with pytest.raises(ConfigError, match=r"^choice: "):
            override(Holds(), {"choice": value})
    assert override(Holds(), {"limit": None}).limit is None


HOLDABLE = [
    typing.Optional[str],  # noqa: UP045
    int, float | None, tuple[int | None, ...], tuple[tuple[float, ...], ...], Weighting | None,
    Annotated[int | None, Range(0)], Literal["a", 1, None, True], tuple[Weighting, ...],
    Annotated[int, Range(0)] | None,
]  # fmt: skip
UNHOLDABLE: list[Any] = [
    typing.Union[float, str, None],  # noqa: UP007
    int | str, Weighting | int, list[int], dict[str, int], tuple[int, str], tuple[int],
    tuple[()], tuple, set, Any, object, bytes, Path, None, Literal[b"a"], Annotated[str, Range(0)],
    Annotated[tuple[int, ...], Range(0)],
    Annotated[int, "a length"], tuple[int | str, ...], complex,
]  # fmt: skip


def test_a_field_that_a_configuration_cannot_hold_is_refused_wherever_it_is_used() -> None:
    for hint in HOLDABLE:
        with contextlib.suppress(ConfigError):  # None may be a wrong value of the field
            make(hint)()
        with pytest.raises(ConfigError, match=r"^field: (?!a configuration cannot hold)"):
            make(hint)(field=object())
    for hint in UNHOLDABLE:
        for value in (1, "a", None):
            with pytest.raises(
                ConfigError, match=r"^field: a configuration cannot hold .*\. Declare it int, .*, or a tuple\.$"
            ):
                make(hint)(field=value)


def make(hint: Any) -> Any:
    fields = [("field", hint, dataclasses.field(default=None))]
    return dataclasses.make_dataclass("Mine", fields, bases=(Config,), frozen=True, kw_only=True)


@pytest.mark.parametrize("text", ["train.steps", "=3"])
def test_an_assignment_needs_a_path_and_a_value(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_assignments([text])
    assert str(caught.value) == f"--set: '{text}' is not path=value. Write it like train.steps=200."
