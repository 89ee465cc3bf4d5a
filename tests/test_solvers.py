"""Ordinary solvers: order, calls, times of the calls, agreement with SciPy and torchdiffeq; and samples with any
solver.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torchdiffeq import odeint

from harness.components.solvers import AdamsBashforth2, DormandPrince5, Field, Heun, Solver
from harness.components.time_grids import ShiftedGrid
from harness.core.errors import ConfigError, UserError
from harness.core.registry import build, names
from harness.core.rng import stream
from harness.flow.formulation import Formulation
from harness.flow.sampling import Generated, NetworkField, SamplingConfig, Trained, generate

ORDER = {"euler": 1, "heun": 2, "midpoint": 2, "ab2": 2, "rk4": 4}
MATRIX = torch.tensor([[0.3, -2.0], [1.5, -0.4]], dtype=torch.float64)
SOLVERS: dict[str, Solver] = {name: build("solver", name) for name in names("solver")}
FIXED = {name: solver for name, solver in SOLVERS.items() if not solver.adaptive}
ORDINARY = {name: solver for name, solver in FIXED.items() if not solver.needs_score}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
every_fixed = pytest.mark.parametrize("solver", FIXED.values(), ids=FIXED)
every_ordinary = pytest.mark.parametrize("solver", ORDINARY.values(), ids=ORDINARY)
ENDS = torch.tensor([1.0, 0.0], dtype=torch.float64)
NO_NOISE = torch.Generator()


def plain(velocity: Callable[[Tensor, Tensor], Tensor]) -> Field:
    """Return a field with only a velocity, which every solver of the ordinary equation needs."""
    return cast(Field, velocity)


def linear(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = (1 + 2 t) M x, whose solution at 0 is exp(-2 M) x(1)."""
    return (1 + 2 * t)[:, None] * (x @ MATRIX.T.to(x))


def nonlinear(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(2 * x.flip(1) + 4 * t[:, None]) - x * t[:, None]


def start(n: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def uniform(steps: int) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def shifted(steps: int) -> Tensor:
    """Return a grid whose steps change slowly, by a factor of nine in all."""
    return 3 * uniform(steps) / (1 + 2 * uniform(steps))


def alternating(steps: int) -> Tensor:
    """Return a grid in which every second step is twice as long."""
    lengths = 1 + torch.arange(steps, dtype=torch.float64) % 2
    return torch.cat([torch.ones(1, dtype=torch.float64), 1 - lengths.cumsum(0) / lengths.sum()])


GRIDS = {"uniform": uniform, "shifted": shifted, "alternating": alternating}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


class Watched(nn.Module):
    """A network that records the times of its calls."""

    def __init__(self, field: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.field = field
        self.times = list[float]()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        assert t.dtype == x.dtype
        assert (t == t[0]).all()
        self.times.append(t[0].item())
        return self.field(x, t)


def watched(
    field: Callable[[Tensor, Tensor], Tensor], solver: Solver, times: Tensor, x: Tensor
) -> tuple[Tensor, NetworkField, list[float]]:
    """Return the solver's result, the field with its count, and the times of the calls."""
    network = Watched(field)
    counted = NetworkField(Trained(network, Formulation(), {}))
    return solver.integrate(counted, x, times, torch.Generator().manual_seed(0)), counted, network.times


# Accuracy of fixed steps


@every_ordinary
@every_grid
def test_the_error_falls_with_the_declared_order(solver: Solver, grid: Callable[[int], Tensor]) -> None:
    exact = start() @ torch.linalg.matrix_exp(-2 * MATRIX).T
    steps = np.array([32, 64, 128, 256])
    errors = [
        (solver.integrate(plain(linear), start(), grid(n), NO_NOISE) - exact).norm().item() for n in steps.tolist()
    ]
    slope = np.polyfit(np.log(steps[1:]), np.log(errors[1:]), 1)[0]
    assert slope == pytest.approx(-ORDER[solver.name], abs=0.1)
    assert errors[-1] < {1: 0.3, 2: 5e-3, 4: 1e-6}[ORDER[solver.name]]


@pytest.mark.parametrize("solver", [*ORDINARY.values(), DormandPrince5()], ids=[*ORDINARY, "dopri5"])
def test_agreement_with_scipy_and_torchdiffeq_on_a_nonlinear_field(solver: Solver) -> None:
    def flat(t: float, x: np.ndarray) -> np.ndarray:
        return nonlinear(torch.from_numpy(x).view(-1, 2), torch.full((4,), t, dtype=torch.float64)).flatten().numpy()

    scipy = solve_ivp(flat, (1, 0), start().flatten().numpy(), method="RK45", rtol=1e-10, atol=1e-12)
    reference = torch.from_numpy(scipy.y[:, -1]).view(-1, 2)
    theirs = odeint(
        lambda t, x: nonlinear(x, t.expand(len(x))), start(), ENDS, method="dopri5", rtol=1e-10, atol=1e-12
    )[-1]
    torch.testing.assert_close(theirs, reference, rtol=0, atol=1e-8)
    reached = solver.integrate(plain(nonlinear), start(), shifted(200), NO_NOISE)
    torch.testing.assert_close(
        reached, reference, rtol=0, atol={1: 4e-2, 2: 5e-4, 4: 1e-7, None: 2e-4}[ORDER.get(solver.name)]
    )


@pytest.mark.parametrize(("name", "theirs"), [("euler", "euler"), ("heun", "heun2"), ("midpoint", "midpoint")])
@every_grid
def test_every_step_is_torchdiffeqs(name: str, theirs: str, grid: Callable[[int], Tensor]) -> None:
    reached = SOLVERS[name].integrate(plain(nonlinear), start(), grid(7), NO_NOISE)
    reference = odeint(lambda t, x: nonlinear(x, t.expand(len(x))), start(), grid(7), method=theirs)[-1]
    torch.testing.assert_close(reached, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "order"), [(name, order) for name, order in ORDER.items() if name != "ab2"])
def test_a_step_of_a_linear_field_is_the_taylor_polynomial(name: str, order: int) -> None:
    times = torch.tensor([0.7, 0.3], dtype=torch.float64)
    step = sum(torch.linalg.matrix_power(-0.4 * MATRIX, k) / math.factorial(k) for k in range(order + 1))
    reached = SOLVERS[name].integrate(plain(lambda x, t: x @ MATRIX.T), start(), times, NO_NOISE)
    torch.testing.assert_close(reached, start() @ step.T, rtol=1e-12, atol=1e-12)


def test_two_steps_of_adams_bashforth() -> None:
    """The first is Euler's; the second integrates the straight line through both slopes, for steps of any lengths."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        return (3 + 5 * t)[:, None].expand_as(x)

    times = torch.tensor([1.0, 0.9, 0.2], dtype=torch.float64)
    reached = AdamsBashforth2().integrate(plain(field), start(), times, NO_NOISE)
    second = (3 * 0.2 + 2.5 * 0.2**2) - (3 * 0.9 + 2.5 * 0.9**2)
    torch.testing.assert_close(reached, start() - 0.1 * 8 + second, rtol=1e-12, atol=1e-12)


@every_fixed
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shape_and_dtype_are_kept(solver: Solver, dtype: torch.dtype) -> None:
    reached, _, _ = watched(nonlinear, solver, shifted(9), start(dtype=dtype))
    assert (reached.shape, reached.dtype) == ((4, 2), dtype)
    alone, _, _ = watched(lambda x, t: 2 * x, solver, shifted(9), start().view(4, 1, 2, 1))
    assert alone.shape == (4, 1, 2, 1)


# Calls


@every_fixed
@pytest.mark.parametrize("steps", [1, 2, 7, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exactly_nfe_calls_between_1_and_0(solver: Solver, steps: int, dtype: torch.dtype) -> None:
    nfe = solver.calls(steps)
    assert solver.steps(nfe) == steps
    for grid in GRIDS.values():
        _, field, times = watched(nonlinear, solver, grid(solver.steps(nfe)), start(dtype=dtype))
        assert field.calls == len(times) == nfe
        assert times[0] == 1
        assert all(0 <= t <= 1 for t in times)


LOOKS: dict[str, Callable[[float, float], list[float]]] = {
    "euler": lambda t, end: [t],
    "ab2": lambda t, end: [t],
    "heun": lambda t, end: [t, end],
    "midpoint": lambda t, end: [t, (t + end) / 2],
    "rk4": lambda t, end: [t, (t + end) / 2, (t + end) / 2, end],
    "euler_maruyama": lambda t, end: [t],
    "heun_sde": lambda t, end: [t, end],
    "ancestral": lambda t, end: [t],
}


@every_fixed
def test_the_times_at_which_a_solver_calls_the_network(solver: Solver) -> None:
    grid = alternating(6)
    _, _, times = watched(nonlinear, solver, grid, start())
    expected = [t for ends in itertools.pairwise(grid.tolist()) for t in LOOKS[solver.name](*ends)]
    assert times == pytest.approx(expected, abs=1e-12)


@every_fixed
def test_calls_that_cannot_be_spent_exactly_are_refused_with_the_next_fewer(solver: Solver) -> None:
    """Or with the calls of one step, if there are no fewer."""
    calls = solver.calls_per_step
    for nfe in range(-2, 13):
        if nfe > 0 and nfe % calls == 0:
            assert solver.steps(nfe) * calls == nfe
            continue
        with pytest.raises(ConfigError) as caught:
            solver.steps(nfe)
        near = max(calls, nfe // calls * calls)
        assert (
            str(caught.value) == f"nfe: {solver.name} spends {calls} calls a step and cannot spend {nfe}. Use {near}."
        )
        assert solver.steps(near) * calls == near


@pytest.mark.parametrize("steps", [1, 2, 18])
def test_a_last_step_by_euler_saves_a_call_at_the_data(steps: int) -> None:
    """EDM's 18 steps take 35 calls (Karras et al. 2022, table 2)."""
    solver = Heun(euler_last=True)
    nfe = 2 * steps - 1
    assert solver.steps(nfe) == steps
    grid = alternating(steps)
    reached, field, times = watched(nonlinear, solver, grid, start())
    assert field.calls == nfe
    assert times == pytest.approx([t for ends in itertools.pairwise(grid.tolist()) for t in ends][:-1], abs=1e-12)
    before = Heun().integrate(plain(nonlinear), start(), grid[:-1], NO_NOISE)
    slope = nonlinear(before, grid[-2].expand(len(before)))
    torch.testing.assert_close(reached, before - grid[-2] * slope, rtol=0, atol=0)


def test_calls_that_a_last_step_by_euler_cannot_spend() -> None:
    for nfe, near in ((34, 33), (2, 1), (0, 1)):
        with pytest.raises(ConfigError) as caught:
            Heun(euler_last=True).steps(nfe)
        said = f"nfe: heun spends 2 calls a step, 1 fewer in the last, and cannot spend {nfe}. Use {near}."
        assert str(caught.value) == said


# dopri5

FIELDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": linear,
    "nonlinear": nonlinear,
    "stiff at the end": lambda x, t: -x / (t[:, None] + 0.02),
    "jump": lambda x, t: torch.where(t[:, None] > 0.37, x, -5 * x),
    "none": lambda x, t: torch.zeros_like(x),
}


def test_dopri5_prints_nothing() -> None:
    assert DormandPrince5().steps(0) == 1
    for nfe in (1, 6, 12, -1):
        with pytest.raises(ConfigError) as caught:
            DormandPrince5().steps(nfe)
        reason = f"dopri5 chooses its own steps and cannot spend exactly {nfe}. Use 0; its calls are counted."
        assert str(caught.value) == f"nfe: {reason}"


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dopri5_counts_its_calls_and_stays_inside(
    field: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    reached, counted, times = watched(field, DormandPrince5(), ENDS, start(dtype=dtype))
    assert reached.dtype == dtype
    assert counted.calls == len(times) >= 8
    assert all(0 <= t <= 1 for t in times)


def still_at_the_noise(x: Tensor, t: Tensor) -> Tensor:
    """The velocity of data N(m, 1) on `gvp` for m = 0.005, which leads from x to x + m."""
    return -math.pi / 2 * torch.sin(math.pi / 2 * t)[:, None].expand_as(x) * 0.005


@pytest.mark.parametrize("field", [lambda x, t: 1e-3 * x, still_at_the_noise], ids=["slow", "gvp"])
def test_dopri5_stays_inside_on_a_slow_field(field: Callable[[Tensor, Tensor], Tensor]) -> None:
    """torchdiffeq's first guess of a step is 0.01 |x / v|, which may be longer than the path."""
    reached, _, times = watched(field, DormandPrince5(), ENDS, start())
    expected = start() + 0.005 if field is still_at_the_noise else math.exp(-1e-3) * start()
    torch.testing.assert_close(reached, expected, rtol=1e-5, atol=1e-5)
    assert all(0 <= t <= 1 for t in times), (min(times), max(times))


def test_dopri5_holds_its_tolerance() -> None:
    exact = start() @ torch.linalg.matrix_exp(-2 * MATRIX).T
    calls = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        reached, field, _ = watched(linear, DormandPrince5(rtol=tolerance, atol=tolerance), ENDS, start())
        assert (reached - exact).abs().max() < 50 * tolerance
        calls.append(field.calls)
    assert calls == sorted(set(calls))


def test_dopri5_keeps_to_the_ends_of_its_grid() -> None:
    ends, _, first = watched(nonlinear, DormandPrince5(), ENDS, start())
    among, _, second = watched(nonlinear, DormandPrince5(), shifted(5), start())
    assert torch.equal(ends, among)
    assert first == second
    later = torch.tensor([0.8, 0.3], dtype=torch.float64)
    _, _, times = watched(nonlinear, DormandPrince5(), later, start())
    assert times[0] == 0.8
    assert 0.3 - 1e-12 <= min(times) < 0.31


@pytest.mark.parametrize(
    "field",
    [lambda x, t: x * math.nan, lambda x, t: -50 * x**3, lambda x, t: torch.where(t[:, None] < 0.5, math.inf, x)],
    ids=["nan", "blow-up", "infinite later"],
)
def test_a_field_that_dopri5_cannot_follow(field: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(
        UserError, match=r"^dopri5 cannot hold its tolerance on this field .*Raise solver\.rtol and solver\.atol\.$"
    ):
        DormandPrince5().integrate(plain(field), torch.ones(2, 2, dtype=torch.float64), ENDS, NO_NOISE)


# Samples


class Recorder(nn.Module):
    """A field `gain` x that records the first input of each batch of samples."""

    def __init__(self, gain: float):
        super().__init__()
        self.gain = gain
        self.seen = list[torch.Tensor]()
        self.modes = list[tuple[bool, bool]]()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if t[0] == 1:
            self.seen.append(x.clone())
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.gain * x


def samples(network: nn.Module, solver: Solver, nfe: int, seed: int = 3, **parts: object) -> list[Generated]:
    """Return 7 samples in batches of 3."""
    made = Formulation.parse(parts)
    state = made.noise.fit(torch.tensor([[[1.0, 3.0]], [[2.0, 5.0]]]))
    way = SamplingConfig(solver=solver, time_grid=ShiftedGrid(), batch_size=3)
    return list(generate(Trained(network, made, state), way, nfe, (1, 2), 7, (seed, "samples")))


@every_solver
@pytest.mark.parametrize("gain", [1.0, -2.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_samples_of_every_solver_start_from_the_same_noise(solver: Solver, gain: float, steps: int) -> None:
    network = Recorder(gain).train()
    nfe = 0 if solver.adaptive else solver.calls(steps)
    batches = samples(network, solver, nfe)
    assert [tuple(batch.x.shape) for batch in batches] == [(3, 1, 2), (3, 1, 2), (1, 1, 2)]
    for i, (x, y, calls, _) in enumerate(batches):
        generator = stream(3, "samples", i)
        x1 = torch.randn(len(x), 1, 2, generator=generator)
        if solver.name != "heun_sde":  # it adds noise before its first call
            assert torch.equal(network.seen[i], x1)
        field = NetworkField(Trained(Recorder(gain), Formulation(), {}))
        grid = ShiftedGrid().times(solver.steps(nfe), Formulation().interpolant)
        torch.testing.assert_close(x, solver.integrate(field, x1, grid, generator))
        assert calls == field.calls
        assert y is None
    assert len(network.modes) == sum(batch.calls for batch in batches)
    assert solver.adaptive or {batch.calls for batch in batches} == {nfe}
    assert set(network.modes) == {(False, False)}


@pytest.mark.parametrize(
    ("interpolant", "scale"), [("linear", 1.0), ("ve", 50.0), ("vp_ddpm", math.sqrt(1 - math.exp(-10.05)))]
)
def test_sampling_starts_at_the_noise_of_the_path(interpolant: str, scale: float) -> None:
    network = Recorder(1.0)
    samples(network, Heun(), 2, interpolant=interpolant)
    torch.testing.assert_close(network.seen[0], scale * torch.randn(3, 1, 2, generator=stream(3, "samples", 0)))


def test_sampling_starts_at_the_noise_of_training() -> None:
    """The noise of `matched` has the data's standard deviation, in units of sigma_max at the end of `ve`."""
    network = Recorder(0.0)
    samples(network, SOLVERS["euler"], 1, interpolant={"name": "ve", "sigma_max": 20}, noise="matched")
    std = torch.tensor([1.0, 3.0, 2.0, 5.0]).std()
    torch.testing.assert_close(network.seen[0], 20 * std * torch.randn(3, 1, 2, generator=stream(3, "samples", 0)))


def test_a_grid_of_levels_knows_the_width_of_the_noise() -> None:
    """EDM's levels are sigma sd(x1) / alpha, not those of noise of unit variance."""
    network = Watched(lambda x, t: x)
    made = Formulation.parse({"noise": "matched"})
    grid = build("time_grid", {"name": "edm_rho", "sigma_min": 0.1, "sigma_max": 10})
    trained = Trained(network, made, {"std": torch.tensor(0.5)})
    list(generate(trained, SamplingConfig(time_grid=grid), 3, (2,), 2, (0, "samples")))
    level = (0.5 * (10 ** (1 / 7) + 0.1 ** (1 / 7))) ** 7
    assert network.times == pytest.approx([1, level / (0.5 + level), 0.1 / (0.5 + 0.1)], rel=1e-6)


@every_solver
def test_visited_are_the_places_where_the_network_is_called(solver: Solver) -> None:
    """In the solver's units, before the prediction scales them for the network: EDM's by 1 / sqrt(sigma^2 + alpha^2 /
    4).
    """
    given: list[tuple[Tensor, Tensor]] = []

    class Keeper(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            given.append((x.clone(), t.clone()))
            return torch.sin(3 * x)

    visited: list[Tensor] = []
    made = Formulation.parse({"prediction": "edm"})
    nfe = 0 if solver.adaptive else solver.calls(2)
    trained = Trained(Keeper(), made, {})
    (batch,) = generate(trained, SamplingConfig(solver=solver), nfe, (2,), 3, (0, "samples"), visited=visited)
    assert len(visited) == len(given) == batch.calls
    for (x, t), place in zip(given, visited, strict=True):
        torch.testing.assert_close(x * (t.square() + (1 - t).square() / 4).sqrt()[:, None], place)


@every_solver
def test_another_seed_gives_other_samples(solver: Solver) -> None:
    nfe = 0 if solver.adaptive else solver.calls(2)
    first, again, other = (samples(Recorder(1), solver, nfe, seed)[0].x for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_batch_of_an_adaptive_solver_takes_the_calls_it_needs() -> None:
    """The result has the number of calls of each batch."""

    class Uneven(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.sin(20 * x) if len(x) == 1 else 0.1 * x

    calls = [batch.calls for batch in samples(Uneven(), DormandPrince5(), 0)]
    assert calls[0] == calls[1] < calls[2]


def test_times_that_single_precision_cannot_tell_apart_are_refused() -> None:
    """A grid in float64 may be strict although two of its times near t = 1 are equal in float32: a
    step of zero length.
    """
    with pytest.raises(ConfigError, match="log_snr puts two of 33 times at the same value"):
        build("time_grid", {"name": "log_snr", "low": -18}).times(32, build("interpolant", "vp"))


def test_a_solver_whose_steps_take_no_calls_is_refused() -> None:
    class Free(Heun):
        calls_per_step = 0

    with pytest.raises(ConfigError, match=r"says that a step takes 0 calls\. Correct its calls_per_step"):
        Free().steps(8)


def test_a_solver_whose_calls_differ_from_its_declaration_is_refused() -> None:
    class Spendthrift(Heun):
        calls_per_step = 1

    trained = Trained(Recorder(1), Formulation(), {})
    with pytest.raises(AssertionError):
        list(generate(trained, SamplingConfig(solver=Spendthrift()), 4, (1, 2), 7, (3, "samples")))


def test_every_solver_is_tested_here() -> None:
    assert set(ORDER) == set(ORDINARY)
    assert set(LOOKS) == set(FIXED)
    assert set(SOLVERS) - set(FIXED) == {"dopri5"}
