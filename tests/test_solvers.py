"""Ordinary solvers: order, calls, agreement with SciPy and torchdiffeq; and the samples drawn with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torchdiffeq import odeint

from harness.components.solvers import DormandPrince5, Heun, Solver
from harness.components.time_grids import UniformGrid
from harness.errors import ConfigError, UserError
from harness.formulation import Formulation
from harness.registry import build, names
from harness.rng import stream
from harness.sampling import NetworkField, generate

ORDER = {"euler": 1, "heun": 2, "midpoint": 2, "ab2": 2, "rk4": 4}
MATRIX = torch.tensor([[0.3, -2.0], [1.5, -0.4]], dtype=torch.float64)
SOLVERS = {name: build("solver", name) for name in names("solver")}
ORDINARY = {name: solver for name, solver in SOLVERS.items() if not solver.needs_score}
fixed_solver = pytest.mark.parametrize("solver", [SOLVERS[name] for name in ORDER], ids=str)
counted_solver = pytest.mark.parametrize("solver", [s for s in SOLVERS.values() if not s.adaptive], ids=str)
Field = Callable[[Tensor, Tensor], Tensor]


def linear(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = (1 + 2 t) M x, whose solution at 0 is exp(-2 M) x(1)."""
    return (1 + 2 * t)[:, None] * (x @ MATRIX.T)


def curved(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(2 * x.flip(1) + 4 * t[:, None]) - x * t[:, None]


def start(n: int = 4) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def grid(steps: int, power: float = 1.0) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** power


def solve(solver: Solver, field: Field, times: Tensor) -> Tensor:
    return solver.integrate(NetworkField(field, Formulation(), {}), start(), times, torch.Generator())  # type: ignore[arg-type]


def test_every_ordinary_solver_is_tested_for_its_order() -> None:
    assert set(ORDINARY) == {*ORDER, "dopri5"}


@fixed_solver
@pytest.mark.parametrize("power", [1.0, 1.5])
def test_the_error_falls_with_the_declared_order(solver: Solver, power: float) -> None:
    """On equal steps and on steps that shorten towards the data."""
    exact = start() @ torch.linalg.matrix_exp(-2 * MATRIX).T
    steps = np.array([64, 128, 256, 512])
    errors = [(solve(solver, linear, grid(n, power)) - exact).norm().item() for n in steps.tolist()]
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(-ORDER[solver.name], abs=0.1)


@pytest.mark.parametrize("solver", ORDINARY.values(), ids=str)
def test_agreement_with_scipy_and_torchdiffeq(solver: Solver) -> None:
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    reference = odeint(lambda t, x: curved(x, t.expand(len(x))), start(), ends, method="dopri5", rtol=1e-10, atol=1e-12)[-1]

    def flat(t: float, x: np.ndarray) -> np.ndarray:
        return curved(torch.from_numpy(x).view(4, 2), torch.full((4,), t, dtype=torch.float64)).numpy().ravel()

    scipy = solve_ivp(flat, (1, 0), start().numpy().ravel(), method="RK45", rtol=1e-9, atol=1e-11).y[:, -1]
    torch.testing.assert_close(torch.from_numpy(scipy).view(4, 2), reference, rtol=0, atol=1e-7)
    reached = solve(solver, curved, grid(1 if solver.adaptive else 1000))
    torch.testing.assert_close(reached, reference, rtol=0, atol={"euler": 1e-2, "dopri5": 2e-4}.get(solver.name, 5e-5))


class Recorder(nn.Module):
    """A field `gain` x that keeps when it was called, and what it was first given in each batch."""

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain, self.seen, self.times, self.modes = gain, [], [], []  # type: ignore[var-annotated]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        if t[0] == 1:
            self.seen.append(x.clone())
        self.times.append(t[0].item())
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.gain * x


@counted_solver
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_network_is_called_nfe_times_between_one_and_zero(solver: Solver, steps: int) -> None:
    network, nfe = Recorder(), steps * solver.calls_per_step
    field = NetworkField(network, Formulation(), {})
    solver.integrate(field, start(), UniformGrid().times(solver.steps(nfe), field.interpolant), torch.Generator().manual_seed(0))
    assert len(network.times) == field.calls == nfe
    assert network.times[0] == 1
    assert all(0 <= t <= 1 for t in network.times)


@counted_solver
@pytest.mark.parametrize("nfe", range(13))
def test_calls_that_cannot_be_spent_exactly_are_refused(solver: Solver, nfe: int) -> None:
    calls = solver.calls_per_step
    if nfe and nfe % calls == 0:
        assert solver.steps(nfe) * calls == nfe
    else:
        near = max(calls, nfe // calls * calls)
        with pytest.raises(ConfigError, match=f"^nfe: {solver.name} spends {calls} calls a step and cannot spend {nfe}. Use {near}.$"):
            solver.steps(nfe)


def test_dopri5_chooses_its_calls_within_the_path() -> None:
    counts = []
    for tolerance in (1e-3, 1e-7):
        network = Recorder(-3.0)
        field = NetworkField(network, Formulation(), {})
        reached = DormandPrince5(rtol=tolerance, atol=tolerance).integrate(field, start(), grid(1), torch.Generator())
        torch.testing.assert_close(reached, start() * np.exp(3), rtol=10 * tolerance, atol=10 * tolerance)
        assert all(0 <= t <= 1 for t in network.times)
        counts.append(field.calls)
    assert counts[0] < counts[1]
    with pytest.raises(ConfigError, match="dopri5 chooses its own steps and cannot be told to spend 8"):
        DormandPrince5().steps(8)


def test_a_field_that_dopri5_cannot_follow_is_said() -> None:
    def jump(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(t[:, None] > 0.5, torch.nan, x)

    with pytest.raises(UserError, match=r"dopri5 cannot hold its tolerance on this field .* Raise solver.rtol and solver.atol."):
        solve(DormandPrince5(), jump, grid(1))


def samples(network: nn.Module, solver: Solver, nfe: int, seed: int = 3, **parts: Any) -> list[tuple[Tensor, int]]:
    made = Formulation.parse(parts)
    state = made.noise.fit(torch.tensor([[[1.0, 3.0]], [[2.0, 5.0]]]))
    return list(generate(network, made, state, solver, UniformGrid(), nfe, (1, 2), 7, 3, (seed, "samples"), "cpu"))


@counted_solver
@pytest.mark.parametrize("gain", [1.0, -2.0])
def test_samples_start_from_the_same_noise_whatever_moves_them(solver: Solver, gain: float) -> None:
    network = Recorder(gain).train()
    batches = samples(network, solver, 8)
    assert [(tuple(batch.shape), calls) for batch, calls in batches] == [((3, 1, 2), 8), ((3, 1, 2), 8), ((1, 1, 2), 8)]
    for i, seen in enumerate(network.seen[:: len(network.seen) // 3]):
        if solver.name != "heun_sde":  # whose noise comes before its first call
            assert torch.equal(seen, torch.randn(len(seen), 1, 2, generator=stream(3, "samples", i)))
    assert set(network.modes) == {(False, False)}


def test_another_seed_gives_other_samples() -> None:
    assert not torch.equal(samples(Recorder(), Heun(), 2, seed=3)[0][0], samples(Recorder(), Heun(), 2, seed=4)[0][0])


def test_samples_start_from_the_noise_of_training_at_the_end_of_its_path() -> None:
    """`ve` starts at sigma_max x1, and `matched` at the data's standard deviation."""
    network = Recorder(0.0)
    samples(network, SOLVERS["euler"], 1, interpolant={"name": "ve", "sigma_max": 20}, noise="matched")
    std = torch.tensor([1.0, 3.0, 2.0, 5.0]).std()
    torch.testing.assert_close(network.seen[0], 20 * std * torch.randn(3, 1, 2, generator=stream(3, "samples", 0)))


def test_a_solver_that_spends_other_than_it_says_is_caught() -> None:
    class Spendthrift(Heun):
        calls_per_step = 1

    with pytest.raises(AssertionError):
        samples(Recorder(1), Spendthrift(), 4)
