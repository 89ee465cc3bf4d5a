"""Every configuration field, when perturbed, changes the loss, the samples, or what a run is named by."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import runs
from harness.components.interpolants import over
from harness.config import Config, flatten, override
from harness.data.base import load
from harness.data.images import Digits
from harness.errors import ConfigError
from harness.evaluation import protocol as protocol_module
from harness.evaluation.protocol import Protocol
from harness.formulation import Formulation, ObjectiveConfig
from harness.objective import Objective
from harness.registry import build, find, names
from harness.runs import Run, RunConfig, training_digest
from harness.sampling import generate

TRAINED = ["interpolant", "prediction", "weighting", "loss", "time_sampler", "noise", "coupling"]
SAMPLED = ["solver", "time_grid"]
FIELDS = [
    *((family, name, f.name) for family in TRAINED + SAMPLED for name in names(family) for f in dataclasses.fields(find(family, name))),
    *(("objective", "objective", f.name) for f in dataclasses.fields(ObjectiveConfig)),
]


@dataclass(frozen=True)
class Case:
    """Another value of a field and where it shows."""

    value: Any
    shows_in: Literal["loss", "samples", "refusal", "content"]
    own: dict[str, Any] = field(default_factory=dict)
    """Other fields of the same component."""
    parts: dict[str, Any] = field(default_factory=dict)
    """Other components; and nfe for samples."""


def loss(value: Any, own: dict[str, Any] | None = None, **parts: Any) -> list[Case]:
    return [Case(value, "loss", own or {}, parts)]


def samples(value: Any, own: dict[str, Any] | None = None, **parts: Any) -> list[Case]:
    return [Case(value, "samples", own or {}, parts)]


NEAR_THE_DATA = {"time_grid": "quadratic", "nfe": 16}
CASES: dict[tuple[str, str, str], list[Case]] = {
    ("interpolant", "vp", "t_max"): loss(0.98),
    ("interpolant", "vp_ddpm", "beta_min"): loss(0.2) + samples(0.2, prediction="data"),
    ("interpolant", "vp_ddpm", "beta_max"): loss(19) + samples(19, prediction="data"),
    ("interpolant", "vp_ddpm", "t_min"): loss(0.02),
    ("interpolant", "cosine", "s"): loss(0.02) + samples(0.02, prediction="data"),
    ("interpolant", "cosine", "t_min"): loss(0.02),
    ("interpolant", "fm_ot", "sigma_min"): loss(0.1) + samples(0.1, prediction="data"),
    ("interpolant", "polynomial", "power"): loss(3) + samples(3, prediction="data"),
    ("interpolant", "ve", "sigma_min"): loss(0.02) + samples(0.02, prediction="data"),
    ("interpolant", "ve", "sigma_max"): loss(40) + samples(40),  # where sampling starts
    ("prediction", "*", "t_min"): loss(0.02, space="data") + samples(0.02, solver="euler_maruyama", **NEAR_THE_DATA),
    ("prediction", "*", "t_max"): loss(0.98, space="data") + samples(0.98, solver="euler_maruyama"),
    ("prediction", "data", "t_min"): loss(0.02, space="velocity") + samples(0.02, **NEAR_THE_DATA),
    ("prediction", "data", "t_max"): loss(0.98, space="velocity") + samples(0.98),
    ("prediction", "score", "t_min"): loss(0.02) + samples(0.02, **NEAR_THE_DATA),
    ("prediction", "edm", "sigma_data"): loss(0.7) + samples(0.7),
    ("weighting", "inverse_snr", "t_max"): loss(0.98),
    ("weighting", "snr", "t_min"): loss(0.02),
    ("weighting", "data_end", "power"): loss(3),
    ("weighting", "noise_end", "power"): loss(3),
    ("weighting", "min_snr", "gamma"): loss(4),
    ("weighting", "min_snr_v", "gamma"): loss(4),
    ("weighting", "truncated_snr", "t_min"): loss(0.02),
    ("weighting", "p2", "gamma"): loss(0.9),
    ("weighting", "p2", "k"): loss(1.1),
    ("weighting", "sigmoid", "bias"): loss(1.9),
    ("weighting", "edm", "sigma_data"): loss(0.6),
    ("weighting", "edm", "t_min"): loss(0.02),
    ("weighting", "likelihood", "t_min"): loss(0.02),
    ("weighting", "likelihood", "t_max"): loss(0.98),
    ("weighting", "logit_normal", "mean"): loss(0.1),
    ("weighting", "logit_normal", "std"): loss(1.1),
    ("loss", "pseudo_huber", "c"): loss(0.1),
    ("time_sampler", "*", "stratify"): loss(True),
    ("time_sampler", "*", "importance_correct"): loss(True),
    ("time_sampler", "*", "density_floor"): loss(2, {"importance_correct": True}),
    ("time_sampler", "stratified", "stratify"): loss(False),
    ("time_sampler", "low_discrepancy", "stratify"): [Case(True, "refusal")],
    ("time_sampler", "uniform", "importance_correct"): loss(True, {"density_floor": 2}),  # its density is one
    ("time_sampler", "stratified", "importance_correct"): loss(True, {"density_floor": 2}),
    ("time_sampler", "low_discrepancy", "importance_correct"): loss(True, {"of": "cosmap"}),
    ("time_sampler", "low_discrepancy", "of"): loss("cosmap"),
    ("time_sampler", "shifted", "of"): loss("cosmap") + loss("stratified"),
    ("time_sampler", "shifted", "shift"): loss(2),
    ("time_sampler", "power", "p"): loss(3),
    ("time_sampler", "logit_normal", "mean"): loss(0.1),
    ("time_sampler", "logit_normal", "std"): loss(1.1),
    ("time_sampler", "mode", "scale"): loss(1),
    ("time_sampler", "beta", "a"): loss(1.4),
    ("time_sampler", "beta", "b"): loss(1.1),
    ("time_sampler", "u_shaped", "a"): loss(3),
    ("time_sampler", "edm_lognormal", "mean"): loss(-1),
    ("time_sampler", "edm_lognormal", "std"): loss(1),
    ("noise", "matched", "per_feature"): loss(True) + samples(True),
    ("noise", "sparse", "dropout_rate"): loss(0.2) + samples(0.2),
    ("noise", "student_t", "df"): loss(4) + samples(4),
    ("coupling", "sinkhorn", "reg"): loss(1),
    ("coupling", "pairs", "path"): [Case(None, "content")],
    ("solver", "dopri5", "rtol"): samples(0.1, {"atol": 1e-7}, nfe=0),
    ("solver", "dopri5", "atol"): samples(0.1, {"rtol": 1e-7}, nfe=0),
    ("solver", "*", "diffusion"): samples("constant") + samples("kl") + samples("sin2"),
    ("solver", "*", "scale"): samples(2),
    ("solver", "*", "t_min"): samples(0.03, **NEAR_THE_DATA),
    ("solver", "*", "t_max"): samples(0.97),
    ("time_grid", "shifted", "shift"): samples(2),
    ("time_grid", "edm_rho", "rho"): samples(5),
    ("time_grid", "edm_rho", "sigma_min"): samples(0.01),
    ("time_grid", "edm_rho", "sigma_max"): samples(40),
    ("time_grid", "log_snr", "low"): samples(-8),
    ("time_grid", "log_snr", "high"): samples(8),
    ("objective", "objective", "space"): loss("data") + loss("noise") + loss("velocity", prediction="data"),
    ("objective", "objective", "normalise_weight"): loss(False, weighting="min_snr"),
}


class Network(nn.Module):
    """A fixed field that is not linear in x."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(2 * x) - 0.25 * over(t, x) + x.flip(-1) / 3


def data(n: int) -> Tensor:
    spread = torch.tensor([1.0, 0.8, 0.5, 0.3]).view(1, 1, 2, 2)
    return (2 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0)) - 1) * spread


def parts_of(family: str, component: Config, parts: dict[str, Any]) -> dict[str, Any]:
    """`parts` with the component at its place; weights are not normalised, so that their size shows."""
    space = {"space": parts.get("space", "output"), "normalise_weight": False}
    return {"objective": space, family: component, **{key: value for key, value in parts.items() if key != "space"}}


def loss_of(parts: dict[str, Any]) -> Tensor:
    made = Formulation.parse(parts)
    return Objective(made, made.noise.fit(data(512)))(Network(), data(64 if made.coupling.name == "sinkhorn" else 512), 1, 2).loss


def samples_of(parts: dict[str, Any]) -> Tensor:
    parts = dict(parts)
    solver, grid = build("solver", parts.pop("solver", "euler")), build("time_grid", parts.pop("time_grid", "uniform"))
    nfe, made = parts.pop("nfe", 8), Formulation.parse(parts)
    state = made.noise.fit(data(512))
    return torch.cat([x for x, _ in generate(Network(), made, state, solver, grid, nfe, (1, 2, 2), 6, 3, (1, "test"), "cpu")])


def cases(family: str, name: str, field_name: str) -> list[Case]:
    found = CASES.get((family, name, field_name)) or CASES.get((family, "*", field_name))
    if not found:
        pytest.fail(f"{family} {name}: nothing says where its field {field_name} matters. Add it to CASES.")
    return found


def component(family: str, name: str, changes: dict[str, Any]) -> Config:
    return ObjectiveConfig.parse(changes) if family == "objective" else build(family, {"name": name, **changes})


@pytest.mark.parametrize(("family", "name", "field_name"), FIELDS)
def test_no_field_is_dead(family: str, name: str, field_name: str, tmp_path: Path) -> None:
    for case in cases(family, name, field_name):
        if case.shows_in == "content":
            continue  # test_the_content_of_pairs_names_the_run
        plain = component(family, name, case.own)
        if case.shows_in == "refusal":
            with pytest.raises(ConfigError, match=f"^{field_name}: |\\.{field_name}: "):
                component(family, name, {**case.own, field_name: case.value})
            continue
        changed = component(family, name, {**case.own, field_name: case.value})
        assert getattr(changed, field_name) != getattr(plain, field_name)
        measure = loss_of if case.shows_in == "loss" else samples_of
        before, again, after = (measure(parts_of(family, made, case.parts)) for made in (plain, plain, changed))
        assert before.isfinite().all()
        assert after.isfinite().all()
        assert torch.equal(before, again), "chance alone changes it"
        assert not torch.equal(before, after)


def test_every_case_is_of_a_field_that_is_there() -> None:
    used = {(family, name if (family, name, f) in CASES else "*", f) for family, name, f in FIELDS}
    assert CASES.keys() <= used


def test_a_field_that_no_case_names_is_found() -> None:
    with pytest.raises(pytest.fail.Exception, match="nothing says where its field new matters"):
        cases("weighting", "min_snr", "new")


NOT_ALONE = {"pairs", "class_conditional_ot"}  # files, classes


@pytest.mark.parametrize("family", TRAINED)
def test_every_member_has_a_loss_of_its_own(family: str) -> None:
    """So that none is another's double."""
    found = {name: loss_of(parts_of(family, component(family, name, {}), {})).item() for name in names(family) if name not in NOT_ALONE}
    assert len(set(found.values())) == len(found)


# What a run is named by.

BELOW = {
    **{family: family for family in TRAINED},
    "backbone": "backbone",
    "dataset": "dataset",
    "solver": "evaluate.solver",
    "time_grid": "evaluate.time_grid",
}
NEEDED: dict[str, dict[str, Any]] = {"pairs": {"path": "set by `base`"}}
RUN_ONLY = {"train.device", "train.log_every", "train.sample_every", "train.checkpoint_every", "coupling.path"}
REFUSED = {
    ("low_discrepancy", "time_sampler.stratify"),
    ("low_discrepancy", "time_sampler.of.stratify"),
    ("low_discrepancy", "time_sampler.of.importance_correct"),
    ("low_discrepancy", "time_sampler.of.density_floor"),
    ("shifted", "time_sampler.of.importance_correct"),
    ("shifted", "time_sampler.of.density_floor"),
}
"""Fields that have but one value there."""
KEPT_APART = {"evaluate.nfe", "evaluate.metrics"}
"""What is measured: more of it is added to the same file. tests/test_protocol.py holds it to `missing`."""
MEMBERS = [(family, name) for family in BELOW for name in names(family)]


def write_pairs(folder: Path, seed: int = 0) -> str:
    """A folder with eight pairs of images [1, 8, 8]."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(("x0", "x1"), np.random.default_rng(seed).normal(size=(2, 8, 1, 8, 8)).astype(np.float32), strict=True):
        np.save(folder / f"{name}.npy", array)
    return str(folder)


@pytest.fixture
def base(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run at one NFE; every data set is the digits, and there are files of pairs."""
    digits = load(Digits())
    monkeypatch.setattr(runs, "load", lambda dataset: digits)
    monkeypatch.setattr(protocol_module, "weights_hash", lambda extractor: extractor)
    monkeypatch.setitem(NEEDED["pairs"], "path", write_pairs(tmp_path / "pairs"))
    return override(tiny, {"evaluate.nfe": [4]})


def identity(config: RunConfig) -> tuple[str, str]:
    return Run.of(config).name, Protocol.of(config.evaluate, load(Digits())).digest


def walk(config: Config, prefix: str = "", run_only: bool = False) -> Iterator[tuple[str, Any, Any, bool]]:
    """(path, annotation, value, run only?) of all that `flatten` names."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        path, value = f"{prefix}{f.name}", getattr(config, f.name)
        hidden = run_only or bool(f.metadata.get("run_only"))
        if not isinstance(value, Config) or hasattr(type(value), "name"):
            yield path, hints[f.name], value, hidden
        if isinstance(value, Config):
            yield from walk(value, f"{path}.", hidden)


def others(path: str, hint: Any, value: Any) -> list[Any]:
    """Values beside `value` that a field might take."""
    if path == "train.precision":
        return ["bf16"]  # fp32 is what auto means on a CPU
    if isinstance(value, Config):
        return [{"name": name} for name in names(value.family) if name != value.name]  # type: ignore[attr-defined]
    if typing.get_origin(hint) is Literal:
        return [choice for choice in typing.get_args(hint) if choice != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value, value // 2]
    if isinstance(value, float):
        return [value * 0.9, value * 1.1, value + 0.1, value - 0.01]
    if isinstance(value, tuple):
        return [[*value, 1], [2 * value[0], *value[1:]]] if isinstance(value[0], int) else []
    return [500, 0.5] if value is None else [f"{value}-other"]


def changed(config: RunConfig, path: str, hint: Any, value: Any) -> RunConfig:
    """The first configuration that differs from `config` in the path and is allowed."""
    for other in others(path, hint, value):
        try:
            made = override(config, {path: other})
        except ConfigError:
            continue
        if made != config:
            return made
    raise AssertionError(f"no other value of {path} is allowed beside {value}")


def test_the_walk_names_what_flatten_names(base: RunConfig) -> None:
    assert [path for path, *_ in walk(base)] == list(flatten(base))
    assert {path for path, *_, run_only in walk(override(base, {"coupling": {"name": "pairs", "path": "x"}})) if run_only} == RUN_ONLY


def assert_named(base: RunConfig, path: str, hint: Any, value: Any, run_only: bool) -> None:
    if path in KEPT_APART:
        return
    if run_only:
        assert path in RUN_ONLY
        assert path in {"train.device", "coupling.path"} or identity(changed(base, path, hint, value)) == identity(base)
    else:
        assert identity(changed(base, path, hint, value)) != identity(base), f"{path} has no part in the name of a run"


def test_every_setting_names_the_run_or_its_protocol(base: RunConfig) -> None:
    seen = list(walk(base))
    assert len(seen) > 40
    for path, hint, value, run_only in seen:
        assert_named(base, path, hint, value, run_only)


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_every_field_of_every_member_names_the_run_or_its_protocol(base: RunConfig, family: str, name: str) -> None:
    path = BELOW[family]
    config = override(base, {path: {"name": name, **NEEDED.get(name, {})}} | ({"evaluate.nfe": [0]} if name == "dopri5" else {}))
    assert flatten(config)[path] == name
    for below, hint, value, run_only in walk(config):
        if below.startswith(f"{path}.") and (name, below) not in REFUSED:
            assert_named(config, below, hint, value, run_only)
    assert flatten(base)[path] == name or identity(config) != identity(base)


def test_what_names_the_training_and_what_names_the_protocol(base: RunConfig) -> None:
    """A change of `evaluate` retrains nothing; a change of anything else that is not run-only trains another."""
    for path, hint, value, run_only in walk(base):
        if not run_only and path not in KEPT_APART and path != "seed":
            other = changed(base, path, hint, value)
            assert (training_digest(other) == training_digest(base)) == path.startswith("evaluate."), path


def test_the_content_of_pairs_names_the_run(base: RunConfig, tmp_path: Path) -> None:
    """Where they lie does not matter; a single changed number in either file does."""
    here, there = write_pairs(tmp_path / "here"), write_pairs(tmp_path / "there")
    configs = [override(base, {"coupling": {"name": "pairs", "path": path}}) for path in (here, there)]
    assert Run.of(configs[0]).name == Run.of(configs[1]).name != Run.of(base).name
    found = {Run.of(configs[0]).name}
    for name in ("x0", "x1"):
        array = np.load(Path(there) / f"{name}.npy")
        array[3, 0, 4, 4] += 0.5
        np.save(Path(there) / f"{name}.npy", array)
        found.add(Run.of(configs[1]).name)
    assert len(found) == 3


def test_pairs_of_another_folder_change_the_loss(tmp_path: Path) -> None:
    losses = set()
    for seed in (0, 1):
        path = write_pairs(tmp_path / str(seed), seed)
        made = Formulation.parse({"coupling": {"name": "pairs", "path": path}})
        losses.add(Objective(made, {})(Network(), torch.zeros(16, 1, 8, 8), 1, 2).loss.item())
    assert len(losses) == 2
