"""Components by name, users' components included."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fresh import run_fresh

from harness.components.interpolants import Linear
from harness.components.weightings import MinSNR, Weighting
from harness.core import registry
from harness.core.config import digest, override, to_dict
from harness.core.errors import ConfigError, UserError
from harness.core.registry import HOMES, build, describe, load_plugin, names, sources
from harness.data.images import Digits
from harness.runs.config import RunConfig

PLUGIN = '''
from dataclasses import dataclass
import torch
from harness.components.weightings import Weighting

@dataclass(frozen=True, kw_only=True)
class Mine(Weighting, name="mine"):
    """A constant."""
    level: float = 2.0

    def weight(self, t, interpolant):
        return torch.full_like(t, self.level)
'''
ALL = [(family, name) for family in HOMES for name in names(family)]
NEEDED: dict[str, dict[str, Any]] = {
    "pairs": {"path": "folder"},
    "posthoc": {"width": 0.1},
    "population": {"dataset": "digits"},
    "cells": {"path": "cells.h5ad"},
    "diffusers": {"config": "{}"},
    "huggingface": {"path": "ylecun/mnist"},
    "image_folder": {"path": "pictures", "size": 32},
    "latents": {"path": "folder"},
    "npz": {"path": "pictures.npz"},
    "table": {"path": "table.csv"},
    "time_series": {"path": "series.csv"},
}
"""Values for components with required fields."""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with a user's weighting; the registry forgets it afterwards."""
    monkeypatch.setitem(registry._MEMBERS, "weighting", dict(registry._MEMBERS["weighting"]))
    path = tmp_path / "my_weighting.py"
    path.write_text(PLUGIN)
    yield path
    sys.modules.pop("harness_plugin_my_weighting", None)


def test_the_first_members_of_each_family_are_there() -> None:
    assert {"linear", "vp"} <= set(names("interpolant"))
    assert {"uniform", "inverse_snr", "data_end", "noise_end", "min_snr"} <= set(names("weighting"))
    assert {"uniform", "stratified", "power"} <= set(names("time_sampler"))
    assert {"gaussian", "matched", "sparse", "population"} <= set(names("noise"))
    assert {"euler", "heun"} <= set(names("solver"))
    assert {"velocity", "data", "noise", "score", "edm"} <= set(names("prediction"))
    assert {"mse", "pseudo_huber"} <= set(names("loss"))
    assert {"independent", "exact_ot", "sinkhorn", "class_conditional_ot", "pairs"} <= set(names("coupling"))
    assert {"uniform", "shifted", "quadratic", "edm_rho", "log_snr"} <= set(names("time_grid"))
    assert {"sinusoidal", "fourier", "learned"} <= set(names("time_embedding"))
    assert {"unet", "dit", "transformer", "mlp", "diffusers"} <= set(names("backbone"))
    assert {"digits", "npz", "image_folder", "latents", "checkerboard", "cells", "table", "time_series"} <= set(
        names("dataset")
    )
    assert {"fid", "kid", "precision", "recall", "mmd", "label_accuracy", "gene_mean", "spectrum"} <= set(
        names("metric")
    )
    assert names("weighting") == sorted(names("weighting"))


FIRST = "import json; from harness.core.registry import names; print(json.dumps(names({family!r})))"
ALL_IMPORTED = """
import importlib, json, pkgutil
import harness
from harness.core import registry
for module in pkgutil.walk_packages(harness.__path__, "harness."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(json.dumps({family: sorted(members) for family, members in registry._MEMBERS.items()}))
"""


@pytest.mark.slow
def test_a_family_is_complete_whatever_was_imported_before(tmp_path: Path) -> None:
    """The first call in a new interpreter, compared with all that any module of the harness declares."""
    *first, everything = run_fresh([*(FIRST.format(family=family) for family in HOMES), ALL_IMPORTED], tmp_path)
    assert {family: json.loads(said) for family, said in zip(HOMES, first, strict=True)} == json.loads(everything)


def test_build_takes_a_name_a_mapping_or_an_instance() -> None:
    assert build("interpolant", "linear") == Linear()
    assert build("weighting", {"name": "min_snr", "gamma": 5}) == MinSNR(gamma=5.0)
    assert build("weighting", MinSNR(gamma=7)) == MinSNR(gamma=7)


def test_unknown_family() -> None:
    with pytest.raises(UserError) as caught:
        build("weightings", "uniform")
    assert str(caught.value) == "'weightings' is not a family. Did you mean 'weighting'?"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unifrom", "weighting: 'unifrom' is not a known weighting. Did you mean 'uniform'?"),
        ({"name": "min_snr", "gamma": 0}, "weighting.gamma: 0.0 is outside [1e-150, 1e+150]. Choose a value inside."),
        ({"name": "min_snr", "gama": 1}, "weighting.gama: min_snr has no such field. Did you mean 'gamma'?"),
        (Linear(), "weighting: expected a weighting, got Linear(). Give its name."),
    ],
)
def test_a_wrong_component_is_refused_with_its_path(spec: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("weighting", spec)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_name_far_from_all_lists_them() -> None:
    with pytest.raises(ConfigError) as caught:
        build("interpolant", "xyzzy")
    assert str(caught.value).endswith(
        f"Known: {', '.join(names('interpolant'))}. A component in a file of yours needs --plugin FILE."
    )


def test_a_name_is_taken_once() -> None:
    with pytest.raises(UserError, match="weighting 'uniform' is already taken by harness"):

        @dataclass(frozen=True, kw_only=True)
        class Again(Weighting, name="uniform"):
            pass

    assert type(build("weighting", "uniform")).__module__ == "harness.components.weightings"


def test_a_class_in_a_notebook_that_is_not_a_dataclass_is_refused(plugin: Path) -> None:
    """Its fields would be unknown, so two different instances would have the same name."""

    class Bare(Weighting, name="bare"):
        level: float = 2.0

    with pytest.raises(
        UserError, match=r"^weighting 'bare' is not a dataclass\. Put @dataclass\(frozen=True, kw_only=True\)"
    ):
        build("weighting", "bare")


@pytest.mark.parametrize(("family", "name"), ALL)
def test_every_component_is_its_configuration(family: str, name: str) -> None:
    component = build(family, {"name": name, **NEEDED.get(name, {})})
    again = build(family, to_dict(component))
    assert again == component
    assert hash(again) == hash(component)
    assert digest(again) == digest(component)
    assert sources(component) == {}


@pytest.mark.parametrize("family", HOMES)
def test_members_have_a_docstring_and_a_digest_of_their_own(family: str) -> None:
    described = describe(family)
    assert [entry["name"] for entry in described] == names(family)
    assert all(entry["about"] for entry in described)
    assert len({digest(build(family, {"name": name, **NEEDED.get(name, {})})) for name in names(family)}) == len(
        described
    )
    assert all(entry.keys() == {"family", "name", "about", "parameters", "source"} for entry in described)


@pytest.mark.parametrize(
    "family",
    [family for family in HOMES if family not in ("time_embedding", "backbone", "dataset", "extractor", "metric")],
)
def test_members_describe_their_computation(family: str) -> None:
    for name in names(family):
        component = build(family, {"name": name, **NEEDED.get(name, {})})
        assert component.formula
        assert component.written_out()
        assert not set("{}") & set(component.written_out())


def test_a_formula_is_written_out_with_the_values() -> None:
    assert MinSNR(gamma=2.5).written_out() == "min(SNR(t), 2.5)"
    nested = build("time_sampler", {"name": "shifted", "shift": 2, "of": {"name": "logit_normal", "mean": 0.5}})
    assert nested.written_out() == "t = 2 s / (1 + (2 - 1) s), s: logit(t) ~ N(0.5, 1^2)"


def test_a_field_that_must_be_given_has_no_default() -> None:
    """The components with required fields are those in `NEEDED`."""
    described = {entry["name"]: entry["parameters"] for family in HOMES for entry in describe(family)}
    assert {name for name, parameters in described.items() if None in parameters.values()} == set(NEEDED)
    assert described["pairs"] == {"path": None}
    assert described["image_folder"] == {
        "path": None, "workers": 2, "size": None, "colour": "rgb", "flip": False, "skip_corrupt": False, "levels": (),
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        build("coupling", "pairs")
    assert str(caught.value) == "coupling.path: pairs needs it. Give a value."
    with pytest.raises(ConfigError) as caught:
        build("dataset", {"name": "image_folder", "path": "pictures"})
    assert str(caught.value) == "dataset.size: image_folder needs it. Give a value."


def test_a_plugin_registers_what_it_declares(plugin: Path) -> None:
    assert "mine" not in names("weighting")
    load_plugin(plugin)
    load_plugin(plugin)
    config = override(RunConfig(dataset=Digits()), {"weighting": "mine", "weighting.level": 3})
    assert RunConfig.parse(to_dict(config)) == config
    assert config.weighting.level == 3.0  # type: ignore[attr-defined]


def test_the_source_of_a_plugin_is_part_of_a_configurations_digest(plugin: Path) -> None:
    load_plugin(plugin)
    config = override(RunConfig(dataset=Digits()), {"weighting": "mine"})
    before = sources(config)
    assert list(before) == ["weighting.mine"]
    plugin.write_text(PLUGIN.replace("full_like(t, self.level)", "full_like(t, 2 * self.level)"))
    assert list(sources(config)) == ["weighting.mine"]
    assert sources(config) != before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import no_such_module", "line 1: ModuleNotFoundError: No module named 'no_such_module'. Correct the file."),
        (
            "import beside",
            "line 1: ModuleNotFoundError: No module named 'beside'. A plugin cannot import the files next to it: "
            "put all into one file, or install them as a package.",
        ),
        (PLUGIN.replace('"mine"', '"uniform"'), "line 7: weighting 'uniform' is already taken"),
    ],
)
def test_a_plugin_that_fails_is_named(plugin: Path, content: str, said: str) -> None:
    plugin.write_text(content)
    (plugin.parent / "beside.py").touch()
    with pytest.raises(UserError) as caught:
        load_plugin(plugin)
    assert str(caught.value).startswith(f"{plugin}, {said}")


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_plugin(tmp_path / "none.py")
    (tmp_path / "none.txt").touch()
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/none\.txt: not a Python file\. Give a file that ends in \.py\.$"
    ):
        load_plugin(tmp_path / "none.txt")
