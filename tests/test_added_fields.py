"""A field added later renames no run: at its default it is in no digest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import pytest

from harness.components.backbones.unet import UNet
from harness.components.interpolants import Interpolant, Linear
from harness.components.solvers import DormandPrince5
from harness.components.time_grids import ShiftedGrid
from harness.components.time_samplers import LowDiscrepancy
from harness.components.weightings import MinSNR
from harness.core.config import ADDED, RUN_ONLY, Config, Presets, digest, flatten, override, to_dict
from harness.core.errors import ConfigError
from harness.flow.sampling import Guidance
from harness.runs import identity
from harness.runs.config import Reflow, RunConfig
from harness.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class LeafBefore(Config):
    """A component without the added field."""

    gamma: float = 5.0


@dataclass(frozen=True, kw_only=True)
class LeafAfter(Config):
    """The same component with an added field of every kind."""

    presets: ClassVar[Presets] = {"sharp": {"sharpness": 2.0}}
    gamma: float = 5.0
    sharpness: float = field(default=1, metadata=ADDED)
    path: Interpolant = field(default=Linear(), metadata=ADDED)
    steps: tuple[int, ...] = field(default_factory=tuple, metadata=ADDED)
    mode: Literal[1, True] = field(default=True, metadata=ADDED)
    where: str = field(default="here", metadata=RUN_ONLY | ADDED)


@dataclass(frozen=True, kw_only=True)
class Before(Config):
    """A configuration without the added fields."""

    leaf: LeafBefore = LeafBefore()
    leaves: tuple[LeafBefore, ...] = ()


@dataclass(frozen=True, kw_only=True)
class After(Config):
    """The same configuration with added fields, one of them a component."""

    leaf: LeafAfter = LeafAfter()
    leaves: tuple[LeafAfter, ...] = ()
    teacher: LeafAfter | None = field(default=None, metadata=ADDED)
    others: tuple[LeafAfter, ...] = field(default=(LeafAfter(),), metadata=ADDED)


OLD = [
    Before(),
    Before(leaf=LeafBefore(gamma=1)),
    Before(leaves=(LeafBefore(), LeafBefore(gamma=2))),
]


def test_at_its_default_the_digest_stays() -> None:
    for old in OLD:
        new = After.parse(to_dict(old))
        assert digest(new) == digest(old) == digest(to_dict(old))
        assert to_dict(new, digested=True) == to_dict(old)
        assert to_dict(new) != to_dict(old), "config.json says all"


def test_another_value_changes_the_digest() -> None:
    changes: list[dict[str, Any]] = [
        {"leaf.sharpness": 2}, {"leaf.path": "vp"}, {"leaf.path": {"name": "vp", "t_max": 0.98}}, {"leaf.steps": [1]},
        {"leaf.mode": 1}, {"leaf": {"preset": "sharp", "gamma": 1}}, {"leaves": [{"sharpness": 2}]}, {"teacher": {}},
        {"teacher": {"sharpness": 2}}, {"others": []}, {"others": [{}, {}]},
        {"others": [{"gamma": 4}]}, {"others": [{"mode": 1}]},
    ]  # fmt: skip
    digests = [digest(override(After(), change)) for change in changes]
    assert len({digest(Before()), *digests}) == len(changes) + 1


def test_a_digest_contains_only_the_changed_value() -> None:
    sharp = LeafAfter(sharpness=2, where="there")
    assert to_dict(sharp, digested=True) == {"gamma": 5.0, "sharpness": 2.0}
    nested = After(leaves=(LeafAfter(), sharp), teacher=LeafAfter())
    assert to_dict(nested, digested=True) == {
        "leaf": {"gamma": 5.0},
        "leaves": [{"gamma": 5.0}, {"gamma": 5.0, "sharpness": 2.0}],
        "teacher": {"gamma": 5.0},
    }
    assert After.parse(to_dict(nested, digested=True)) == dataclasses.replace(
        nested, leaves=(LeafAfter(), dataclasses.replace(sharp, where="here"))
    )


def test_an_added_run_only_field_is_never_in_a_digest() -> None:
    assert digest(LeafAfter(where="there")) == digest(LeafBefore())
    assert digest(After(others=(LeafAfter(where="there"),))) == digest(Before())
    assert "where" in to_dict(LeafAfter())
    assert "where" not in flatten(LeafAfter(), run_only=False)


def test_readouts_show_it_at_its_default_too() -> None:
    """If one arm has another value, the table also shows the baseline's value."""
    assert flatten(LeafAfter(), run_only=False) == {
        "gamma": 5.0, "sharpness": 1.0, "path": "linear", "steps": [], "mode": True
    }  # fmt: skip


def test_a_default_that_a_field_converts_is_the_default() -> None:
    """1 in the class means 1.0, although the texts differ."""
    assert digest(LeafAfter(sharpness=1.0)) == digest(LeafAfter(sharpness=1)) == digest(LeafBefore())


def test_an_added_field_has_a_default() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Careless(Config):
        steps: int = field(metadata=ADDED)

    with pytest.raises(ConfigError, match=r"^steps: is ADDED but has no default"):
        Careless(steps=1)


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str], None]:
    """`add(cls, name)` marks a field of the harness as added today."""

    def mark(cls: type, name: str) -> None:
        known = {f.name: f for f in dataclasses.fields(cls)}
        monkeypatch.setattr(known[name], "metadata", MappingProxyType(ADDED))

    return mark


def seen(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the digests that name a run, its pairs and its evaluation."""
    texts = [json.dumps(config.protocol().plain)]

    def recorded(plain: Mapping[str, Any]) -> str:
        texts.append(json.dumps(plain))
        return digest(plain)

    with monkeypatch.context() as patched:
        patched.setattr(identity, "digest", recorded)
        identity.training_digest(config)
        if config.parent is not None:
            identity.pairs_digest(config)
    return " ".join(texts)


GUIDED_PAIRS = {"objective.label_dropout": 0.1, "reflow.rounds": 1, "reflow.guidance.scale": 2}
ADAPTIVE_PAIRS = {"reflow.rounds": 1, "reflow.solver": "dopri5", "reflow.nfe": 0}
PLACES: list[tuple[type, str, dict[str, Any], dict[str, Any]]] = [
    (TrainConfig, "accumulate", {}, {"train.accumulate": 2}),
    (UNet, "head_channels", {}, {"backbone.head_channels": 16}),
    (MinSNR, "gamma", {"weighting": "min_snr"}, {"weighting.gamma": 3}),
    (LowDiscrepancy, "of", {"time_sampler": "low_discrepancy"}, {"time_sampler.of": "cosmap"}),
    (DormandPrince5, "rtol", {"evaluate.solver": "dopri5", "evaluate.nfe": [0]}, {"evaluate.solver.rtol": 0.1}),
    (ShiftedGrid, "shift", {"evaluate.time_grid": "shifted"}, {"evaluate.time_grid.shift": 2}),
    (Guidance, "high", {"objective.label_dropout": 0.1, "evaluate.guidance.scale": 2}, {"evaluate.guidance.high": 0.5}),
    (Reflow, "number", {"reflow.rounds": 1, "reflow.number": 50_000}, {"reflow.number": 64}),
    (DormandPrince5, "atol", ADAPTIVE_PAIRS, {"reflow.solver.atol": 0.1}),
    (Guidance, "low", GUIDED_PAIRS, {"reflow.guidance.low": 0.2}),
]
"""(class, added field, settings under which the field matters, change of the field)"""


def test_runs_pairs_and_evaluations_keep_their_names(
    tiny: RunConfig, add: Callable[[type, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for cls, name, settings, change in PLACES:
        usual = override(tiny, settings)
        changed = override(usual, change)
        assert f'"{name}": ' in seen(usual, monkeypatch), name
        add(cls, name)
        assert f'"{name}": ' not in seen(usual, monkeypatch), name
        assert f'"{name}": ' in seen(changed, monkeypatch), name
