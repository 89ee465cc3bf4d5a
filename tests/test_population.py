"""Flows from one population to another: the draws of noise=population, its refusals, and the results."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_step import one_step
from scipy import stats
from torch import Tensor, nn
from typed import tensor

from harness.components.interpolants import over
from harness.components.noises import Population
from harness.core.config import override
from harness.core.errors import ConfigError
from harness.core.registry import build
from harness.core.rng import Streams, stream
from harness.data.base import Data, Dataset, load
from harness.data.points import EightGaussians, GaussianMixture, Moons
from harness.data.sequences import TimeSeries
from harness.evaluation.judge import Judge, SampleBatch
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective
from harness.flow.sampling import SamplingConfig, Trained, generate
from harness.runs.config import RunConfig
from harness.runs.identity import training_digest
from harness.runs.sample import restore, samples
from harness.runs.train import ensure
from harness.runs.validate import check
from harness.training.config import TrainConfig
from harness.training.optimizers import AdamW

MOONS = Moons(number=300)


def drawn(dataset: Dataset, number: int, seed: int = 0, *names: str | int) -> Tensor:
    source = load(dataset)
    return Population(dataset=dataset).sample((number, *source.shape), stream(seed, *names), {})


def rows(x: Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in x]


def test_x1_are_encoded_training_samples_of_the_other_set_with_equal_probability() -> None:
    source = load(MOONS)
    encoded = rows(source.encode(tensor(source.train)))
    found = rows(drawn(MOONS, 12_000))
    assert not set(encoded) & set(rows(tensor(source.train)))
    assert set(found) == set(encoded)
    counts = [found.count(row) for row in encoded]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_only_seeds_decide_the_draws() -> None:
    first = drawn(MOONS, 50, 0, "noise", 7)
    torch.manual_seed(3)
    np.random.seed(3)
    assert torch.equal(drawn(MOONS, 50, 0, "noise", 7), first)
    assert not torch.equal(drawn(MOONS, 50, 1, "noise", 7), first)
    assert not torch.equal(drawn(MOONS, 50, 0, "noise", 8), first)


def test_the_objective_pairs_data_with_rows_of_the_other_set() -> None:
    """A network that sees x_t at t can compute x1: it is in the set, and it is the draw of its seed and step."""

    class Seen(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.x1 = (x - (1 - t)[:, None] * x0) / t[:, None]
            return x

    x0 = tensor(load(EightGaussians(number=64)).train)
    network = Seen()
    made = Formulation.parse({"noise": {"name": "population", "dataset": {"name": "moons", "number": 300}}})
    one_step(Objective(made, made.noise.fit(x0)), network, x0, 5, 2)
    torch.testing.assert_close(network.x1, drawn(MOONS, 64, 5, "noise", 2), rtol=1e-3, atol=1e-3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cloud(Dataset):
    """Normal points in the plane, stored without encoding."""

    mean: tuple[float, ...]
    factor: tuple[float, ...]
    """Lower triangle of the covariance's root, row by row."""
    number: int = 2000

    def root(self) -> Tensor:
        a, b, c = self.factor
        return torch.tensor([[a, 0], [b, c]], dtype=torch.float64)

    @property
    def covariance(self) -> Tensor:
        return self.root() @ self.root().T

    def load(self) -> Data:
        z = torch.randn(self.number, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x = (torch.tensor(self.mean, dtype=torch.float64) + z @ self.root().T).float()
        return Data(x, x[:10], Tensor.float, Tensor.float, "points")


SOURCE = Cloud(mean=(3.0, -1.0), factor=(1.5, 0.6, 0.4))
TARGET = Cloud(mean=(-2.0, 0.5), factor=(0.3, -0.5, 0.8))


def test_its_variance_is_that_of_the_other_set() -> None:
    noise = Population(dataset=SOURCE)
    expected = tensor(load(SOURCE).train).double().var(0).mean().item()
    for data in (tensor(load(TARGET).train), torch.zeros(3, 2)):
        assert noise.variance(noise.fit(data)).item() == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx((1.5**2 + 0.6**2 + 0.4**2) / 2, rel=0.1)


class AffineFlow(nn.Module):
    """E[target | x_t] for independent x1 ~ N of SOURCE and x0 ~ N of TARGET; it is linear in x_t."""

    def __init__(self, made: Formulation, variance: float):
        super().__init__()
        self.made = made
        self.variance = variance

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        path = self.made.interpolant
        time = t[:1].double().clamp(1e-6, 1 - 1e-6)
        alpha = path.alpha(time)
        sigma = path.sigma(time)
        x = x.double()
        if self.made.prediction.name == "edm":  # its input is x_t over its scale
            x = x * (sigma.square() * self.variance + (0.5 * alpha).square()).sqrt()
        mean0, mean1 = (torch.tensor(cloud.mean, dtype=torch.float64) for cloud in (TARGET, SOURCE))
        precision = torch.linalg.inv(alpha**2 * TARGET.covariance + sigma**2 * SOURCE.covariance)
        centred = (x - alpha * mean0 - sigma * mean1) @ precision
        x0 = mean0 + alpha * centred @ TARGET.covariance
        x1 = mean1 + sigma * centred @ SOURCE.covariance
        if self.made.prediction.name == "edm":  # D = c_skip x / alpha + c_out F
            s = sigma * self.variance**0.5 / alpha
            scaled = x / alpha
            return (x0 - 0.25 / (s**2 + 0.25) * scaled) / (s * 0.5 / (s**2 + 0.25).sqrt())
        velocity = over(path.alpha_dot(time), x0) * x0 + over(path.sigma_dot(time), x1) * x1
        return {"velocity": velocity, "data": x0, "noise": x1}[self.made.prediction.name]


@pytest.mark.parametrize("interpolant", ["linear", "gvp"])
@pytest.mark.parametrize("prediction", ["velocity", "data", "noise", "edm"])
def test_the_exact_field_carries_mean_and_covariance_of_one_normal_to_the_other(
    prediction: str, interpolant: str
) -> None:
    """The flow is affine, x0 = A x1 + b: A mean + b is the other mean, and A covariance A' is the other covariance."""
    spec = {
        "name": prediction,
        "t_min": 0.0 if prediction == "velocity" else 1e-5,
        "t_max": 1.0 if prediction == "velocity" else 1 - 1e-5,
    }
    made = dataclasses.replace(
        Formulation.parse({"prediction": spec, "interpolant": interpolant, "objective": {"normalise_weight": False}}),
        noise=Population(dataset=SOURCE),
    )
    state = made.noise.fit(tensor(load(TARGET).train))
    network = AffineFlow(made, state["variance"].item())
    visited = list[Tensor]()
    sampling = SamplingConfig(solver=build("solver", "rk4"))
    nfe = 800 if prediction in ("data", "noise") else 160  # their velocities are steep at one end
    batches = generate(Trained(network, made, state), sampling, nfe, (2,), 400, (0, "test"), visited=visited)
    x0 = next(batches).x.double()
    x1 = visited[0].double()
    assert set(rows(visited[0])) <= set(rows(tensor(load(SOURCE).train)))
    fitted = torch.linalg.lstsq(torch.cat([x1, torch.ones(400, 1)], 1), x0).solution
    slope = fitted[:2].T
    offset = fitted[2]
    torch.testing.assert_close(x1 @ slope.T + offset, x0, rtol=0, atol=5e-3)
    torch.testing.assert_close(
        slope @ torch.tensor(SOURCE.mean).double() + offset, torch.tensor(TARGET.mean).double(), rtol=0, atol=1e-2
    )
    torch.testing.assert_close(slope @ SOURCE.covariance @ slope.T, TARGET.covariance, rtol=0, atol=1e-2)


@pytest.fixture
def transport() -> RunConfig:
    """An MLP's flow from eight Gaussians to moons, with nearest pairs."""
    return RunConfig.parse(
        {
            "dataset": {"name": "moons", "number": 3000},
            "noise": {"name": "population", "dataset": {"name": "eight_gaussians", "number": 3000}},
            "coupling": "exact_ot",
            "backbone": {"name": "mlp", "width": 64, "blocks": 2},
            "train": TrainConfig(
                steps=300,
                batch_size=128,
                learning_rate=4e-3,
                warmup_steps=20,
                optimizer=AdamW(beta2=0.97),
                device="cpu",
                log_every=150,
                sample_every=1000,
            ),
            "evaluate": {"extractor": "values", "nfe": [16], "num_samples": 500, "metrics": ["sliced_wasserstein"]},
        }
    )


@pytest.mark.parametrize("source", [EightGaussians(number=500), GaussianMixture(number=500)], ids=lambda d: d.name)
def test_optimal_transport_moves_a_population_less_than_random_pairs(source: Dataset) -> None:
    data = load(MOONS)
    x0 = data.encode(tensor(data.train))[:128]
    costs = {}
    for coupling in ("independent", "exact_ot", "sinkhorn"):
        made = dataclasses.replace(Formulation.parse({"coupling": coupling}), noise=Population(dataset=source))
        objective = Objective(made, made.noise.fit(x0))
        costs[coupling] = np.mean([objective.task(x0, Streams(0, step)).transport_cost.item() for step in range(2)])
    assert costs["exact_ot"] < costs["sinkhorn"] < 0.25 * costs["independent"]
    assert costs["independent"] == pytest.approx(4, rel=0.15)  # both have variance one in each of two coordinates


def test_a_trained_flow_starts_at_one_population_and_ends_at_the_other(transport: RunConfig) -> None:
    check(transport)
    run = ensure(transport, lambda _: None, lambda: False)
    data = load(transport.dataset)
    trained = restore(run)
    assert trained.noise_state["variance"].item() == pytest.approx(1, abs=0.1)
    visited: list[Tensor] = []
    x0 = torch.cat([batch.x for batch in samples(run, trained, 16, 500, visited=visited)])
    assert set(rows(visited[0])) <= set(rows(tensor(load(EightGaussians(number=3000)).train)))
    judge = Judge(transport.evaluate, data, "cpu")
    arrived = judge([SampleBatch(x0)])["sliced_wasserstein"]
    assert arrived == pytest.approx(
        next(iter(run.evaluation(judge.protocol)["values"]["sliced_wasserstein"].values())), rel=1e-6
    )
    assert arrived < 0.7 * judge([SampleBatch(data.decode(visited[0]))])["sliced_wasserstein"]
    moved = (data.encode(x0) - visited[0]).square().sum(1).mean().item()
    assert moved < 0.5
    assert run.metrics()[-1]["transport_cost"] < 0.5  # random pairs would cost 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prediction": "score", "coupling": "independent"},
            r"^prediction: score needs the score, which population noise does not give\. Choose "
            r"noise=gaussian or prediction=velocity\.$",
        ),
        (
            {"evaluate.solver": "euler_maruyama", "coupling": "independent"},
            r"^evaluate\.solver: euler_maruyama needs the score, which population noise does not give\.",
        ),
        (
            {"evaluate.solver": "heun_sde", "coupling": "independent"},
            r"^evaluate\.solver: heun_sde needs the score, which population noise",
        ),
        ({"noise": "population"}, r"^noise\.dataset: population needs it\. Give a value\.$"),
        ({"noise.dataset": "moon"}, r"^noise\.dataset: 'moon' is not a known dataset\. Did you mean 'moons'\?$"),
    ],
)
def test_invalid_uses_of_a_population_are_refused(transport: RunConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(transport, changes)


def test_a_population_of_another_shape_is_refused(transport: RunConfig) -> None:
    message = (
        r"^noise\.dataset: its samples have shape \[3\], but the data have shape \[2\]\. Choose data sets of one kind, "
        r"like two selections from one file\.$"
    )
    with pytest.raises(ConfigError, match=message):
        check(override(transport, {"noise.dataset": {"name": "gaussian_mixture", "dimensions": 3}}))


def series(path: Path, names: tuple[str, ...], seed: int = 0) -> TimeSeries:
    """Write a series of two channels."""
    values = np.random.default_rng(seed).normal(size=(200, 2))
    np.savez(path, series=values, names=np.array(names))
    return TimeSeries(path=str(path), window=4)


def test_a_population_of_other_features_is_refused(tmp_path: Path) -> None:
    data = load(series(tmp_path / "data.npz", ("rain", "wind")))
    Population(dataset=series(tmp_path / "same.npz", ("rain", "wind"), seed=1)).check(data)
    message = r"^noise\.dataset: it has other feature names than the data\. Choose data sets of one kind"
    for names in (("rain", "sun"), ("wind", "rain")):
        with pytest.raises(ConfigError, match=message):
            Population(dataset=series(tmp_path / f"{names[1]}.npz", names)).check(data)


def test_the_run_is_named_by_the_content_of_the_population_and_not_by_its_path(
    transport: RunConfig, tmp_path: Path
) -> None:
    def named(source: Dataset) -> str:
        return training_digest(dataclasses.replace(transport, noise=Population(dataset=source)))

    names = ("rain", "wind")
    one, copied, changed = (series(tmp_path / f"{i}.npz", names, seed) for i, seed in enumerate((0, 0, 1)))
    assert named(one) == named(copied) != named(changed)
    assert named(EightGaussians(number=100)) != named(EightGaussians(number=101))
    assert named(MOONS) != training_digest(dataclasses.replace(transport, noise=build("noise", "gaussian")))
