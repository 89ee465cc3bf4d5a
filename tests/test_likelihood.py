"""Bits per dimension against closed forms: Gaussian data under the exact field, affine encodings, uniform levels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.cli import main
from harness.components.interpolants import over
from harness.core.config import override
from harness.core.errors import ConfigError, Unsolvable
from harness.core.registry import build
from harness.data.base import Data, Standardise
from harness.data.images import Digits, encode
from harness.evaluation.flow_metrics import Flow
from harness.evaluation.likelihood import BitsPerDim, log_slope
from harness.evaluation.metric import Comparison
from harness.flow.formulation import Formulation
from harness.runs import mlflow_points
from harness.runs.config import RunConfig
from harness.runs.folder import Run

MEAN = torch.tensor([0.5, -1.0, 0.2])
COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.8, -0.1], [0.0, -0.1, 0.3]])
Encode = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """As metrics are measured."""
    with torch.no_grad():
        yield


def gaussian_field(formulation: Formulation, variance: float = 1.0, covariance: Tensor = COVARIANCE) -> Any:
    """The exact velocity for N(m, S) data: E[alpha' x0 + sigma' x1 | x_t]."""
    path = formulation.interpolant

    def field(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        alpha, sigma, alpha_dot, sigma_dot = (
            f(t[:1].double()).item() for f in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot)
        )
        eye = variance * torch.eye(len(MEAN), dtype=torch.float64)
        data, mean = covariance.double(), MEAN.double()
        joint = alpha_dot * alpha * data + sigma_dot * sigma * eye
        gain = joint @ torch.linalg.inv(alpha**2 * data + sigma**2 * eye)
        return (alpha_dot * mean + (x.double() - alpha * mean) @ gain.T).to(x)

    return field


def flow_of(field: Any, held_out: Tensor, encode: Encode = Tensor.float, classes: Any = None, **parts: Any) -> Flow:
    variance = torch.tensor(parts.pop("variance", 1.0))
    made = Formulation.parse(parts)

    def held(number: int) -> tuple[Tensor, Tensor | None]:
        return held_out[:number], classes

    return Flow(lambda steps, number: [], field, made, variance, lambda: (held_out, None), held, encode, 0)


def draws(number: int = 60) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return MEAN + torch.randn(number, 3, generator=random) @ torch.linalg.cholesky(COVARIANCE).T


def closed_form(x: Tensor, covariance: Tensor = COVARIANCE) -> Tensor:
    """Bits per dimension of each sample under N(m, S)."""
    normal = torch.distributions.MultivariateNormal(MEAN.double(), covariance.double())
    return -normal.log_prob(x.double()) / (x.shape[1] * math.log(2))


@pytest.mark.parametrize(("name", "t_min"), [("linear", 0.0), ("gvp", 0.0), ("linear", 0.05), ("fm_ot", 0.0)])
def test_gaussian_data_under_the_exact_field_have_their_own_density(name: str, t_min: float) -> None:
    """Widened by the noise that remains at t_min."""
    made = Formulation.parse({"interpolant": name})
    x = draws()
    ends = (f(torch.tensor(t_min)) for f in (made.interpolant.sigma, made.interpolant.alpha))
    left = (next(ends) / next(ends)).square()
    found = BitsPerDim(t_min=t_min).bits(flow_of(gaussian_field(made), x, interpolant=name))
    torch.testing.assert_close(found, closed_form(x, COVARIANCE + left * torch.eye(3)), atol=1e-3, rtol=0)


def test_noise_of_another_width_is_the_density_at_the_end() -> None:
    """The exact field for noise of variance 4 gives the same likelihood; a field for variance 1 does not."""
    x = draws(50)
    flow = flow_of(gaussian_field(Formulation(), 4.0), x, variance=4.0)
    torch.testing.assert_close(BitsPerDim().bits(flow), closed_form(x), atol=1e-3, rtol=0)


def test_the_interval_is_that_of_the_mean() -> None:
    flow = flow_of(gaussian_field(Formulation()), draws())
    value, interval = BitsPerDim().estimate(flow)
    bits = closed_form(draws())
    assert interval is not None
    assert value == BitsPerDim().measure(flow) == pytest.approx(bits.mean().item(), abs=1e-4)
    assert interval[1] - value == pytest.approx(2.001 * bits.std().item() / math.sqrt(60), rel=1e-3)


def test_hutchinson_agrees_with_the_exact_divergence_within_its_error() -> None:
    """One sample 500 times, each with its own vectors, under a field that is not linear."""
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))

    def field(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return 0.3 * torch.tanh(x @ matrix.T) + over(t, x) * x

    flow = flow_of(field, torch.tensor([[0.3, -0.2, 0.5, 1.0]]).expand(500, 4))
    exact, once, more = (BitsPerDim(probes=probes).bits(flow) for probes in (0, 1, 4))
    for bits in (once, more):
        assert abs(bits.mean() - exact.mean()) < 3 * bits.std() / math.sqrt(500)
    assert exact.std() < 1e-3 < 0.4 * once.std() < more.std() < 0.6 * once.std()


def test_the_value_is_in_the_units_of_the_stored_data() -> None:
    """Standardised values: the density of what is stored, whatever the standardisation."""
    x = draws(50)
    scale = Standardise(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 10.0, 2.0]))
    flow = flow_of(gaussian_field(Formulation()), scale.decode(x), scale.encode)
    stretched = torch.tensor([0.1, 10.0, 2.0]).log2().mean()
    torch.testing.assert_close(BitsPerDim().bits(flow), closed_form(x) + stretched, atol=2e-3, rtol=0)


def uniform_field(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """The exact velocity for x0 uniform on the encoded levels: x0 given x_t is a truncated normal."""
    half = 128 / 127.5
    where, time = x.double(), over(t.double(), x)
    middle, width = where / (1 - time), time / (1 - time)
    low, high = ((end - middle) / width for end in (-half, half))
    normal = torch.distributions.Normal(0.0, 1.0)
    between = normal.cdf(high) - normal.cdf(low)
    x0 = middle + width * (normal.log_prob(low).exp() - normal.log_prob(high).exp()) / between
    return ((where - x0) / time).to(x)


def test_uniform_levels_cost_eight_bits() -> None:
    levels = torch.arange(1, 255, 23, dtype=torch.uint8).view(-1, 1, 1, 1)
    bits = BitsPerDim(t_min=1e-3).bits(flow_of(uniform_field, levels, encode))
    torch.testing.assert_close(bits, torch.full_like(bits, 8), atol=0.02, rtol=0)
    slope = log_slope(Digits(encoded=(0, 1)).encode, levels.float())
    assert slope is not None
    torch.testing.assert_close(slope, torch.full_like(slope, -math.log(255)))


def test_whole_levels_get_noise_and_floats_get_none() -> None:
    levels = torch.arange(100, 150, dtype=torch.uint8).view(-1, 1)

    def field(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return 0 * x

    def encoded(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return encode(x)

    for stored, dequantise, spread in ((levels, True, 0.5), (levels, False, 0.0), (levels.float(), True, 0.0)):
        seen: list[Tensor] = []
        BitsPerDim(dequantise=dequantise).bits(flow_of(field, stored, encoded))
        moved = (seen[-1] - levels).abs().max().item()
        assert 0.9 * spread <= moved <= spread


def test_a_class_is_told() -> None:
    """Two classes, each far from the other: the exact field of each class."""
    x = draws(40)
    classes = torch.arange(40) % 2
    plain = gaussian_field(Formulation())

    def field(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        far = 9.0 * y[:, None]
        return plain(x - (1 - t[:, None]) * far, t, y) - far

    flow = flow_of(field, x + 9.0 * classes[:, None], classes=classes)
    torch.testing.assert_close(BitsPerDim(batch_size=7).bits(flow), closed_form(x), atol=1e-3, rtol=0)


def test_what_has_no_likelihood_is_refused(tiny: RunConfig) -> None:
    for noise in ("laplace", "sparse"):
        with pytest.raises(ConfigError) as caught:
            override(tiny, {"evaluate.metrics": ["bits_per_dim"], "noise": noise})
        reason = f"bits_per_dim needs the density of the noise, and {noise} is not Gaussian"
        advice = "Set noise=gaussian, or leave bits_per_dim out."
        assert str(caught.value) == f"evaluate.metrics[0]: {reason}. {advice}"
    metric = build("metric", "bits_per_dim")
    turned: list[Encode] = [lambda x: x.flip(1).float(), lambda x: x[:, :1].float(), lambda x: torch.zeros_like(x)]
    for turn in turned:
        data = Data(torch.rand(9, 3), torch.rand(9, 3), turn, turn, "points")
        with pytest.raises(ConfigError, match=r"^bits_per_dim needs data of which each value is encoded by itself"):
            metric.check_data(Comparison(data, None, 9, 9))
    with pytest.raises(ConfigError, match=r"^samples: one sample has no interval\. Take two or more\.$"):
        BitsPerDim(samples=1)
    few = Data(torch.rand(9, 3), torch.rand(1, 3), Tensor.float, Tensor.float, "points")
    with pytest.raises(ConfigError, match=r"^bits_per_dim needs two held-out samples or more\. Leave it out\.$"):
        metric.check_data(Comparison(few, None, 9, 9))


def test_a_tolerance_that_cannot_be_held_is_told() -> None:
    metric = BitsPerDim(rtol=1e-30, atol=1e-30)
    with pytest.raises(Unsolvable, match=r"^bits_per_dim: dopri5 cannot hold .* Raise its rtol and its atol\.$"):
        metric.bits(flow_of(gaussian_field(Formulation()), draws(3)))


@pytest.mark.slow
@torch.enable_grad()
def test_a_run_is_measured_and_shown(tiny_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    metric = {"name": "bits_per_dim", "samples": 6, "rtol": 0.01, "atol": 0.01}
    changes = ["--set", f"evaluate.metrics={json.dumps([metric])}", "--set", "evaluate.nfe=[1]"]
    assert main(["evaluate", tiny_run.name, *changes]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bits per dimension"))
    said = re.fullmatch(r"bits per dimension ([\d.]+) \(([\d.]+) to ([\d.]+)\) at calls that dopri5 chooses, .*", line)
    assert said
    value, low, high = map(float, said.groups())
    assert 2 < low < value < high < 12
    config = override(tiny_run.config, {"evaluate.metrics": [metric], "evaluate.nfe": [1]})
    known = tiny_run.evaluation(config.protocol())
    assert known["values"]["bits_per_dim"] == {"0": pytest.approx(value, rel=1e-5)}
    assert [point.key for point in mlflow_points.values(Run(config, tiny_run.folder), known, [["bits_per_dim", "0"]])]


@torch.enable_grad()
def test_a_failure_is_noted(tiny_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    metric = {"name": "bits_per_dim", "samples": 2, "rtol": 1e-30, "atol": 1e-30}
    changes = ["--set", f"evaluate.metrics={json.dumps([metric])}", "--set", "evaluate.nfe=[1]"]
    assert main(["evaluate", tiny_run.name, *changes]) == 2
    assert "bits_per_dim: dopri5 cannot hold its tolerance" in capsys.readouterr().err
