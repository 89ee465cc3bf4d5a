"""Every configuration field matters: another value changes the loss, the samples, the data or a score. Unless the field
only says how a run is carried out, it also changes a name. test_backbones.py tests the effects of a backbone's
fields.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from one_step import one_step
from PIL import Image
from torch import Tensor, nn

from harness.components.interpolants import over
from harness.core.config import Config, flatten, override
from harness.core.errors import ConfigError, UserError
from harness.core.registry import HOMES, build, find, names
from harness.data.base import Data, Dataset, load
from harness.data.images import Digits
from harness.evaluation import protocol as protocol_module
from harness.evaluation.flow_metrics import Flow
from harness.evaluation.protocol import Protocol
from harness.flow.formulation import Formulation, ObjectiveConfig
from harness.flow.objective import Objective
from harness.flow.sampling import Guidance, NetworkField, SamplingConfig, Trained, generate
from harness.runs import identity as identity_module
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import training_digest

Needed = Callable[..., dict[str, Any]]


def fields_of(family: str, name: str) -> list[str]:
    return [f.name for f in dataclasses.fields(find(family, name))]


TRAINED = ["interpolant", "prediction", "weighting", "loss", "time_sampler", "noise", "coupling"]
CONFIGS: dict[str, type[Config]] = {"objective": ObjectiveConfig, "guidance": Guidance}
FIELDS = [
    *(
        (family, name, f)
        for family in HOMES
        if family != "backbone"
        for name in names(family)
        for f in fields_of(family, name)
    ),
    *((name, name, f.name) for name, of in CONFIGS.items() for f in dataclasses.fields(of)),
]


@dataclass(frozen=True)
class Case:
    """Another value of a field, and the quantity that it changes."""

    value: Any
    shows_in: Literal[
        "loss", "samples", "vector", "data", "score", "steps", "rates", "terms", "refusal", "flow", "elsewhere"
    ]
    own: dict[str, Any] = field(default_factory=dict)
    """Other fields of the same component."""
    parts: dict[str, Any] = field(default_factory=dict)
    """Other components, and nfe for samples."""


@dataclass(frozen=True, kw_only=True)
class Images(Dataset):
    """Images [1, 2, 2] as data for noise."""

    seed: int = 0

    def load(self) -> Data:
        images = torch.rand(50, 1, 2, 2, generator=torch.Generator().manual_seed(self.seed))
        return Data(images, images, torch.Tensor.float, torch.Tensor.float, "image")


def loss(value: Any, own: dict[str, Any] | None = None, **parts: Any) -> list[Case]:
    return [Case(value, "loss", own or {}, parts)]


def samples(value: Any, own: dict[str, Any] | None = None, **parts: Any) -> list[Case]:
    return [Case(value, "samples", own or {}, parts)]


def elsewhere(test: str) -> list[Case]:
    """Return no case: the named test covers the field."""
    return [Case(test, "elsewhere")]


def of_data(value: Any, **own: Any) -> list[Case]:
    return [Case(value, "data", own)]


def flow(value: Any, **own: Any) -> list[Case]:
    return [Case(value, "flow", own)]


def score(value: Any, **own: Any) -> list[Case]:
    return [Case(value, "score", own)]


NEAR_THE_DATA: dict[str, Any] = {"time_grid": "quadratic", "nfe": 16}
ADAPTIVE: dict[str, Any] = {"solver": "dopri5", "nfe": 0}
"""An adaptive solver, so that an interval of guidance does not change the number of steps."""
CASES: dict[tuple[str, str, str], list[Case]] = {
    ("interpolant", "vp", "t_max"): loss(0.98),
    ("interpolant", "vp_ddpm", "beta_min"): loss(0.2) + samples(0.2, prediction="data"),
    ("interpolant", "vp_ddpm", "beta_max"): loss(19) + samples(19, prediction="data"),
    ("interpolant", "*", "t_min"): loss(0.02),
    ("interpolant", "*", "steps"): loss(30) + samples(30, prediction="data"),
    ("interpolant", "vp_ldm", "beta_min"): loss(1) + samples(1, prediction="data"),
    ("interpolant", "vp_ldm", "beta_max"): loss(11) + samples(11, prediction="data"),
    ("interpolant", "sub_vp", "beta_min"): loss(0.2) + samples(0.2, prediction="data"),
    ("interpolant", "sub_vp", "beta_max"): loss(19) + samples(19, prediction="data"),
    ("interpolant", "edm", "sigma_max"): loss(40) + samples(40),
    ("interpolant", "cosine", "s"): loss(0.02) + samples(0.02, prediction="data"),
    ("interpolant", "fm_ot", "sigma_min"): loss(0.1) + samples(0.1, prediction="data"),
    ("interpolant", "polynomial", "power"): loss(3) + samples(3, prediction="data"),
    ("interpolant", "ve", "sigma_min"): loss(0.02) + samples(0.02, prediction="data"),
    ("interpolant", "ve", "sigma_max"): loss(40) + samples(40),  # the start of sampling
    ("prediction", "*", "t_min"): loss(0.02, space="data")
    + samples(0.02, solver={"name": "euler_maruyama", "t_min": 0.0}, **NEAR_THE_DATA),
    ("prediction", "*", "t_max"): loss(0.98, space="data") + samples(0.98, solver="euler_maruyama"),
    ("prediction", "data", "t_min"): loss(0.02, space="velocity") + samples(0.02, **NEAR_THE_DATA),
    ("prediction", "data", "t_max"): loss(0.98, space="velocity") + samples(0.98),
    ("prediction", "score", "t_min"): loss(0.02) + samples(0.02, **NEAR_THE_DATA),
    ("prediction", "edm", "sigma_data"): loss(0.7) + samples(0.7),
    ("prediction", "edm", "time"): loss("log_sigma") + samples("log_sigma"),
    ("weighting", "inverse_snr", "t_max"): loss(0.98),
    ("weighting", "snr", "t_min"): loss(0.02),
    ("weighting", "data_end", "power"): loss(3),
    ("weighting", "noise_end", "power"): loss(3),
    ("weighting", "min_snr", "gamma"): loss(4),
    ("weighting", "clipped_snr", "gamma"): loss(4),
    ("weighting", "truncated_snr", "t_min"): loss(0.02),
    ("weighting", "p2", "gamma"): loss(0.9),
    ("weighting", "p2", "k"): loss(1.1),
    ("weighting", "sigmoid", "bias"): loss(1.9),
    ("weighting", "sigmoid", "t_min"): loss(0.02),
    ("weighting", "sigmoid", "t_max"): loss(0.98),
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
    ("time_sampler", "log_uniform", "sigma_min"): loss(0.1),
    ("time_sampler", "log_uniform", "sigma_max"): loss(50),
    ("time_sampler", "truncated", "low"): loss(0.1),
    ("time_sampler", "truncated", "high"): loss(0.9),
    ("time_sampler", "truncated", "of"): loss("cosmap"),
    ("optimizer", "*", "beta1"): [Case(0.5, "steps")],
    ("optimizer", "*", "beta2"): [Case(0.5, "steps")],
    ("optimizer", "*", "eps"): [Case(1.0, "steps")],
    ("optimizer", "adamw", "weight_decay"): [Case(0.5, "steps")],
    ("schedule", "inverse_sqrt", "reference_steps"): [Case(9, "rates")],
    ("schedule", "polynomial", "power"): [Case(2, "rates")],
    ("schedule", "polynomial", "floor"): [Case(0.5, "rates")],
    ("average", "ema", "decay"): [Case(0.5, "terms")],
    ("average", "posthoc", "width"): [Case(0.2, "terms")],
    ("noise", "gaussian", "std"): loss(0.5) + samples(0.5),
    ("noise", "pruned", "empty"): loss(0.9999, {"reject": 1.5}) + samples(0.9999, {"reject": 1.5}),
    ("noise", "pruned", "std"): loss(0.5, {"empty": 0.9999, "reject": 1.5})
    + samples(0.5, {"empty": 0.9999, "reject": 1.5}),
    ("noise", "pruned", "reject"): loss(1.5, {"empty": 0.9999}) + samples(1.5, {"empty": 0.9999}),
    ("noise", "matched", "per_feature"): loss(True) + samples(True),
    ("noise", "sparse", "dropout_rate"): loss(0.2) + samples(0.2),
    ("noise", "sparse", "stored_zero"): loss(True) + samples(True),
    ("noise", "student_t", "df"): loss(4) + samples(4),
    ("noise", "population", "dataset"): [
        *loss(Images(seed=1), {"dataset": Images()}),
        *samples(Images(seed=1), {"dataset": Images()}),
    ],
    ("coupling", "sinkhorn", "reg"): loss(1),
    ("coupling", "pairs", "path"): elsewhere("test_the_content_of_pairs_names_the_run"),
    ("solver", "dopri5", "rtol"): samples(0.1, {"atol": 1e-7}, nfe=0),
    ("solver", "dopri5", "atol"): samples(0.1, {"rtol": 1e-7}, nfe=0),
    ("solver", "heun", "euler_last"): elsewhere("test_a_last_step_by_euler_names_the_protocol"),
    ("solver", "ancestral", "variance"): samples("large"),
    ("solver", "*", "eta"): samples(0.5, {"diffusion": "kl", "scale": 0.1}),
    ("solver", "*", "diffusion"): samples("constant") + samples("kl") + samples("sin2"),
    ("solver", "*", "scale"): samples(2),
    ("solver", "*", "t_min"): samples(0.3),
    ("solver", "*", "t_max"): samples(0.97),
    ("time_grid", "uniform", "last_step"): samples(0.04),
    ("time_grid", "respaced", "of"): samples(500),
    ("time_grid", "shifted", "shift"): samples(2),
    ("time_grid", "edm_rho", "rho"): samples(5),
    ("time_grid", "edm_rho", "sigma_min"): samples(0.01),
    ("time_grid", "edm_rho", "sigma_max"): samples(40),
    ("time_grid", "log_snr", "low"): samples(-8),
    ("time_grid", "log_snr", "high"): samples(8),
    ("objective", "objective", "space"): loss("data") + loss("noise") + loss("velocity", prediction="data"),
    ("objective", "objective", "normalise_weight"): loss(False, weighting="min_snr"),
    ("objective", "objective", "label_dropout"): loss(0) + loss(0.5, {"label_dropout": 0.1}),
    ("guidance", "guidance", "scale"): samples(3, {"scale": 2}) + samples(0.5, {"scale": 0}) + samples(0, **ADAPTIVE),
    ("guidance", "guidance", "low"): samples(0.3, {"scale": 2}, **ADAPTIVE),
    ("guidance", "guidance", "high"): samples(0.7, {"scale": 2}, **ADAPTIVE),
    ("time_embedding", "sinusoidal", "scale"): [Case(100, "vector")],
    ("time_embedding", "fourier", "std"): [Case(4, "vector")],
    ("dataset", "*", "path"): elsewhere("test_the_content_of_files_names_the_run"),
    ("dataset", "*", "workers"): of_data(0),
    ("dataset", "*", "number"): of_data(65, number=64),
    ("dataset", "*", "noise"): of_data(0.1, number=64),
    ("dataset", "*", "flip"): of_data(True),
    ("dataset", "digits", "encoded"): of_data([0, 1]),
    ("dataset", "gaussian_mixture", "dimensions"): of_data(3, number=64),
    ("dataset", "gaussian_mixture", "components"): of_data(5, number=64),
    ("dataset", "gaussian_mixture", "spread"): of_data(0.2, number=64),
    ("dataset", "image_folder", "size"): of_data(4),
    ("dataset", "image_folder", "colour"): of_data("grey"),
    ("dataset", "image_folder", "levels"): elsewhere("test_the_levels_of_deep_pictures_change_them"),
    ("dataset", "image_folder", "skip_corrupt"): elsewhere(
        "test_pictures_that_cannot_be_read_are_left_out_where_that_is_asked_for"
    ),
    ("dataset", "huggingface", "split"): of_data("test"),
    ("dataset", "huggingface", "image"): of_data("other"),
    ("dataset", "huggingface", "label"): of_data(""),
    ("dataset", "huggingface", "size"): of_data(4),
    ("dataset", "huggingface", "colour"): of_data("grey"),
    ("dataset", "huggingface", "levels"): elsewhere("test_the_levels_of_deep_pictures_change_them"),
    ("dataset", "huggingface", "skip_corrupt"): elsewhere(
        "test_pictures_that_cannot_be_read_are_left_out_where_that_is_asked_for"
    ),
    ("dataset", "huggingface", "online"): elsewhere("test_only_online_permits_the_network"),
    ("dataset", "latents", "scale"): of_data(1),
    ("dataset", "latents", "shift"): of_data(0.1),
    ("dataset", "latents", "flip"): elsewhere("test_mirrored_latents_are_training_samples"),
    ("dataset", "*", "window"): of_data(15),
    ("dataset", "*", "stride"): of_data(2),
    ("dataset", "*", "held_out"): of_data(0.3),
    ("dataset", "table", "columns"): of_data(["z", "x"]) + of_data(["x", "z"], columns=["z", "x"]),
    ("dataset", "table", "label"): of_data("kind"),
    ("dataset", "table", "separator"): elsewhere("test_the_signs_of_a_table_change_its_series"),
    ("dataset", "table", "decimal"): elsewhere("test_the_signs_of_a_table_change_its_series"),
    ("dataset", "time_series", "columns"): of_data(["z", "x"]) + of_data(["x", "z"], columns=["z", "x"]),
    ("dataset", "time_series", "separator"): elsewhere("test_the_signs_of_a_table_change_its_series"),
    ("dataset", "time_series", "decimal"): elsewhere("test_the_signs_of_a_table_change_its_series"),
    ("dataset", "cells", "condition"): of_data("donor"),
    ("dataset", "cells", "keep"): of_data(["donor 1"], condition="donor"),
    ("dataset", "cells", "layer"): of_data("doubled"),
    ("dataset", "cells", "genes"): of_data(10),
    ("dataset", "cells", "min_cells"): of_data(40, genes=10),
    ("dataset", "cells", "target_sum"): of_data(100),
    ("dataset", "cells", "pca"): of_data(3) + of_data(4, pca=3),
    ("metric", "kid", "subsets"): score(4, subsets=3, subset_size=20),
    ("metric", "kid", "subset_size"): score(30, subsets=3, subset_size=20),
    ("metric", "*", "neighbours"): score(1),
    ("metric", "sliced_wasserstein", "projections"): score(50),
    ("metric", "c2st", "trees"): score(20, trees=2),
    ("metric", "fid_infinity", "blocks"): score(12),
    ("metric", "lowest_fid", "sets"): score(4),
    ("metric", "isc", "splits"): score(3),
    ("metric", "*", "samples"): flow(40, samples=20),
    ("metric", "*", "steps"): flow(16, steps=4),
    ("metric", "bits_per_dim", "t_min"): flow(0.01, samples=20),
    ("metric", "bits_per_dim", "dequantise"): flow(False, samples=20),
    ("metric", "bits_per_dim", "probes"): flow(1, samples=31) + flow(2, samples=31, probes=1),
    ("metric", "bits_per_dim", "rtol"): flow(0.1, samples=20),
    ("metric", "bits_per_dim", "atol"): flow(0.1, samples=20),
    ("metric", "bits_per_dim", "batch_size"): flow(10, samples=20),
    ("metric", "field_error", "earliest"): flow(0.3),
    ("metric", "field_error", "latest"): flow(0.6),
}


class Network(nn.Module):
    """A fixed field that is not linear in x, with a push by the class."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        push = 0 if y is None else over((y + 1) / 5, x)
        return torch.tanh(2 * x) - 0.25 * over(t, x) + x.flip(-1) / 3 + push


def data(n: int) -> Tensor:
    spread = torch.tensor([1.0, 0.8, 0.5, 0.3]).view(1, 1, 2, 2)
    return (2 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0)) - 1) * spread


def shifted() -> Data:
    """Return the same data, stored half a unit lower, so that the data's zero has another encoding."""
    return Data(data(512) - 0.5, data(4) - 0.5, encode=lambda x: x + 0.5, decode=lambda x: x - 0.5, kind="image")


def parts_of(family: str, component: Config, parts: dict[str, Any]) -> dict[str, Any]:
    """Return `parts` with the component in its place; weights are not normalised, so that their size matters."""
    space = {"space": parts.get("space", "output"), "normalise_weight": False}
    return {"objective": space, family: component, **{key: value for key, value in parts.items() if key != "space"}}


def loss_of(parts: dict[str, Any]) -> Tensor:
    made = Formulation.parse(parts)
    x0 = data(64 if made.coupling.name == "sinkhorn" else 512)
    return one_step(Objective(made, made.noise.learn(shifted())), Network(), x0, 1, 2, torch.arange(len(x0)) % 3).loss


def samples_of(parts: dict[str, Any]) -> Tensor:
    """Return samples, without classes unless there is guidance."""
    parts = dict(parts)
    nfe = parts.pop("nfe", 8)
    guidance = parts.pop("guidance", None)
    way = {name: parts.pop(name) for name in ("solver", "time_grid") if name in parts}
    made = Formulation.parse(parts)
    state = made.noise.learn(shifted())
    classes = torch.arange(3) if guidance else None
    sampling = SamplingConfig(**way, guidance=guidance or Guidance(), batch_size=3)
    trained = Trained(Network(), made, state)
    batches = generate(trained, sampling, nfe, (1, 2, 2), 6, (1, "test"), classes=classes)
    return torch.cat([batch.x for batch in batches])


def vector_of(parts: dict[str, Any]) -> Tensor:
    torch.manual_seed(0)
    return parts["time_embedding"].build(8)(torch.linspace(0, 1, 5))


def data_of(parts: dict[str, Any]) -> Tensor:
    """Return a row of numbers: training data, held-out data, classes, and the number of workers."""
    made = parts["dataset"].load()
    rows = made.train[torch.arange(len(made.train))]
    if made.augment:
        rows = made.augment(rows, torch.Generator().manual_seed(0))
    seen = (made.encode(rows), made.encode(made.held_out[torch.arange(len(made.held_out))]), made.classes)
    workers = torch.tensor([getattr(made.train, "workers", 0)])
    return torch.cat([part.flatten().double() for part in (*seen, workers) if part is not None])


def score_of(parts: dict[str, Any]) -> Tensor:
    """Return the score of one of two overlapping sets [N, 4] against the other."""
    generator = torch.Generator().manual_seed(0)
    one, other = (
        torch.randn(n, 4, generator=generator, dtype=torch.float64) * scale for n, scale in ((60, 1.0), (80, 1.3))
    )
    metric = parts["metric"]
    found = metric.estimate(metric.summarise(one, None), metric.of_reference.summarise(other, None))
    return torch.tensor([found.value, *(found.interval or ())])


def flow_of(parts: dict[str, Any]) -> Tensor:
    """Return the measure of a network's flow, with the metric's number of steps and paths."""
    made = Formulation()

    def path(steps: int, number: int) -> list[Tensor]:
        visited: list[Tensor] = []
        trained = Trained(Network(), made, {})
        sampling = SamplingConfig(batch_size=number)
        (end,) = generate(trained, sampling, steps, (1, 2, 2), number, (1, "test"), visited=visited)
        return [*visited, end.x]

    def field(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return NetworkField(Trained(Network(), made, {}), y)(x, t)

    def levels(number: int) -> tuple[Tensor, None]:
        return (100 * data(number)).to(torch.int16), None

    real = (data(512), None)
    flow = Flow(path, field, made, torch.ones(()), lambda: real, levels, lambda x: x.float() / 100, 0)
    return torch.tensor(parts["metric"].measure(flow))


def steps_of(parts: dict[str, Any]) -> Tensor:
    """Return the weights after five steps on a quartic function."""
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = parts["optimizer"].build([weight])
    for _ in range(5):
        optimizer.zero_grad()
        weight.pow(4).sum().backward()
        optimizer.step()
    return weight.detach()


def rates_of(parts: dict[str, Any]) -> Tensor:
    return torch.tensor([parts["schedule"].share(step, 5, 50) for step in range(5, 50)])


def terms_of(parts: dict[str, Any]) -> Tensor:
    """Return names and shares as numbers."""
    terms = parts["average"].terms([0.9, 0.5], [10, 20, 30])
    return torch.tensor([float(ord(c)) for term in terms for c in term.name] + [term.share for term in terms])


MEASURES: dict[str, Callable[[dict[str, Any]], Tensor]] = {
    "loss": loss_of,
    "samples": samples_of,
    "vector": vector_of,
    "data": data_of,
    "score": score_of,
    "flow": flow_of,
    "steps": steps_of,
    "rates": rates_of,
    "terms": terms_of,
}


def cases(family: str, name: str, field_name: str) -> list[Case]:
    found = CASES.get((family, name, field_name)) or CASES.get((family, "*", field_name))
    if not found:
        pytest.fail(f"{family} {name}: nothing says where its field {field_name} matters. Add it to CASES.")
    return found


def component(family: str, name: str, changes: dict[str, Any]) -> Config:
    return CONFIGS[family].parse(changes) if family in CONFIGS else build(family, {"name": name, **changes})


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a few pictures to the place of CIFAR-10."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (14, 32, 32, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "cifar10.npz", x_train=images[:10], y_train=np.arange(10), x_test=images[10:], y_test=np.arange(4)
    )


@pytest.mark.usefixtures("cifar10")
@pytest.mark.parametrize(("family", "name", "field_name"), FIELDS)
def test_no_field_is_dead(family: str, name: str, field_name: str, needed: Needed) -> None:
    for case in cases(family, name, field_name):
        if case.shows_in == "elsewhere":
            assert callable(globals()[case.value])
            continue
        own = {**needed(name), **case.own}
        plain = component(family, name, own)
        if case.shows_in == "refusal":
            with pytest.raises(ConfigError, match=f"^{field_name}: |\\.{field_name}: "):
                component(family, name, {**own, field_name: case.value})
            continue
        changed = component(family, name, {**own, field_name: case.value})
        assert getattr(changed, field_name) != getattr(plain, field_name)
        measure = MEASURES[case.shows_in]
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


NEEDED_ALONE: dict[str, dict[str, Any]] = {
    "population": {"dataset": Images()},
    "pruned": {"empty": 0.9999, "reject": 1.5},
}


@pytest.mark.parametrize("family", TRAINED)
def test_every_member_has_a_different_loss(family: str) -> None:
    """No component is a duplicate of another."""
    members = {name: component(family, name, NEEDED_ALONE.get(name, {})) for name in names(family) if name != "pairs"}
    found = {name: loss_of(parts_of(family, member, {})).item() for name, member in members.items()}
    assert len(set(found.values())) == len(found)


# The names of a run

BELOW = {
    **{family: family for family in TRAINED},
    "backbone": "backbone",
    "dataset": "dataset",
    "solver": "evaluate.solver",
    "time_grid": "evaluate.time_grid",
    "optimizer": "train.optimizer",
    "schedule": "train.schedule",
    "average": "evaluate.average",
}
RUN_ONLY = {
    "train.device", "train.recompute", "train.graph", "train.log_every", "train.sample_every", "train.checkpoint_every",
    "train.keep_checkpoints",
    "coupling.path", "dataset.path", "dataset.workers", "dataset.online",
}  # fmt: skip
REFUSED = {
    ("low_discrepancy", "time_sampler.stratify"),
    ("low_discrepancy", "time_sampler.of.stratify"),
    ("low_discrepancy", "time_sampler.of.importance_correct"),
    ("low_discrepancy", "time_sampler.of.density_floor"),
    ("shifted", "time_sampler.of.importance_correct"),
    ("shifted", "time_sampler.of.density_floor"),
    ("truncated", "time_sampler.of.importance_correct"),
    ("truncated", "time_sampler.of.density_floor"),
    ("heun", "evaluate.solver.euler_last"),
    ("euler_maruyama", "evaluate.solver.eta"),
    ("heun_sde", "evaluate.solver.eta"),
}
"""Fields that allow only one value here."""
KEPT_APART = {"evaluate.nfe", "evaluate.metrics"}
"""The measured values: an evaluation adds more of them to the same file. test_protocol.py tests this with `missing`."""
ROUNDS = "reflow."
"""Fields that matter only in a run with reflow rounds; test_reflow.py tests this."""
MEMBERS = [(family, name) for family in BELOW for name in names(family)]


@pytest.fixture
def base(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run at one NFE; every data set is the digits."""
    digits = load(Digits())
    monkeypatch.setattr(identity_module, "load", lambda dataset: digits)
    monkeypatch.setattr(protocol_module, "weights_hash", lambda extractor: extractor)
    monkeypatch.setattr(protocol_module, "read_reference", lambda path, dimensions: (path, {}))
    return override(tiny, {"evaluate.nfe": [4], "backbone.multipliers": [1, 2]})


@pytest.fixture
def guided(base: RunConfig) -> RunConfig:
    """The same with classes and guidance, without which a protocol has no guidance interval."""
    return override(base, {"objective.label_dropout": 0.1, "evaluate.guidance.scale": 2})


def identity(config: RunConfig) -> tuple[str, str]:
    return Run.of(config).name, Protocol.of(config.evaluate, load(Digits())).digest


def walk(config: Config, prefix: str = "", run_only: bool = False) -> Iterator[tuple[str, Any, Any, bool]]:
    """Yield (path, annotation, value, run only?) of everything that `flatten` names."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        path = f"{prefix}{f.name}"
        value = getattr(config, f.name)
        hidden = run_only or bool(f.metadata.get("run_only"))
        if not isinstance(value, Config) or hasattr(type(value), "name"):
            yield path, hints[f.name], value, hidden
        if isinstance(value, Config):
            yield from walk(value, f"{path}.", hidden)


def others(path: str, hint: Any, value: Any) -> list[Any]:
    """Return possible values of a field other than `value`."""
    chosen: dict[str, Any] = {"train.precision": "bf16", "train.compile": "default"}  # other than `auto` on a CPU
    chosen |= {"evaluate.reference": __file__, "evaluate.extractor": "inception"}
    chosen |= {
        "dataset.levels": [0, 1000],
        "backbone.config": "{}",
        "train.more_ema_decays": [0.5],
        "evaluate.more_samples": [{"nfe": 4, "num_samples": 65}],
        "evaluate.noise": "laplace",
        "interpolant.steps": 1000,
        "evaluate.average.decay": 0.9999,
        "evaluate.average.width": 0.2,
    }
    if path in chosen:
        return [chosen[path]]
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
        item = typing.get_args(hint)[0]
        return [[*value, "other"]] if item is str else [[*value, 1], [2 * v for v in value], [8]]
    return [500, 0.5] if value is None else [f"{value}-other"]


def changed(config: RunConfig, path: str, hint: Any, value: Any) -> RunConfig:
    """Return the first valid configuration that differs from `config` in this path."""
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
    folders = {"coupling": {"name": "pairs", "path": "x"}, "dataset": {"name": "huggingface", "path": "x"}}
    assert {path for path, *_, run_only in walk(override(base, folders)) if run_only} == RUN_ONLY


def assert_named(base: RunConfig, path: str, hint: Any, value: Any, run_only: bool) -> None:
    if path in KEPT_APART or path.startswith(ROUNDS):
        return
    if run_only:
        assert path in RUN_ONLY
        assert path in {"train.device", "coupling.path"} or identity(changed(base, path, hint, value)) == identity(base)
    else:
        assert identity(changed(base, path, hint, value)) != identity(base), f"{path} has no part in the name of a run"


def test_every_setting_names_the_run_or_its_protocol(guided: RunConfig) -> None:
    seen = list(walk(guided))
    assert len(seen) > 40
    assert {"objective.label_dropout", "evaluate.guidance.scale", "evaluate.guidance.low", "evaluate.guidance.high"} < {
        p for p, *_ in seen
    }
    for path, hint, value, run_only in seen:
        assert_named(guided, path, hint, value, run_only)


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_every_field_of_every_member_names_the_run_or_its_protocol(
    base: RunConfig, family: str, name: str, needed: Needed
) -> None:
    path = BELOW[family]
    own = {"dataset": "digits"} if name == "population" else needed(name)
    config = override(
        base,
        {path: {"name": name, **own}}
        | ({"evaluate.nfe": [0]} if name == "dopri5" else {})
        | ({"train.snapshot_every": 4} if name == "posthoc" else {}),
    )
    assert flatten(config)[path] == name
    for below, hint, value, run_only in walk(config):
        if below.startswith(f"{path}.") and (name, below) not in REFUSED:
            assert_named(config, below, hint, value, run_only)
    assert flatten(base)[path] == name or identity(config) != identity(base)


def test_which_settings_name_the_training_and_which_the_protocol(guided: RunConfig) -> None:
    """A change of `evaluate` keeps the training; any other change, except of run-only fields, needs
    another training.
    """
    for path, hint, value, run_only in walk(guided):
        if not run_only and path not in KEPT_APART and path != "seed" and not path.startswith(ROUNDS):
            other = changed(guided, path, hint, value)
            assert (training_digest(other) == training_digest(guided)) == path.startswith("evaluate."), path


def test_a_last_step_by_euler_names_the_protocol(base: RunConfig) -> None:
    """It takes an odd NFE, and the usual last step an even one; tests/test_solvers.py holds what it does."""
    usual = override(base, {"evaluate.solver": "heun"})
    other = override(base, {"evaluate.solver": {"name": "heun", "euler_last": True}, "evaluate.nfe": [3]})
    assert identity(usual)[0] == identity(other)[0]
    assert identity(usual)[1] != identity(other)[1]


def test_the_content_of_pairs_names_the_run(base: RunConfig, needed: Needed) -> None:
    """A single changed number in either file changes the name; the path does not."""
    here, there = (needed("pairs")["path"] for _ in range(2))
    configs = [override(base, {"coupling": {"name": "pairs", "path": path}}) for path in (here, there)]
    assert here != there
    assert Run.of(configs[0]).name == Run.of(configs[1]).name != Run.of(base).name
    found = {Run.of(configs[0]).name}
    for name in ("x0", "x1"):
        array = np.load(Path(there) / f"{name}.npy")
        array[3, 0, 1] += 0.5
        np.save(Path(there) / f"{name}.npy", array)
        found.add(Run.of(configs[1]).name)
    assert len(found) == 3


@pytest.mark.parametrize("name", [name for name in names("dataset") if "path" in fields_of("dataset", name)])
@pytest.mark.parametrize("path", ["dataset", "noise.dataset"])
def test_the_content_of_files_names_the_run(tiny: RunConfig, name: str, path: str, needed: Needed) -> None:
    """This covers the data and a population that sampling starts from. Path and workers do not matter."""
    base = override(tiny, {"noise": {"name": "population", "dataset": "digits"}})
    here, there, fetched, changed = (
        override(base, {path: {"name": name, **needed(name, seed), **more}})
        for seed, more in (
            (0, {}),
            (0, {}),
            (0, {"workers": 1} if "workers" in fields_of("dataset", name) else {}),
            (1, {}),
        )
    )
    assert len({here, there, fetched}) == 3
    assert Run.of(here).name == Run.of(there).name == Run.of(fetched).name
    assert len({Run.of(config).name for config in (base, here, changed)}) == 3


def test_pairs_of_another_folder_change_the_loss(needed: Needed) -> None:
    losses = set()
    for seed in (0, 1):
        made = Formulation.parse({"coupling": {"name": "pairs", **needed("pairs", seed)}})
        losses.add(one_step(Objective(made, {}), Network(), torch.zeros(16, 2, 2), 1, 2).loss.item())
    assert len(losses) == 2


def test_pictures_that_cannot_be_read_are_left_out_where_that_is_asked_for(needed: Needed) -> None:
    fields = needed("image_folder")
    (Path(fields["path"]) / "a" / "4.png").write_bytes(b"no picture")
    asked, plain = (
        build("dataset", {"name": "image_folder", "skip_corrupt": skip, **fields}).load() for skip in (True, False)
    )
    assert len(asked.train) + len(asked.held_out) == len(plain.train) + len(plain.held_out) - 1 == 19
    assert len(asked.train[torch.arange(len(asked.train))]) == len(asked.train)
    with pytest.raises(UserError, match=r"/a/4\.png: cannot be read"):
        plain.train[torch.arange(len(plain.train))]


def test_only_online_permits_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the library looks a name up. Before and after it, the process is as the user set it."""
    import datasets.config
    import huggingface_hub.constants as constants

    seen = []
    for place in (datasets.config, constants):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)

    def look_up(path: str) -> None:
        seen.append((path, datasets.config.HF_HUB_OFFLINE, constants.is_offline_mode()))
        raise ConnectionError("nothing answers")

    monkeypatch.setattr(datasets, "load_dataset", look_up)
    for online in (False, True):
        with pytest.raises(UserError, match=r"^my/pets: .*nothing answers"):
            build("dataset", {"name": "huggingface", "path": "my/pets", "online": online}).load()
    assert seen == [("hf://datasets/my/pets", True, True), ("hf://datasets/my/pets", False, False)]
    assert not datasets.config.HF_HUB_OFFLINE
    assert not constants.is_offline_mode()


def test_mirrored_latents_are_training_samples(tmp_path: Path) -> None:
    """Each file then holds two latents: the same files are no data without the field."""
    for i in range(20):
        np.save(tmp_path / f"{i}.npy", np.full((2, 4, 2, 2), i, np.float32))
    assert len(build("dataset", {"name": "latents", "path": str(tmp_path), "flip": True}).load().train) == 36
    with pytest.raises(UserError, match=r"Set dataset\.flip=true"):
        build("dataset", {"name": "latents", "path": str(tmp_path)}).load()


def test_the_levels_of_deep_pictures_change_them(needed: Needed) -> None:
    fields = needed("image_folder")
    deep = np.full((8, 8), 1000, dtype=np.uint16)
    for path in Path(fields["path"]).rglob("*.png"):
        Image.fromarray(deep).save(path)
    for levels, seen in (([0, 2000], 128), ([500, 1500], 128), ([0, 1000], 255), ([0, 4000], 64)):
        data = build("dataset", {"name": "image_folder", "levels": levels, **fields}).load()
        assert data.train[torch.arange(1)].unique().tolist() == [seen], levels


def test_the_signs_of_a_table_change_its_series(tmp_path: Path) -> None:
    """If two readings fit a file, each field chooses one."""
    path = tmp_path / "x.csv"
    path.write_text("a;b,c\n" + "".join(f"{i * i % 7};1,{i * i % 11 + 200}\n" for i in range(100)))
    readings = {
        ("comma", "point"): (("c",), 200.0),
        ("semicolon", "comma"): (("a", "b,c"), 1.2),
        ("semicolon", "point"): (("a", "b,c"), 1200.0),
    }
    for (separator, decimal), (channels, first) in readings.items():
        fields = {"path": str(path), "separator": separator, "decimal": decimal}
        series, rows = (build("dataset", {"name": name, **fields}).load() for name in ("time_series", "table"))
        assert series.names == rows.names == channels
        assert isinstance(series.train, Tensor)
        assert isinstance(rows.train, Tensor)
        assert series.train[0, 0, -1].item() == pytest.approx(first)
        assert any(value == pytest.approx(first) for value in rows.train[:, -1].tolist())
