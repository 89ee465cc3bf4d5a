"""Which components go together: each refusal with its advice, and similar combinations that are accepted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_interpolants import Bare

from harness.components.interpolants import Linear, Scaled
from harness.components.predictions import Velocity
from harness.components.weightings import P2
from harness.core.config import digest, override, to_dict
from harness.core.errors import ConfigError, UserError
from harness.core.registry import build, find, names
from harness.data.base import Data, Dataset
from harness.data.images import Digits, decode, encode
from harness.flow.formulation import Formulation
from harness.runs.config import RunConfig
from harness.runs.validate import check

PAIRS = {"name": "pairs", "path": "nowhere"}
POPULATION = {"name": "population", "dataset": "digits"}
NOT_GAUSSIAN: list[Any] = ["sparse", "student_t", "laplace", "uniform", "pruned", POPULATION]
NOT_INDEPENDENT = ["exact_ot", "sinkhorn", "class_conditional_ot", PAIRS]
STOCHASTIC = [name for name in names("solver") if build("solver", name).needs_score]
BASE = RunConfig(dataset=Digits())


def other(coupling: Any) -> str:
    """Return the advice to choose another coupling."""
    return "" if coupling == PAIRS else "coupling=independent or "


def refused(message: str, **parts: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Formulation.parse(parts)
    assert str(caught.value) == message


def run(**changes: Any) -> RunConfig:
    return override(BASE, {path.replace("__", "."): value for path, value in changes.items()})


def named(spec: Any) -> str:
    return spec if isinstance(spec, str) else spec["name"]


@pytest.mark.parametrize("noise", NOT_GAUSSIAN, ids=named)
def test_the_score_needs_normal_noise(noise: Any) -> None:
    reason = f"score needs the score, which {named(noise)} noise does not give"
    refused(f"prediction: {reason}. Choose noise=gaussian or prediction=velocity.", prediction="score", noise=noise)


@pytest.mark.parametrize("coupling", NOT_INDEPENDENT, ids=named)
def test_the_score_needs_independent_noise(coupling: Any) -> None:
    reason = f"score needs the score, which the coupling {named(coupling)} does not give"
    refused(
        f"prediction: {reason}. Choose {other(coupling)}prediction=velocity.", prediction="score", coupling=coupling
    )


@pytest.mark.parametrize("noise", NOT_GAUSSIAN, ids=named)
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_stochastic_sampling_needs_normal_noise(solver: str, noise: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        run(evaluate__solver=solver, evaluate__nfe=[2], noise=noise)
    reason = f"{solver} needs the score, which {named(noise)} noise does not give"
    assert str(caught.value) == f"evaluate.solver: {reason}. Choose noise=gaussian or evaluate.solver=euler."


@pytest.mark.parametrize("coupling", NOT_INDEPENDENT, ids=named)
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_stochastic_sampling_needs_independent_noise(solver: str, coupling: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        run(evaluate__solver=solver, evaluate__nfe=[2], coupling=coupling)
    reason = f"{solver} needs the score, which the coupling {named(coupling)} does not give"
    assert str(caught.value) == f"evaluate.solver: {reason}. Choose {other(coupling)}evaluate.solver=euler."


def test_there_is_something_to_refuse() -> None:
    noises: Any = {name: find("noise", name) for name in names("noise")}
    assert set(map(named, NOT_GAUSSIAN)) == {name for name, noise in noises.items() if not noise.gaussian}
    assert set(map(named, NOT_INDEPENDENT)) == set(names("coupling")) - {"independent"}
    assert STOCHASTIC == ["ancestral", "euler_maruyama", "heun_sde"]


@pytest.mark.parametrize("prediction", ["score", "velocity"])
@pytest.mark.parametrize("noise", ["gaussian", "matched"])
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_normal_independent_noise_gives_the_score(solver: str, noise: str, prediction: str) -> None:
    made = run(evaluate__solver=solver, evaluate__nfe=[2], noise=noise, prediction=prediction)
    assert (made.noise.name, made.prediction.name, made.evaluate.solver.name) == (noise, prediction, solver)


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise", "edm"])
def test_objectives_without_a_score_go_with_any_noise_and_coupling(prediction: str) -> None:
    for noise in NOT_GAUSSIAN:
        for coupling in NOT_INDEPENDENT:
            assert Formulation.parse(
                {"prediction": prediction, "noise": noise, "coupling": coupling}
            ).noise.name == named(noise)


LARGER = "Choose a larger one, like 0.01."
SMALLER = "Choose a smaller one, like 0.99."


@pytest.mark.parametrize(
    ("interpolant", "prediction", "space", "end", "message"),
    [
        ("linear", "data", "output", {"t_min": 0}, f"data gives no finite velocity at t = 0 on linear. {LARGER}"),
        ("linear", "data", "noise", {"t_min": 0}, f"data gives no finite velocity at t = 0 on linear. {LARGER}"),
        ("gvp", "data", "output", {"t_min": 0}, f"data gives no finite velocity at t = 0 on gvp. {LARGER}"),
        ("linear", "noise", "output", {"t_max": 1}, f"noise gives no finite velocity at t = 1 on linear. {SMALLER}"),
        ("vp", "noise", "output", {"t_max": 1}, f"noise gives no finite velocity at t = 1 on vp. {SMALLER}"),
        ("linear", "score", "output", {"t_max": 1}, f"score gives no finite velocity at t = 1 on linear. {SMALLER}"),
        (
            "polynomial",
            "velocity",
            "data",
            {"t_max": 1},
            f"velocity gives no finite data at t = 1 on polynomial. {SMALLER}",
        ),
        (
            "polynomial",
            "velocity",
            "noise",
            {"t_max": 1},
            f"velocity gives no finite noise at t = 1 on polynomial. {SMALLER}",
        ),
    ],
)
def test_a_clamp_where_the_conversion_has_no_bound(
    interpolant: str, prediction: str, space: str, end: dict[str, float], message: str
) -> None:
    parts = {"interpolant": interpolant, "prediction": {"name": prediction, **end}, "objective": {"space": space}}
    refused(f"prediction.{next(iter(end))}: {message}", **parts)
    assert Formulation.parse(
        {**parts, "prediction": {"name": prediction, **{k: abs(v - 1e-3) for k, v in end.items()}}}
    )


@pytest.mark.parametrize(
    ("interpolant", "prediction"),
    [
        ("linear", {"name": "velocity", "t_min": 0, "t_max": 1}),
        ("linear", {"name": "data", "t_max": 1}),
        ("linear", {"name": "noise", "t_min": 0}),
        ("linear", {"name": "edm", "t_min": 0, "t_max": 1}),
        ("fm_ot", {"name": "data", "t_min": 0}),  # sigma(0) is not zero
        ("ve", {"name": "noise", "t_min": 0, "t_max": 1}),  # alpha(1) is not zero
        ("vp_ddpm", {"name": "noise", "t_max": 1}),
        ("polynomial", {"name": "velocity", "t_max": 1}),
    ],
    ids=str,
)
def test_a_clamp_at_an_end_with_a_bound(interpolant: str, prediction: dict[str, Any]) -> None:
    made = Formulation.parse({"interpolant": interpolant, "prediction": prediction})
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert made.prediction.factor(t, made.interpolant, "velocity").isfinite().all()


@pytest.mark.parametrize("prediction", ["velocity", "noise"])
def test_a_weighting_of_another_error_needs_the_squared_loss(prediction: str) -> None:
    """The error suggests the nearest formulations, and they work."""
    parts = {"weighting": "min_snr", "prediction": prediction, "loss": "pseudo_huber"}
    reason = "min_snr weights the squared error of the data, but pseudo_huber is not a squared loss"
    advice = "Set objective.space=data, or choose loss=mse."
    refused(
        f"objective.space: {reason}: no weight of the {prediction} error gives the same objective. {advice}", **parts
    )
    for change in ({"objective": {"space": "data"}}, {"loss": "mse"}, {"weighting": "clipped_snr"}):
        assert Formulation.parse({**parts, **change})


def test_a_weighting_of_an_error_that_is_not_a_finite_multiple_of_the_measured_one() -> None:
    """At t = 1 the velocity can have an error where the noise has none; at t = 0, where the data have none."""
    for end, space, advice in (("t_max", "noise", SMALLER), ("t_min", "data", LARGER)):
        value = {"t_min": 0, "t_max": 1}[end]
        parts = {"weighting": "cosmap", "objective": {"space": space}}
        reason = f"cosmap weights the velocity error, which is not a finite multiple of the {space} error"
        refused(
            f"prediction.{end}: {reason} at t = {value} on linear. {advice[:-1]}, or objective.space=velocity.",
            **parts,
            prediction={"name": "velocity", end: value},
        )
        near = {"name": "velocity", end: abs(value - 1e-3)}
        assert Formulation.parse({**parts, "prediction": near})
        assert Formulation.parse({**parts, "objective": {}, "prediction": {"name": "velocity", end: value}})


def test_a_weighting_of_another_error_than_the_scores_needs_one_variance_of_the_noise() -> None:
    """The error comes before any training."""
    parts: dict[str, Any] = {"weighting": "p2", "prediction": "score", "noise__per_feature": True}
    parts["evaluate__extractor"] = "digits"
    with pytest.raises(ConfigError) as caught:
        check(run(noise="matched", **parts))
    reason = "p2 weights the noise error, whose ratio to the score error differs between features"
    advice = "Set objective.space=noise."
    assert str(caught.value) == f"objective.space: {reason}, because their noise variances differ. {advice}"
    check(run(noise="matched", **parts, objective__space="noise"))
    check(run(noise="matched", **{**parts, "prediction": "edm"}))
    check(run(noise="matched", **{**parts, "noise__per_feature": False}))


def test_a_weighting_stated_for_an_unknown_quantity_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(P2, "stated_for", "image")
    refused(
        "weighting: p2 is stated for 'image', which is not a quantity. Set its stated_for to one of velocity, data, "
        "noise, any.",
        weighting="p2",
    )


def test_a_score_without_a_bound() -> None:
    """At t = 0 the target -x1 / sigma is infinite where sigma is 0: a time of exactly 0 would end training."""
    for interpolant in ("fm_ot", "ve"):  # sigma(0) > 0
        assert Formulation.parse({"interpolant": interpolant, "prediction": {"name": "score", "t_min": 0}})
    with pytest.raises(
        ConfigError, match=r"^prediction\.t_min: .* at t = 0 on linear\. Choose a larger one, like 0\.01\.$"
    ):
        Formulation.parse({"prediction": {"name": "score", "t_min": 0}})


def test_a_stochastic_solver_where_the_velocity_has_no_score() -> None:
    """On `polynomial` nothing moves at t = 1, where sampling starts: there, the velocity contains no score."""
    with pytest.raises(
        ConfigError,
        match=r"^prediction\.t_max: velocity gives no finite score at t = 1 on polynomial\. Choose a smaller one",
    ):
        run(interpolant="polynomial", prediction__t_max=1.0, evaluate__solver="euler_maruyama")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"time_sampler": {"name": "low_discrepancy", "stratify": True}},
            "time_sampler.stratify: low_discrepancy draws one time in each interval already. Leave it "
            "false, in `of` too.",
        ),
        (
            {"time_sampler": {"name": "low_discrepancy", "of": "stratified"}},
            "time_sampler.stratify: low_discrepancy draws one time in each interval already. Leave it "
            "false, in `of` too.",
        ),
        *(
            (
                {"time_sampler": {"name": outer, "of": {"name": "cosmap", "importance_correct": True}}},
                "time_sampler.of.importance_correct: the correction uses the outer sampler's density. Set it there.",
            )
            for outer in ("low_discrepancy", "shifted")
        ),
        (
            {"time_sampler": {"name": "mode", "scale": -1}},
            "time_sampler.scale: -1.0 is outside (-1, 1.75194). Choose a value inside.",
        ),
        (
            {"time_sampler": {"name": "mode", "scale": 1.76}},
            "time_sampler.scale: 1.76 is outside (-1, 1.75194). Choose a value inside.",
        ),
        (
            {"time_sampler": {"name": "power", "p": 0}},
            "time_sampler.p: 0.0 is outside [1e-150, 1e+150]. Choose a value inside.",
        ),
        (
            {"time_sampler": {"name": "beta", "a": -2}},
            "time_sampler.a: -2.0 is outside (0, 100]. Choose a value inside.",
        ),
        (
            {"time_sampler": {"name": "shifted", "shift": 0}},
            "time_sampler.shift: 0.0 is outside [1e-150, 1e+150]. Choose a value inside.",
        ),
        (
            {"time_sampler": {"name": "uniform", "density_floor": 0}},
            "time_sampler.density_floor: 0.0 is outside [1e-150, 1e+150]. Choose a value inside.",
        ),
        (
            {"weighting": {"name": "min_snr", "gamma": 0}},
            "weighting.gamma: 0.0 is outside [1e-150, 1e+150]. Choose a value inside.",
        ),
        (
            {"weighting": {"name": "clipped_snr", "gamma": -5}},
            "weighting.gamma: -5.0 is outside [1e-150, 1e+150]. Choose a value inside.",
        ),
        (
            {"weighting": {"name": "p2", "gamma": -1}},
            "weighting.gamma: -1.0 is outside [0, 1e+150]. Choose a value inside.",
        ),
        (
            {"weighting": {"name": "snr", "t_min": 0}},
            "weighting.t_min: 0.0 is outside (0, 0.03]. Choose a value inside.",
        ),
        (
            {"weighting": {"name": "inverse_snr", "t_max": 1}},
            "weighting.t_max: 1.0 is outside [0.97, 0.9999]. Choose a value inside.",
        ),
        (
            {"noise": {"name": "sparse", "dropout_rate": 1}},
            "noise.dropout_rate: 1.0 is outside [0, 1). Choose a value inside.",
        ),
        ({"noise": {"name": "student_t", "df": 2}}, "noise.df: 2.0 is outside (2, 1e+150]. Choose a value inside."),
        (
            {"coupling": {"name": "sinkhorn", "reg": 0}},
            "coupling.reg: 0.0 is outside [0.005, 1e+150]. Choose a value inside.",
        ),
        ({"coupling": {"name": "pairs"}}, "coupling.path: pairs needs it. Give a value."),
        (
            {"noise": {"name": "population", "dataset": {"name": "npz"}}},
            "noise.dataset.path: npz needs it. Give a value.",
        ),
        (
            {"objective": {"label_dropout": -0.1}},
            "objective.label_dropout: -0.1 is outside [0, 1). Choose a value inside.",
        ),
        ({"loss": {"name": "pseudo_huber", "c": 0}}, "loss.c: 0.0 is outside [1e-150, 1e+150]. Choose a value inside."),
        (
            {"interpolant": {"name": "polynomial", "power": 0.5}},
            "interpolant.power: 0.5 is outside [1, 8]. Choose a value inside.",
        ),
        ({"interpolant": {"name": "cosine", "s": 0}}, "interpolant.s: 0.0 is outside (0, 1]. Choose a value inside."),
        (
            {"interpolant": {"name": "vp", "t_max": 1}},
            "interpolant.t_max: 1.0 is outside [0.97, 0.9999]. Choose a value inside.",
        ),
        (
            {"interpolant": {"name": "ve", "sigma_min": 50}},
            "interpolant.sigma_min: 50 is not below sigma_max, 50. Choose a smaller one.",
        ),
        (
            {"prediction": {"name": "data", "t_min": 0.031}},
            "prediction.t_min: 0.031 is outside [0, 0.03]. Choose a value inside.",
        ),
        (
            {"prediction": {"name": "edm", "sigma_data": 0}},
            "prediction.sigma_data: 0.0 is outside [1e-06, 1e+06]. Choose a value inside.",
        ),
        (
            {"objective": {"space": "score"}},
            "objective.space: 'score' is not a choice. Known: data, noise, output, velocity.",
        ),
        ({"objective": {"space": "nois"}}, "objective.space: 'nois' is not a choice. Did you mean 'noise'?"),
        (
            {"prediction": "epsilon"},
            f"prediction: 'epsilon' is not a known prediction. Known: {', '.join(names('prediction'))}. "
            "A component in a file of yours needs --plugin FILE.",
        ),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_with_the_range(parts: dict[str, Any], message: str) -> None:
    refused(message, **parts)


@pytest.mark.parametrize(
    "parts",
    [
        {
            "time_sampler": {
                "name": "low_discrepancy",
                "of": {"name": "shifted", "of": "cosmap"},
                "importance_correct": True,
            }
        },
        {"time_sampler": {"name": "shifted", "of": "stratified", "importance_correct": True}},
        {"time_sampler": {"name": "shifted", "stratify": True}},
        {"time_sampler": {"name": "mode", "scale": -0.999}},
        {"time_sampler": {"name": "mode", "scale": 1.75}},
        {"weighting": {"name": "p2", "gamma": 0}},
        {"weighting": {"name": "snr", "t_min": 0.03}},
        {"noise": {"name": "sparse", "dropout_rate": 0}},
        {"noise": {"name": "student_t", "df": 2.1}},
        {"noise": {"name": "population", "dataset": {"name": "npz", "path": "absent.npz"}}},
        {"objective": {"label_dropout": 0}},
        {"objective": {"label_dropout": 0.999}},
        {"interpolant": {"name": "polynomial", "power": 1}},
        {"interpolant": {"name": "ve", "sigma_min": 49.9}},
        {"interpolant": {"name": "fm_ot", "sigma_min": 0}},
    ],
    ids=str,
)
def test_its_neighbours_are_accepted(parts: dict[str, Any]) -> None:
    made = Formulation.parse(parts)
    assert Formulation.parse(to_dict(made)) == made


STOCHASTICALLY = {"evaluate__solver": "euler_maruyama"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {**STOCHASTICALLY, "evaluate__solver__scale": 0},
            "solver.scale: 0.0 is outside [1e-150, 1e+150]. Choose a value inside.",
        ),
        (
            {**STOCHASTICALLY, "evaluate__solver__diffusion": "sine"},
            "solver.diffusion: 'sine' is not a choice. Did you mean 'sin2'?",
        ),
        (
            {"evaluate__time_grid": {"name": "shifted", "shift": -1}},
            "time_grid.shift: -1.0 is outside [1e-150, 1e+150]. Choose a value inside.",
        ),
        (
            {"evaluate__time_grid": {"name": "log_snr", "low": 9}},
            "time_grid.low: 9 is not below high, 9. Choose a smaller one.",
        ),
        (
            {"evaluate__checkpoint": "best", "evaluate__average": {"name": "posthoc", "width": 0.1}},
            "checkpoint: a posthoc average ends at the last snapshot, not at the best checkpoint. Set it to last.",
        ),
    ],
)
def test_sampling_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(**changes)
    assert str(caught.value) == f"evaluate.{message}"


@dataclass(frozen=True, kw_only=True)
class Unlabelled(Dataset):
    """The digits without classes."""

    def load(self) -> Data:
        digits = Digits().load()
        return Data(digits.train, digits.held_out, encode, decode, "image")


@pytest.fixture
def unlabelled(tiny: RunConfig) -> Iterator[RunConfig]:
    return override(tiny, {"dataset": Unlabelled()})  # type: ignore[return-value]


def test_a_coupling_by_class_needs_classes(tiny: RunConfig, unlabelled: RunConfig) -> None:
    check(override(tiny, {"coupling": "class_conditional_ot"}))
    check(override(unlabelled, {"coupling": "exact_ot"}))
    with pytest.raises(ConfigError) as caught:
        check(override(unlabelled, {"coupling": "class_conditional_ot"}))
    message = "class_conditional_ot needs the classes of the data, and there are none. Choose exact_ot."
    assert str(caught.value) == f"coupling: {message}"


def test_a_batch_larger_than_the_data(tiny: RunConfig) -> None:
    check(override(tiny, {"train.batch_size": 1438}))
    with pytest.raises(ConfigError) as caught:
        check(override(tiny, {"train.batch_size": 1439}))
    assert str(caught.value) == "train.batch_size: 1439 is more than the 1438 training samples. Choose a smaller one."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["training", "held-out"])
def test_data_that_are_not_finite_are_refused(part: str, value: float) -> None:
    good = torch.zeros(4, 3)
    bad = torch.zeros(2, 3)
    bad[1, 1] = bad[1, 2] = value
    parts = (bad, good) if part == "training" else (good, bad)
    with pytest.raises(UserError) as caught:
        Data(*parts, encode=torch.Tensor.float, decode=torch.Tensor.float, kind="points")
    assert str(caught.value) == f"dataset: 2 of the 6 {part} values are NaN or infinite. Remove or replace them."
    assert Data(good, good, torch.Tensor.float, torch.Tensor.float, "points").shape == (3,)


def test_the_space_of_the_output_is_that_of_the_prediction() -> None:
    for prediction in names("prediction"):
        assert Formulation.parse({"prediction": prediction}).space == prediction
        assert Formulation.parse({"prediction": prediction, "objective": {"space": "data"}}).space == "data"


class Own(Velocity):
    """A user's prediction."""


def test_a_users_path_and_prediction_that_keep_their_promises_are_accepted() -> None:
    made = Formulation(interpolant=Bare(path=Linear()), prediction=Own())
    assert (made.path({}), made.space) == (Bare(path=Linear()), "velocity")


def test_the_path_is_seen_with_noise_of_unit_variance() -> None:
    """For noise of unit variance, this is the interpolant itself; otherwise the noise is scaled by its standard
    deviation.
    """
    assert Formulation().path({}) == Linear()
    made = Formulation.parse({"noise": {"name": "matched", "per_feature": True}})
    path = made.path({"std": torch.tensor([0.6, 0.8])})
    assert isinstance(path, Scaled)
    assert (path.path, path.std) == (Linear(), pytest.approx(0.5**0.5))  # the root of the mean variance
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    scaled = made.path({"std": torch.tensor(0.5)})
    torch.testing.assert_close(scaled.snr(t), 4 * Linear().snr(t))
    torch.testing.assert_close(scaled.time_of_log_snr(scaled.log_snr(t)), t)


def test_formulations_of_different_parts_have_different_digests() -> None:
    found = [digest(Formulation.parse({family: name})) for family in ("prediction", "loss") for name in names(family)]
    assert len(set(found)) == len(found) - 1  # velocity and mse are both the default
