"""Classes: hidden from the network in some training samples, and amplified by guidance in sampling."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_step import one_step
from scipy import stats
from torch import Tensor, nn

from harness.components.backbones.mlp import MLP
from harness.components.interpolants import over
from harness.core.config import override
from harness.core.errors import ConfigError
from harness.core.registry import build
from harness.core.rng import stream
from harness.data.base import Data, Dataset, load
from harness.data.points import EightGaussians, SwissRoll
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective
from harness.flow.sampling import Generated, Guidance, NetworkField, SamplingConfig, Trained, generate, steps_of
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.sample import restore, samples
from harness.runs.train import ensure
from harness.runs.validate import check
from harness.training.config import TrainConfig
from harness.training.optimizers import AdamW

FIXED = ["euler", "heun", "rk4", "ab2", "euler_maruyama", "heun_sde"]
CLASSES = torch.tensor([0, 1, 2, 1])
MIDDLE = {"low": 0.31, "high": 0.69}
CONVERTIBLE = ["velocity", "data", "noise", "score", "edm"]


class Known(nn.Module):
    """sin(x) + t y, whose output without classes is cos(x) - t; records the x, t and y of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.given.append((x, t, y))
        shown = torch.full_like(t, -1, dtype=torch.long) if y is None else y
        return torch.where(over(shown, x) < 0, x.cos() - over(t, x), x.sin() + over(t, x) * over(shown, x))

    @property
    def rows(self) -> int:
        return sum(len(x) for x, _, _ in self.given)


def formulation(prediction: str = "velocity", interpolant: str = "linear", noise: Any = "gaussian") -> Formulation:
    return Formulation.parse({"prediction": prediction, "interpolant": interpolant, "noise": noise})


def points(seed: int = 0) -> Tensor:
    return torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def at(time: float) -> Tensor:
    return torch.full((4,), time, dtype=torch.float64)


def field(
    made: Formulation, y: Tensor, network: nn.Module | None = None, state: Any = None, **guidance: Any
) -> NetworkField:
    return NetworkField(Trained(network or Known(), made, state or {}), y, Guidance(**guidance))


@pytest.mark.parametrize("scale", [0.0, 0.4, 1.0, 1.5, 4.0])
def test_guidance_goes_from_the_output_without_classes_through_that_with(scale: float) -> None:
    x = points()
    t = at(0.6)
    without = x.cos() - 0.6
    with_classes = x.sin() + 0.6 * CLASSES[:, None]
    torch.testing.assert_close(
        field(formulation(), CLASSES, scale=scale)(x, t), without + scale * (with_classes - without)
    )


@pytest.mark.parametrize("scale", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("noise", ["gaussian", {"name": "matched", "per_feature": True}], ids=str)
@pytest.mark.parametrize("interpolant", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("prediction", CONVERTIBLE)
def test_guiding_and_converting_can_be_exchanged(prediction: str, interpolant: str, noise: Any, scale: float) -> None:
    """Velocity and score of the guided output are the guided velocity and score, for every prediction."""
    made = formulation(prediction, interpolant, noise)
    state = {"std": torch.tensor([0.5, 2.0])}
    for x, t in ((points(0), at(0.0)), (points(1), at(0.37)), (points(2), at(1.0))):
        guided, with_classes, without = (
            field(made, y, state=state, scale=s) for y, s in ((CLASSES, scale), (CLASSES, 1), (0 * CLASSES - 1, 1))
        )
        for result, u, c in zip(
            guided.with_score(x, t), without.with_score(x, t), with_classes.with_score(x, t), strict=True
        ):
            torch.testing.assert_close(result, u + scale * (c - u), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(guided(x, t), guided.with_score(x, t)[0])
        assert (guided.calls, with_classes.calls, without.calls) == (6, 1, 1)


def test_both_calls_see_the_same_points_at_the_same_times() -> None:
    network = Known()
    made = field(formulation("edm"), CLASSES, network, scale=2)
    made(points(), at(0.6))
    assert made.calls * 4 == network.rows == 8
    told: dict[tuple[float, ...], list[int]] = {}
    for x, t, y in network.given:
        assert y is not None
        for row, time, label in zip(x, t, y, strict=True):
            told.setdefault((*row.tolist(), time.item()), []).append(label.item())
    assert [sorted(labels) for labels in told.values()] == [[-1, 0], [-1, 1], [-1, 2], [-1, 1]]


def test_without_guidance_the_network_is_called_once_with_the_classes() -> None:
    network = Known()
    made = field(formulation(), CLASSES, network)
    made(points(), at(0.6))
    made.with_score(points(), at(0.2))
    assert made.calls == len(network.given) == 2
    assert all(torch.equal(y, CLASSES) for _, _, y in network.given if y is not None)


def test_without_classes_the_network_gets_none() -> None:
    network = Known()
    made = NetworkField(Trained(network, formulation(), {}))
    made(points(), at(0.6))
    assert made.calls == 1
    assert network.given[0][2] is None


@pytest.mark.parametrize(("low", "high"), [(0.25, 0.75), (0.0, 0.75), (0.25, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_guidance_works_from_high_down_to_low_and_nowhere_else(low: float, high: float) -> None:
    """Both ends belong to the interval; outside it, the network is called once, with classes."""
    for time in (0.0, 0.2499, 0.25, 0.5, 0.75, 0.7501, 1.0):
        network = Known()
        made = field(formulation(), CLASSES, network, scale=3, low=low, high=high)
        velocity = made(points(), at(time))
        inside = low <= time <= high
        assert made.calls * 4 == network.rows == (8 if inside else 4)
        torch.testing.assert_close(
            velocity, field(formulation(), CLASSES, scale=3 if inside else 1)(points(), at(time))
        )


def test_by_default_guidance_works_at_all_times() -> None:
    for time in (0.0, 1e-9, 0.5, 1.0, 1 + 1e-12, -1e-12):
        made = field(formulation(), CLASSES, scale=3)
        made(points(), at(time))
        assert made.calls == 2


def times_seen(solver: str, steps: int) -> list[Fraction]:
    """Return the times at which a solver with equal steps calls the network."""
    times = [1 - Fraction(i, steps) for i in range(steps + 1)]
    seen: dict[str, Any] = {
        "euler": lambda a, b: [a],
        "ab2": lambda a, b: [a],
        "euler_maruyama": lambda a, b: [a],
        "heun": lambda a, b: [a, b],
        "heun_sde": lambda a, b: [a, b],
        "rk4": lambda a, b: [a, (a + b) / 2, (a + b) / 2, b],
    }
    return [time for a, b in itertools.pairwise(times) for time in seen[solver](a, b)]


def calls_by_hand(solver: str, steps: int, guidance: Guidance) -> int:
    seen = times_seen(solver, steps)
    return len(seen) + (sum(guidance.low <= time <= guidance.high for time in seen) if guidance.scale != 1 else 0)


def draws(
    network: nn.Module, solver: str, nfe: int, guidance: Guidance, classes: Tensor | None, **more: Any
) -> list[Generated]:
    given = {"number": 8, "batch_size": 8, "streams": (0, "test"), **more}
    sampling = SamplingConfig(solver=build("solver", solver), guidance=guidance, batch_size=given.pop("batch_size"))
    trained = Trained(network, formulation(), {})
    return list(generate(trained, sampling, nfe, (2,), classes=classes, **given))


@pytest.mark.parametrize("solver", FIXED)
@pytest.mark.parametrize(
    "guidance", [Guidance(), Guidance(scale=3), Guidance(scale=3, **MIDDLE)], ids=["off", "on", "middle"]
)
def test_calls_counted_are_the_nfe_and_all_others_are_refused(solver: str, guidance: Guidance) -> None:
    """Compared with all numbers of steps, counted by hand; the advice names the nearest possible NFEs."""
    method = build("solver", solver)
    grid = build("time_grid", "uniform")
    possible = {calls_by_hand(solver, steps, guidance): steps for steps in range(20, 0, -1)}
    for nfe in range(method.calls_per_step, 21, method.calls_per_step):
        if nfe in possible:
            network = Known()
            batch = draws(network, solver, nfe, guidance, CLASSES)[0]
            assert steps_of(method, grid, formulation().interpolant, guidance, nfe) == possible[nfe]
            assert batch.calls * 8 == network.rows == nfe * 8
        else:
            with pytest.raises(
                ConfigError, match=rf"^nfe: {solver} with this guidance cannot spend {nfe} calls\."
            ) as error:
                steps_of(method, grid, formulation().interpolant, guidance, nfe)
            near = {max((n for n in possible if n < nfe), default=min(possible)), min(n for n in possible if n > nfe)}
            advice = str(error.value).partition("Choose ")[2].rstrip(".").split(" or ")
            assert {int(number) for number in advice} == near


def test_guidance_at_all_times_leaves_half_the_steps() -> None:
    for solver in FIXED:
        method = build("solver", solver)
        least = 2 * method.calls_per_step
        assert (
            steps_of(method, build("time_grid", "uniform"), formulation().interpolant, Guidance(scale=3), 5 * least)
            == 5
        )


def test_the_grid_decides_how_many_steps_are_guided() -> None:
    """Quadratic times 1, 0.25 and 0: none of two Euler steps starts in the middle; one of three (1, 4/9, 1/9) does."""
    path = formulation().interpolant
    guidance = Guidance(scale=3, **MIDDLE)
    grid = build("time_grid", "quadratic")
    assert steps_of(build("solver", "euler"), grid, path, guidance, 2) == 2
    assert steps_of(build("solver", "euler"), grid, path, guidance, 4) == 3
    with pytest.raises(ConfigError, match=r"cannot spend 3 calls\. Choose 2 or 4\."):
        steps_of(build("solver", "euler"), grid, path, guidance, 3)


@pytest.mark.parametrize(
    ("solver", "nfe", "interval"), [("euler", 14, (0.7, 1.0)), ("ab2", 8, (0.2, 0.6)), ("heun", 16, (0.2, 0.6))]
)
def test_an_end_of_the_interval_on_the_grid_is_counted_as_it_is_used(
    solver: str, nfe: int, interval: tuple[float, float]
) -> None:
    guidance = Guidance(scale=3, low=interval[0], high=interval[1])
    assert draws(Known(), solver, nfe, guidance, CLASSES)[0].calls == nfe


def test_the_advised_nfes_are_possible() -> None:
    guidance = Guidance(scale=3, low=0.9)
    heun = build("solver", "heun")
    with pytest.raises(ConfigError, match=r"cannot spend 4 calls\. Choose 3 or 5\."):
        steps_of(heun, build("time_grid", "uniform"), formulation().interpolant, guidance, 4)
    EvaluateConfig(solver=heun, guidance=guidance, nfe=(5,))


def test_an_adaptive_solver_counts_both_calls() -> None:
    counted = {}
    for scale in (1.0, 3.0):
        network = Known()
        visited = list[Tensor]()
        batch = draws(network, "dopri5", 0, Guidance(scale=scale), CLASSES, visited=visited)[0]
        counted[scale] = batch.calls / len(visited)
        assert batch.calls * 8 == network.rows
    assert counted == {1.0: 1, 3.0: 2}
    network = Known()
    visited = list[Tensor]()
    batch = draws(network, "dopri5", 0, Guidance(scale=3, **MIDDLE), CLASSES, visited=visited)[0]
    assert len(visited) < batch.calls < 2 * len(visited)
    assert batch.calls * 8 == network.rows


def test_classes_are_drawn_as_often_as_in_training() -> None:
    training = torch.tensor([0] * 14 + [1] * 5 + [4])
    found = draws(Known(), "euler", 1, Guidance(), training, number=4000, batch_size=500)
    drawn = torch.cat([batch.y for batch in found if batch.y is not None])
    counts = torch.bincount(drawn, minlength=5)
    assert len(drawn) == 4000
    assert counts[[2, 3]].tolist() == [0, 0]
    assert stats.chisquare(counts[[0, 1, 4]].numpy(), [2800, 1000, 200]).pvalue > 1e-3
    assert not torch.equal(found[0].y, found[1].y)  # type: ignore[arg-type]


def test_the_returned_classes_are_those_that_the_network_got() -> None:
    for scale in (1.0, 3.0):
        network = Known()
        batch = draws(network, "euler", 2, Guidance(scale=scale), torch.arange(100))[0]
        assert batch.y is not None
        told = torch.cat([y for _, _, y in network.given if y is not None])
        assert Counter(told[told >= 0].tolist()) == Counter(batch.y.tolist() * (2 if scale == 1 else 1))


def test_classes_depend_on_the_seed_alone() -> None:
    training = torch.arange(1000)

    def drawn(seed: int, solver: str = "euler", nfe: int = 4, scale: float = 1.0) -> list[int]:
        y = draws(Known(), solver, nfe, Guidance(scale=scale), training, streams=(seed, "test"))[0].y
        assert y is not None
        return y.tolist()

    assert drawn(0) == drawn(0, "heun") == drawn(0, scale=3) == drawn(0, nfe=8)
    assert drawn(0) != drawn(1)


class Still(nn.Module):
    """Zero velocity: the output is the noise, plus the noise that a stochastic solver adds."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return 0 * x


@pytest.mark.parametrize(("solver", "nfe"), [("euler", 4), ("euler_maruyama", 4), ("heun_sde", 8)])
def test_noise_depends_neither_on_classes_nor_on_guidance(solver: str, nfe: int) -> None:
    """This includes the noise of a stochastic solver, for the same number of steps."""
    plain, told, other = (
        draws(Still(), solver, nfe, Guidance(), classes)[0] for classes in (None, CLASSES, 1 - CLASSES)
    )
    guided = draws(Still(), solver, 2 * nfe, Guidance(scale=3), CLASSES)[0]
    assert plain.y is None
    torch.testing.assert_close(told.x, plain.x, rtol=0, atol=0)
    torch.testing.assert_close(other.x, plain.x, rtol=0, atol=0)
    torch.testing.assert_close(guided.x, plain.x, rtol=0, atol=0)


CENTRE = 1.2
SPREAD = 0.5


class TwoGaussians(nn.Module):
    """The exact velocity on the linear path for data N(-CENTRE, SPREAD^2) or N(CENTRE, SPREAD^2), or for an even
    mixture of both.
    """

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None
        t = over(t, x)
        y = over(y, x)
        variance = ((1 - t) * SPREAD).square() + t.square()
        gain = (t - (1 - t) * SPREAD**2) / variance
        each = torch.stack([gain * (x - (1 - t) * centre) - centre for centre in (-CENTRE, CENTRE)])
        likely = torch.stack(
            [-(x - (1 - t) * centre).square() / (2 * variance) for centre in (-CENTRE, CENTRE)]
        ).softmax(0)
        return torch.where(y < 0, (likely * each).sum(0), torch.where(y == 0, each[0], each[1]))


@functools.cache
def of_each_class(scale: float) -> tuple[Tensor, Tensor]:
    """Return samples with each class, after 50 steps."""
    nfe = 100 if scale == 1 else 200
    batch = draws(
        TwoGaussians(), "heun", nfe, Guidance(scale=scale), torch.tensor([0, 1]), number=4000, batch_size=4000
    )[0]
    assert batch.y is not None
    return batch.x[batch.y == 0, 0].double(), batch.x[batch.y == 1, 0].double()


def test_at_scale_one_every_class_keeps_its_distribution() -> None:
    for x, centre in zip(of_each_class(1.0), (-CENTRE, CENTRE), strict=True):
        assert stats.kstest(x.numpy(), stats.norm(centre, SPREAD).cdf).pvalue > 1e-3


def test_at_scale_zero_the_class_has_no_effect() -> None:
    mixture = 0.5 * (stats.norm.cdf(0.8, -CENTRE, SPREAD) + stats.norm.cdf(0.8, CENTRE, SPREAD))
    for x in of_each_class(0.0):
        assert x.mean().abs() < 0.15
        assert (x < 0.8).double().mean() == pytest.approx(mixture, abs=0.05)


def test_larger_scales_move_away_from_the_other_class() -> None:
    scales = [0.0, 0.5, 1.0, 2.0, 4.0]
    sides = [of_each_class(scale) for scale in scales]
    for side, sign in ((0, -1), (1, 1)):
        means = [sign * pair[side].mean().item() for pair in sides]
        strays = [(sign * pair[side] < 0).double().mean().item() for pair in sides]
        assert all(b > a + 0.05 for a, b in itertools.pairwise(means))
        assert strays[0] > strays[1] > strays[2] > 0.002
        assert strays[3] < strays[2]
        assert strays[4] == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 0.6, "high": 0.4}, r"^low: 0\.6 is above high = 0\.4\. Swap them\.$"),
        ({"scale": -1}, r"^scale: -1\.0 is outside \[0, 1e\+150\]"),
        ({"low": -0.1}, r"^low: -0\.1 is outside \[0, 1\]"),
        ({"high": 1.1}, r"^high: 1\.1 is outside \[0, 1\]"),
    ],
)
def test_meaningless_guidance_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Guidance(**values)


def test_guidance_is_part_of_the_protocol_if_it_has_an_effect() -> None:
    data = load(EightGaussians(number=100))
    base = EvaluateConfig(extractor="values", metrics=(build("metric", "energy"),))

    def digest_with(**values: float) -> str:
        return Protocol.of(dataclasses.replace(base, guidance=Guidance(**values)), data).digest

    assert digest_with() == digest_with(scale=1, low=0.2, high=0.8) == Protocol.of(base, data).digest
    assert (
        len(
            {
                digest_with(),
                digest_with(scale=2),
                digest_with(scale=3),
                digest_with(scale=3, low=0.1),
                digest_with(scale=3, high=0.9),
            }
        )
        == 5
    )


@pytest.fixture
def small() -> RunConfig:
    """Eight Gaussians and an MLP that gets the class of nine points in ten."""
    return RunConfig.parse(
        {
            "dataset": {"name": "eight_gaussians", "number": 4000},
            "backbone": {"name": "mlp", "width": 64, "blocks": 2},
            "objective": {"label_dropout": 0.1},
            "train": TrainConfig(
                steps=500,
                batch_size=256,
                learning_rate=4e-3,
                warmup_steps=20,
                optimizer=AdamW(beta2=0.97),
                device="cpu",
                log_every=100,
                sample_every=1000,
            ),
            "evaluate": {
                "extractor": "values",
                "nfe": [16],
                "num_samples": 500,
                "metrics": ["label_accuracy", "sliced_wasserstein"],
            },
        }
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective.label_dropout": None, "evaluate.guidance.scale": 2, "evaluate.metrics": ["energy"]},
            r"^evaluate\.guidance: the network is told no classes\. Train it with "
            r"objective\.label_dropout above 0, like 0\.1\.$",
        ),
        (
            {"objective.label_dropout": 0, "evaluate.guidance.scale": 2},
            r"^evaluate\.guidance: the network always sees the classes\. Train it with objective\.label_dropout "
            r"above 0, like 0\.1\.$",
        ),
        (
            {"objective.label_dropout": None},
            r"^evaluate\.metrics\[0\]: label_accuracy needs a class-conditional network\. Set "
            r"objective\.label_dropout, like 0\.1\.$",
        ),
        ({"objective.label_dropout": 1}, r"^objective\.label_dropout: 1\.0 is outside \[0, 1\)"),
    ],
)
def test_unknown_classes_are_refused(small: RunConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(small, changes)


def test_valid_combinations_are_not_refused(small: RunConfig) -> None:
    check(small)
    check(override(small, {"objective.label_dropout": 0}))
    check(override(small, {"evaluate.guidance.scale": 2}))
    check(
        override(small, {"objective.label_dropout": None, "evaluate.metrics": ["energy"], "evaluate.guidance.low": 0.5})
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneClass(Dataset):
    """Eight Gaussians with a single class."""

    def load(self) -> Data:
        data = load(EightGaussians(number=1000))
        assert data.classes is not None
        assert data.held_out_classes is not None
        return dataclasses.replace(data, classes=0 * data.classes, held_out_classes=0 * data.held_out_classes)


@pytest.mark.parametrize(("dataset", "number"), [(OneClass(), "1"), (SwissRoll(number=1000), "no")], ids=str)
def test_data_of_one_class_or_none_are_refused(small: RunConfig, dataset: Dataset, number: str) -> None:
    changed = dataclasses.replace(override(small, {"evaluate.metrics": ["energy"]}), dataset=dataset)
    with pytest.raises(
        ConfigError,
        match=rf"^objective\.label_dropout: the data have {number} classes\. Set it to null, or choose data with two",
    ):
        check(changed)
    check(override(changed, {"objective.label_dropout": None}))


def test_an_nfe_that_guidance_cannot_use_is_refused_before_training(small: RunConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"^evaluate\.nfe: euler with this guidance cannot spend 5 calls\. Choose 4 or 6\.$"
    ):
        check(override(small, {"evaluate.guidance.scale": 2, "evaluate.nfe": [4, 5]}))


NUMBER = 1000


def told(
    dropout: float | None, steps: int = 1, seed: int = 3, **parts: Any
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Return the network's inputs in training: x, t and y."""
    network = Known()
    objective = Objective(Formulation.parse({**parts, "objective": {"label_dropout": dropout}}), {})
    x0 = torch.randn(NUMBER, 2, generator=torch.Generator().manual_seed(0))
    for step in range(steps):
        one_step(objective, network, x0, seed, step, torch.arange(NUMBER))
    return network.given


def hidden(dropout: float, steps: int = 1, seed: int = 3) -> Tensor:
    """Return whose class was hidden, bool [steps, NUMBER]; all others must get their class."""
    shown = torch.stack([y for _, _, y in told(dropout, steps, seed) if y is not None])
    mask = shown != torch.arange(NUMBER)
    assert (shown[mask] == -1).all()
    return mask


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_classes_are_hidden_sample_by_sample(dropout: float) -> None:
    """The number in a batch is binomial: if whole batches were hidden, its variance would be a
    thousand times as large.
    """
    steps = 80
    numbers = hidden(dropout, steps).sum(1).double()
    variance = NUMBER * dropout * (1 - dropout)
    assert (numbers.mean() - NUMBER * dropout).abs() < 4 * math.sqrt(variance / steps)
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], steps)
    assert low < (numbers - NUMBER * dropout).square().sum().item() / variance < high


def test_the_samples_with_a_hidden_class_change_with_the_step_and_the_seed() -> None:
    masks = hidden(0.5, 40)
    each = masks.sum(0).numpy()
    assert (
        stats.chisquare(
            np.bincount(each, minlength=41)[14:27], NUMBER * stats.binom.pmf(range(14, 27), 40, 0.5), sum_check=False
        ).pvalue
        > 1e-3
    )
    assert not torch.equal(hidden(0.5)[0], hidden(0.5, seed=4)[0])
    assert torch.equal(hidden(0.5)[0], masks[0])


def test_noise_and_times_do_not_depend_on_the_hidden_classes() -> None:
    x, t, y = told(None)[0]
    assert y is None
    for dropout in (0.0, 0.1, 0.9):
        x_again, t_again, _ = told(dropout)[0]
        assert torch.equal(x_again, x)
        assert torch.equal(t_again, t)


def test_the_hidden_classes_do_not_depend_on_noise_and_times() -> None:
    """Correlations with the time and with both coordinates of x_t, over 20 steps, are those of independent draws."""
    given = told(0.5, 20)
    mask = hidden(0.5, 20).double().flatten()
    for other in (torch.cat([t for _, t, _ in given]), *torch.cat([x for x, _, _ in given]).T):
        correlation = torch.corrcoef(torch.stack([mask, other.double()]))[0, 1]
        assert correlation.abs() < 4.5 / math.sqrt(len(mask))
    for purpose in ("noise", "coupling", "time"):
        same = torch.cat([torch.rand(NUMBER, generator=stream(3, purpose, step)) < 0.5 for step in range(20)]) == mask
        assert same.double().mean() == pytest.approx(0.5, abs=0.02), purpose


def test_at_zero_every_class_is_shown_and_at_null_the_network_gets_none() -> None:
    assert not hidden(0.0, 3).any()
    assert [y for _, _, y in told(None, 3)] == [None] * 3

    class WithoutClasses(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    x0 = torch.randn(8, 2)
    one_step(Objective(Formulation(), {}), WithoutClasses(), x0, 0, 0, torch.arange(8))


def test_the_coupling_knows_the_classes_that_the_network_does_not() -> None:
    """If every sample is alone in its class, nothing moves, although nine in ten classes are hidden."""
    x0 = torch.randn(64, 2)
    objective = Objective(
        Formulation.parse({"coupling": "class_conditional_ot", "objective": {"label_dropout": 0.9}}), {}
    )
    network = Known()
    one_step(objective, network, x0, 3, 5, torch.arange(64))
    x, t, y = network.given[0]
    assert y is not None
    assert (y < 0).sum() > 40
    x1 = torch.randn(64, 2, generator=stream(3, "noise", 5))
    torch.testing.assert_close(x, (1 - t)[:, None] * x0 + t[:, None] * x1)


@pytest.mark.slow
def test_a_network_learns_its_classes_and_is_sampled_with_one(small: RunConfig) -> None:
    run = ensure(small, lambda _: None, lambda: False)
    data = load(small.dataset)
    trained = restore(run)

    def values(config: RunConfig) -> dict[str, dict[str, float]]:
        return Run.of(config).evaluation(Protocol.of(config.evaluate, data))["values"]

    assert values(small)["label_accuracy"]["16"] > 0.95
    assert values(small)["sliced_wasserstein"]["16"] < 0.25
    angle = 3 * math.pi / 4
    centre = math.sqrt(2 * 0.99) * torch.tensor([math.cos(angle), math.sin(angle)])
    asked = list(samples(run, trained, 16, 300, label=3))
    assert all((batch.y == 3).all() for batch in asked if batch.y is not None)
    x = torch.cat([batch.x for batch in asked])
    assert ((x - centre).norm(dim=1) < 0.5).double().mean() > 0.97
    guided = override(small, {"evaluate.guidance.scale": 3, "evaluate.nfe": [32]})
    assert ensure(guided, lambda _: None, lambda: False).folder == run.folder
    assert values(guided)["label_accuracy"]["32"] > 0.97
    assert values(guided)["sliced_wasserstein"]["32"] != values(small)["sliced_wasserstein"]["16"]
    assert len(list(Path(run.folder / "evaluations").glob("*.json"))) == 2
    unconditional = override(small, {"evaluate.guidance.scale": 0, "evaluate.nfe": [32]})
    at_random = torch.cat(
        [batch.x for batch in samples(dataclasses.replace(run, config=unconditional), trained, 32, 400, label=3)]
    )
    assert ((at_random - centre).norm(dim=1) < 0.5).double().mean() < 0.3


def test_the_network_of_a_run_without_classes_has_none(small: RunConfig) -> None:
    data = load(small.dataset)
    told_none = override(small, {"objective.label_dropout": None, "evaluate.metrics": ["energy"]})
    conditional, plain = (sum(p.numel() for p in config.build(data).parameters()) for config in (small, told_none))
    assert conditional == plain + 9 * 64
    assert isinstance(small.backbone, MLP)
