"""Stochastic solvers end in the marginals of the ordinary equation, for any diffusion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.components.interpolants import DDPM, EDMPath, FlowMatchingOT, Interpolant, VarianceExploding
from harness.components.solvers import Ancestral, Solver, StochasticSolver
from harness.components.time_grids import RespacedGrid
from harness.core.config import override
from harness.core.errors import ConfigError
from harness.core.registry import build, names
from harness.data.images import Digits
from harness.runs.config import RunConfig

MEAN = 0.4
STD = 0.6
NUMBER = 20_000
STEPS = 100
DIFFUSIONS = ["constant", "sigma", "kl", "sin2"]
NAMES = [name for name in names("solver") if isinstance(build("solver", name), StochasticSolver)]
PATHS: dict[str, Interpolant] = {name: build("interpolant", name) for name in names("interpolant")}
PATHS["edm"] = EDMPath(sigma_max=5)  # of its 80, even steps would leave one or two where the data are
INSIDE = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
every_solver = pytest.mark.parametrize("name", NAMES)
every_diffusion = pytest.mark.parametrize("diffusion", DIFFUSIONS)


class GaussianField:
    """Velocity and score of N(mean, std^2) data with normal noise of a given variance; standard deviations may differ
    by entry.
    """

    def __init__(
        self, path: Interpolant, mean: float = MEAN, std: float | Tensor = STD, variance: float | Tensor = 1.0
    ):
        self.interpolant = path
        self.mean = mean
        self.std = std
        self.variance = torch.as_tensor(variance, dtype=torch.float64)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.with_score(x, t)[0]

    def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        path = self.interpolant
        t = t[:1, None]  # all are equal
        alpha = path.alpha(t)
        sigma = path.sigma(t)
        centred = (x - alpha * self.mean) / ((alpha * self.std) ** 2 + sigma**2 * self.variance)
        data = self.mean + alpha * self.std**2 * centred
        noise = sigma * self.variance * centred
        return path.alpha_dot(t) * data + path.sigma_dot(t) * noise, -centred


class Scoreless(GaussianField):
    """A field without a score."""

    def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return super().with_score(x, t)[0], torch.zeros_like(x)


def solver(name: str, **fields: Any) -> StochasticSolver:
    return build("solver", {"name": name, **fields})


def uniform(steps: int) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def beginning(path: Interpolant, time: float = 1.0) -> tuple[float, float]:
    """Return mean and variance at a time."""
    t = torch.tensor(time, dtype=torch.float64)
    alpha = path.alpha(t).item()
    sigma = path.sigma(t).item()
    return alpha * MEAN, (alpha * STD) ** 2 + sigma**2


def draw(
    made: StochasticSolver, field: GaussianField, seed: int = 0, steps: int = STEPS, number: int = NUMBER
) -> Tensor:
    """Return samples at t = 0 from the marginal at t = 1."""
    generator = torch.Generator().manual_seed(seed)
    mean, variance = beginning(field.interpolant)
    x = mean + math.sqrt(variance) * torch.randn(number, 1, generator=generator, dtype=torch.float64)
    return made.integrate(field, x, uniform(steps), generator)


def width(
    made: Solver, path: Interpolant, times: Tensor, std: Tensor, variance: Tensor, monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    """Return the standard deviations at t = 0 of data with mean zero, one for each entry of `std`, without drawing, as
    in `moments`.
    """
    turns = itertools.count(1)

    def one_at_a_time(shape: torch.Size, **_: Any) -> Tensor:
        noise = torch.zeros(shape)
        noise[next(turns)] = 1
        return noise

    x = torch.zeros(len(times), len(std), dtype=torch.float64)
    x[0] = 1
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", one_at_a_time)
        reached = made.integrate(GaussianField(path, 0, std, variance), x, times, torch.Generator())
    start = (path.alpha(times[0]) * std).square() + path.sigma(times[0]).square() * variance
    return (start * reached[0].square() + reached[1:].square().sum(0)).sqrt()


def moments(made: Solver, path: Interpolant, steps: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Return mean and variance at t = 0 without drawing: a linear solver's result is A x1 + b + sum_i C_i n_i.

    Row 0 starts at 0 and row 1 at 1 without noise; row 2 + i has a noise of 1 in step i alone.
    """
    turns = itertools.count(2)

    def one_at_a_time(shape: torch.Size, **_: Any) -> Tensor:
        noise = torch.zeros(shape)
        noise[next(turns)] = 1
        return noise

    x = torch.zeros(steps + 1, 1, dtype=torch.float64)
    x[1] = 1
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", one_at_a_time)
        reached = made.integrate(GaussianField(path), x, uniform(steps), torch.Generator())[:, 0]
    assert 0.9 * steps < next(turns) - 2 < steps  # noise in almost every step
    offset = reached[0]
    slope = reached[1] - reached[0]
    gains = reached[2:] - reached[0]
    mean, variance = beginning(path)
    return (slope * mean + offset).item(), (slope**2 * variance + gains.square().sum()).item()


# Marginals


@every_solver
@every_diffusion
@pytest.mark.parametrize("path", ["linear", "vp_ddpm"])
def test_samples_have_the_data_s_moments(name: str, diffusion: str, path: str) -> None:
    """Within four standard errors and, for 100 steps, 0.005 of the mean and 2% of the variance."""
    x = draw(solver(name, diffusion=diffusion), GaussianField(PATHS[path]))
    assert x.mean().item() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(NUMBER) + 0.005)
    assert x.var().item() == pytest.approx(STD**2, rel=4 * math.sqrt(2 / NUMBER) + 0.02)


@every_solver
@every_diffusion
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_marginals_are_those_of_the_ordinary_equation(
    name: str, diffusion: str, path: Interpolant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments without sampling error, extrapolated to steps of zero length: twice as many steps have
    half of the error.
    """
    made = solver(name, diffusion=diffusion)
    (mean, variance), (finer_mean, finer_variance) = (moments(made, path, steps, monkeypatch) for steps in (75, 150))
    clamped = path.name == "vp"  # above its t_max, part of the mean's path is lost
    wide = path.name in ("ve", "edm")
    assert 2 * finer_mean - mean == pytest.approx(MEAN, abs=1.5e-2 if clamped else 1e-3)
    assert 2 * finer_variance - variance == pytest.approx(STD**2, rel=5e-2 if wide else 5e-3)


@every_solver
@every_diffusion
@pytest.mark.parametrize("scale", [0.2, 4.0])
def test_the_marginals_do_not_depend_on_the_scale(
    name: str, diffusion: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = solver(name, diffusion=diffusion, scale=scale)
    (mean, variance), (finer_mean, finer_variance) = (
        moments(made, PATHS["linear"], steps, monkeypatch) for steps in (75, 150)
    )
    assert 2 * finer_mean - mean == pytest.approx(MEAN, abs=1e-3)
    assert 2 * finer_variance - variance == pytest.approx(STD**2, rel=2e-2)


@every_solver
@every_diffusion
def test_the_score_matters(name: str, diffusion: str) -> None:
    """Without the score, the added noise stays and the samples are too wide, so the tests above can fail."""
    made = solver(name, diffusion=diffusion)
    assert draw(made, Scoreless(PATHS["linear"]), number=2000).std() > STD + 0.05


STDS = torch.tensor([1, 0.3, 0.05, 0.01], dtype=torch.float64)
ORDINARY = {"euler_maruyama": "euler", "heun_sde": "heun"}


def excess(
    made: list[StochasticSolver], path: Interpolant, times: Tensor, std: Tensor, variance: Tensor,
    patch: pytest.MonkeyPatch,
) -> list[Tensor]:  # fmt: skip
    """Return how much farther each width is from the truth than the ordinary solver's, in mean step lengths."""
    truth = ((path.alpha(times[-1]) * std).square() + path.sigma(times[-1]).square() * variance).sqrt()
    solvers: list[Solver] = [build("solver", ORDINARY[made[0].name]), *made]
    ordinary, *wrong = ((width(each, path, times, std, variance, patch) - truth).abs() for each in solvers)
    return [(each - ordinary) * (len(times) - 1) for each in wrong]


@every_solver
def test_data_that_hardly_vary_keep_their_width(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At NFE 32 to 256, to within less than two steps' length: without a bound on w, 390 for a width of 0.01."""
    made = [solver(name, diffusion=diffusion) for diffusion in DIFFUSIONS]
    one = torch.ones((), dtype=torch.float64)
    for path, nfe in itertools.product((PATHS["linear"], PATHS["gvp"], PATHS["ve"]), (32, 64, 256)):
        every = excess(made, path, uniform(made[0].steps(nfe)), STDS, one, monkeypatch)
        for diffusion, beyond in zip(DIFFUSIONS, every, strict=True):
            assert beyond.max() < (6 if path.name == "ve" and nfe == 32 else 1.5), (
                f"{diffusion} on {path.name} at NFE {nfe}: {beyond.tolist()}"
            )


@every_solver
@every_diffusion
def test_the_width_is_right_for_any_data_noise_and_grid(
    name: str, diffusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the bound's region: random widths of data and noise, strengths, ends of the noise and numbers of steps."""
    numbers = np.random.default_rng(0)
    for trial in range(8):
        std, sd = (torch.from_numpy(10 ** numbers.uniform(-3, 0.3, 5)) for _ in range(2))
        made = solver(
            name, diffusion=diffusion, scale=10 ** numbers.uniform(-1, 1), t_min=float(numbers.choice([0, 0.04, 0.3]))
        )
        path = PATHS[numbers.choice(["linear", "gvp"])]
        grid = build("time_grid", numbers.choice(["uniform", "quadratic", "shifted"]))
        steps = int(numbers.integers(16, 64))
        (beyond,) = excess([made], path, grid.times(steps, path), std, sd.square(), monkeypatch)
        assert beyond.max() < 4, f"trial {trial}, {made} on {path.name}, {grid.name}, {steps} steps: {beyond.tolist()}"


@every_solver
def test_pixels_that_hardly_vary_are_drawn_as_they_are(name: str) -> None:
    """Samples instead of moments: four pixels of one picture."""
    field = GaussianField(PATHS["linear"], 0, STDS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    widths = solver(name, diffusion="constant").integrate(field, x, uniform(256), generator).std(0)
    torch.testing.assert_close(widths, STDS, rtol=4 / math.sqrt(2 * 4000) + 0.02, atol=0.004)


@every_solver
def test_a_step_never_brings_more_noise_than_its_end_has(name: str) -> None:
    """Karras et al. 2022: w |h| <= sigma(t + h)^2 Var[x1], here for a field that does nothing else."""

    class Still(Scoreless):
        def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros_like(x), torch.zeros_like(x)

    for variance, start, end in ((1.0, 0.5, 0.3), (0.01, 0.9, 0.8), (4.0, 0.2, 0.1)):
        field = Still(PATHS["linear"], variance=variance)
        generator = torch.Generator().manual_seed(0)
        times = torch.tensor([start, end, 0], dtype=torch.float64)
        for scale, expected in ((1e6, end**2 * variance), (1e-3, 1e-3 * (start - end))):
            made = solver(name, diffusion="constant", scale=scale)
            reached = made.integrate(field, torch.zeros(20_000, 1, dtype=torch.float64), times, generator)
            assert reached.var().item() == pytest.approx(expected, rel=0.05), (variance, start, scale)


@every_solver
def test_the_noise_ends_at_its_time(name: str) -> None:
    """Steps that end below t_min draw no noise; nor does the last step."""
    field = GaussianField(PATHS["linear"])
    x = torch.zeros(3, 1, dtype=torch.float64)
    for t_min, steps, noisy in (
        (0.0, 50, 49),
        (0.04, 25, 24),
        (0.04, 50, 48),
        (0.04, 8, 7),
        (0.3, 10, 7),
        (0.35, 10, 6),
        (0.99, 10, 0),
    ):
        drawn = torch.Generator().manual_seed(0)
        solver(name, t_min=t_min).integrate(field, x, uniform(steps), drawn)
        counted = torch.Generator().manual_seed(0)
        for _ in range(noisy):
            torch.randn(3, 1, generator=counted)
        assert torch.equal(drawn.get_state(), counted.get_state()), (t_min, steps)


# Steps


def scaled_noise(seed: int, variances: list[float]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [math.sqrt(variance) * torch.randn(5, 1, generator=generator).double() for variance in variances]


def test_two_steps_of_euler_maruyama() -> None:
    """x + h (v - w s / 2) + sqrt(w |h|) n, then h v alone."""
    field = GaussianField(PATHS["gvp"])
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    made = solver("euler_maruyama", diffusion="sigma", scale=1.7)
    reached = made.integrate(
        field, x, torch.tensor([0.8, 0.5, 0.1], dtype=torch.float64), torch.Generator().manual_seed(4)
    )
    w = 1.7 * math.sin(math.pi / 2 * 0.8)
    velocity, score = field.with_score(x, torch.full((5,), 0.8, dtype=torch.float64))
    x = x - 0.3 * (velocity - w / 2 * score) + scaled_noise(4, [0.3 * w])[0]
    x = x - 0.4 * field(x, torch.full((5,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(reached, x)


def test_two_steps_of_heun() -> None:
    """Noise, then the mean of two slopes of v - w s / 2, then that of v alone."""
    field = GaussianField(PATHS["gvp"])
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    made = solver("heun_sde", diffusion="sin2", scale=1.3)
    reached = made.integrate(
        field, x, torch.tensor([0.8, 0.5, 0.1], dtype=torch.float64), torch.Generator().manual_seed(4)
    )

    def drift(x: Tensor, t: float, w: float) -> Tensor:
        velocity, score = field.with_score(x, torch.full((5,), t, dtype=torch.float64))
        return velocity - w / 2 * score

    before, after = (1.3 * math.sin(math.pi * t) ** 2 for t in (0.8, 0.5))
    x = x + scaled_noise(4, [0.3 * before])[0]
    slope = drift(x, 0.8, before)
    x = x - 0.15 * (slope + drift(x - 0.3 * slope, 0.5, after))
    slope = drift(x, 0.5, 0)
    x = x - 0.2 * (slope + drift(x - 0.4 * slope, 0.1, 0))
    torch.testing.assert_close(reached, x)


@pytest.mark.parametrize(("name", "ordinary"), [("euler_maruyama", "euler"), ("heun_sde", "heun")])
def test_without_noise_they_are_the_ordinary_solvers(name: str, ordinary: str) -> None:
    """As the scale goes to zero; and in a single step, which draws no noise."""
    field = GaussianField(PATHS["linear"])
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    generator = torch.Generator()
    for steps, scale in ((20, 1e-20), (1, 1.0)):
        expected = build("solver", ordinary).integrate(field, x, uniform(steps), generator)
        reached = solver(name, scale=scale).integrate(field, x, uniform(steps), generator.manual_seed(0))
        torch.testing.assert_close(reached, expected, rtol=0, atol=1e-8)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())


# Coefficients

WRITTEN_OUT: dict[str, tuple[Interpolant, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    # path, sigma and kl's 2 sigma (sigma' - alpha' sigma / alpha)
    "linear": (PATHS["linear"], lambda t: t, lambda t: 2 * t / (1 - t)),
    "gvp": (PATHS["gvp"], lambda t: torch.sin(math.pi / 2 * t), lambda t: math.pi * torch.tan(math.pi / 2 * t)),
    "vp": (PATHS["vp"], lambda t: t, lambda t: 2 * t / (1 - t**2)),
    "vp_ddpm": (
        DDPM(beta_min=1, beta_max=3),
        lambda t: torch.sqrt(1 - torch.exp(-t - t**2)),
        lambda t: 1 + 2 * t,  # Song et al.'s beta
    ),
    "fm_ot": (FlowMatchingOT(sigma_min=0.1), lambda t: 0.1 + 0.9 * t, lambda t: 2 * (0.1 + 0.9 * t) / (1 - t)),
    "ve": (
        VarianceExploding(sigma_min=0.1, sigma_max=10),
        lambda t: 0.1 * 100**t,
        lambda t: 2 * 0.01 * 10_000**t * math.log(100),  # Song et al.'s g^2
    ),
}


@every_solver
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(("path", "sigma", "kl"), WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_diffusion_coefficients_are_the_formulas(
    name: str, scale: float, path: Interpolant, sigma: Callable[[Tensor], Tensor], kl: Callable[[Tensor], Tensor]
) -> None:
    """Ma et al. 2024 (SiT)."""
    expected = {"constant": torch.ones_like, "sigma": sigma, "kl": kl, "sin2": lambda t: torch.sin(math.pi * t) ** 2}
    for diffusion in DIFFUSIONS:
        made = solver(name, diffusion=diffusion, scale=scale)
        torch.testing.assert_close(
            made.coefficient(INSIDE, path), scale * expected[diffusion](INSIDE), rtol=1e-9, atol=1e-12
        )
        assert made.coefficient(INSIDE.float().view(7, 7), path).dtype == torch.float32
        assert made.coefficient(INSIDE.view(7, 7), path).shape == (7, 7)


@every_solver
@every_diffusion
def test_coefficients_are_bounded_near_the_noise(name: str, diffusion: str) -> None:
    for (where, path), t_max in itertools.product(PATHS.items(), [0.99, 0.97]):
        made = solver(name, diffusion=diffusion, t_max=t_max)
        at = made.coefficient(torch.tensor([0.04, t_max - 0.01, t_max, (1 + t_max) / 2, 1], dtype=torch.float64), path)
        assert at.isfinite().all(), (where, t_max)
        assert (at > 0).all(), (where, t_max)
        assert torch.equal(at[2:], at[2].expand(3)), (where, t_max)
        if diffusion in ("kl", "sin2"):
            assert at[1] != at[2], (where, t_max)


# Dependences of the paths


@every_solver
def test_the_generator_alone_decides(name: str) -> None:
    made = solver(name)
    field = GaussianField(PATHS["linear"])
    x = torch.zeros(50, 1, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    kept = torch.random.get_rng_state()
    first, again, other = (made.integrate(field, x, uniform(8), generator) for generator in generators)
    assert torch.equal(torch.random.get_rng_state(), kept)
    assert torch.equal(first, again)
    assert (first != other).all()
    assert len(first.unique()) == 50  # every sample has different noise
    assert (first != made.integrate(field, x, uniform(8), generators[0])).all()  # the generator's state moves on


@every_solver
def test_diffusion_and_scale_change_the_paths(name: str) -> None:
    field = GaussianField(PATHS["linear"])
    x = torch.zeros(50, 1, dtype=torch.float64)
    changed = [{"diffusion": diffusion, "scale": scale} for diffusion in DIFFUSIONS for scale in (0.5, 1.0, 2.0)]
    ends = [
        solver(name, **fields).integrate(field, x, uniform(64), torch.Generator().manual_seed(1)) for fields in changed
    ]
    for i, end in enumerate(ends):
        for other in ends[:i]:
            assert not torch.allclose(end, other, atol=1e-3)


@every_solver
def test_both_precisions_take_the_same_paths(name: str) -> None:
    field = GaussianField(PATHS["linear"])
    x = torch.linspace(-2, 2, 50, dtype=torch.float64)[:, None]
    double = solver(name).integrate(field, x, uniform(8), torch.Generator().manual_seed(1))
    single = solver(name).integrate(field, x.float(), uniform(8), torch.Generator().manual_seed(1))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_every_stochastic_solver_is_tested_here() -> None:
    assert NAMES == ["euler_maruyama", "heun_sde"]


def test_eta_bounds_the_coefficient_of_the_smallest_divergence() -> None:
    """w = 2 sigma (sigma' - alpha' sigma / (alpha + eta)), here on the linear path: 2 t (1 + t / (1 - t + eta))."""
    made = solver("euler_maruyama", diffusion="kl", eta=0.1, t_max=1.0)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = 2 * t * (1 + t / (1.1 - t))
    torch.testing.assert_close(made.coefficient(t, PATHS["linear"]), expected)
    with pytest.raises(ConfigError, match=r"^solver\.eta: sigma does not use it\. Leave it 0, or set diffusion=kl\.$"):
        solver("euler_maruyama", eta=0.1)


# ancestral sampling

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


class Known(GaussianField):
    """A field of DDPM's path whose estimate of x0 is known."""

    def __init__(self, x0: Tensor):
        super().__init__(DDPM(steps=1000))
        self.x0 = x0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        path, t = self.interpolant, t[:1, None]
        noise = (x - path.alpha(t) * self.x0) / path.sigma(t)
        return path.alpha_dot(t) * self.x0 + path.sigma_dot(t) * noise


@pytest.mark.parametrize("steps", [1000, 250])
def test_parity_with_ddpm(steps: int) -> None:
    """Their eq. 6 and 7, with the betas of Nichol & Dhariwal 2021 (eq. 19) for a share of the 1,000 steps."""
    times = RespacedGrid().times(steps, DDPM(steps=1000))
    kept = (1000 * times[:-1]).round().long() - 1
    alpha_bar = (1 - BETAS).cumprod(0)[kept]
    before = torch.cat([alpha_bar[1:], torch.ones(1, dtype=torch.float64)])
    beta = 1 - alpha_bar / before
    x, x0 = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for i in (0, steps // 3, steps - 2, steps - 1):
        mean = before[i].sqrt() * beta[i] / (1 - alpha_bar[i]) * x0
        mean += (1 - beta[i]).sqrt() * (1 - before[i]) / (1 - alpha_bar[i]) * x
        small = beta[i] * (1 - before[i]) / (1 - alpha_bar[i])
        for made, expected in ((Ancestral(), small), (Ancestral(variance="large"), beta[i])):
            found, std = made.moments(Known(x0), x, times[i], times[i + 1])
            torch.testing.assert_close(found, mean, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(std.square(), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("path", [path for name, path in PATHS.items() if name != "polynomial"], ids=lambda p: p.name)
@pytest.mark.parametrize("made", [Ancestral(), Ancestral(variance="large")], ids=["small", "large"])
def test_ancestral_sampling_approaches_the_data(
    path: Interpolant, made: Ancestral, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean and variance of Gaussian data, on every path; the error of the variance falls as 1 / N."""
    errors = []
    for steps in (100, 400):
        mean, found = moments(made, path, steps, monkeypatch)
        errors.append(abs(found - STD**2 - path.sigma(torch.zeros(())).item() ** 2))
        assert mean == pytest.approx(MEAN, abs=0.03)
    assert errors[1] < max(0.4 * errors[0], 1e-3)


def test_a_path_that_starts_at_velocity_0_has_no_ancestral_sampling() -> None:
    with pytest.raises(
        ConfigError, match=r"^evaluate\.solver: polynomial starts at velocity 0, .* Choose another path"
    ):
        override(RunConfig(dataset=Digits()), {"interpolant": "polynomial", "evaluate.solver": "ancestral"})


def test_the_last_step_of_ancestral_sampling_adds_no_noise() -> None:
    drawn = torch.Generator().manual_seed(0)
    x = torch.ones(3, 1, dtype=torch.float64)
    reached = Ancestral().integrate(GaussianField(PATHS["linear"]), x, uniform(1), drawn)
    assert torch.equal(drawn.get_state(), torch.Generator().manual_seed(0).get_state())
    torch.testing.assert_close(reached, torch.full_like(x, MEAN))  # the mean of x0 given x1
