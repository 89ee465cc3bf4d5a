"""Solvers: order, calls, agreement with a reference; and the samples drawn with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from harness.components.noises import Gaussian
from harness.components.solvers import Heun, Solver
from harness.errors import ConfigError
from harness.registry import build, names
from harness.rng import stream
from harness.sampling import generate

ORDER = {"euler": 1, "heun": 2}
MATRIX = torch.tensor([[0.3, -2.0], [1.5, -0.4]], dtype=torch.float64)
every_solver = pytest.mark.parametrize("solver", [build("solver", name) for name in names("solver")], ids=str)


def linear(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = (1 + 2 t) M x, whose solution at 0 is exp(-2 M) x(1)."""
    return (1 + 2 * t)[:, None] * (x @ MATRIX.T)


def start(n: int = 4) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@every_solver
def test_the_error_falls_with_the_declared_order(solver: Solver) -> None:
    exact = start() @ torch.linalg.matrix_exp(-2 * MATRIX).T
    steps = np.array([64, 128, 256, 512])
    errors = [(solver.integrate(linear, start(), n * solver.calls_per_step) - exact).norm().item() for n in steps.tolist()]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-ORDER[solver.name], abs=0.1)


@every_solver
def test_agreement_with_dopri5_on_a_nonlinear_field(solver: Solver) -> None:
    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(2 * x.flip(1) + 4 * t[:, None]) - x * t[:, None]

    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    reference = odeint(lambda t, x: field(x, t.expand(len(x))), start(), ends, method="dopri5", rtol=1e-10, atol=1e-12)[-1]
    torch.testing.assert_close(solver.integrate(field, start(), 1000), reference, rtol=0, atol=1e-2 if ORDER[solver.name] == 1 else 5e-5)


@every_solver
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_network_is_called_nfe_times_between_1_and_0(solver: Solver, steps: int) -> None:
    times: list[Tensor] = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        times.append(t)
        return x

    nfe = steps * solver.calls_per_step
    solver.integrate(field, start(), nfe)
    assert len(times) == nfe
    assert all(t.shape == (4,) and (t == t[0]).all() for t in times)
    assert times[0][0] == 1
    assert all(0 <= t[0] <= 1 for t in times)


@pytest.mark.parametrize(("nfe", "near"), [(1, 2), (3, 2), (9, 8)])
def test_heun_refuses_an_odd_number_of_calls(nfe: int, near: int) -> None:
    with pytest.raises(ConfigError) as caught:
        Heun().integrate(linear, start(), nfe)
    assert str(caught.value) == f"nfe: heun spends 2 calls a step and cannot spend {nfe}. Use {near}."


@every_solver
def test_no_calls_are_refused(solver: Solver) -> None:
    with pytest.raises(ConfigError, match=f"cannot spend 0. Use {solver.calls_per_step}."):
        solver.steps(0)


class Recorder(nn.Module):
    """A field `gain` x that keeps what it was first given in each batch of samples."""

    def __init__(self, gain: float):
        super().__init__()
        self.gain, self.seen, self.modes = gain, [], []  # type: ignore[var-annotated]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if t[0] == 1:
            self.seen.append(x.clone())
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.gain * x


def samples(network: nn.Module, solver: Solver, nfe: int, seed: int = 3) -> list[Tensor]:
    return list(generate(network, solver, nfe, Gaussian(), {}, (1, 2), 7, 3, (seed, "samples"), "cpu"))


@every_solver
@pytest.mark.parametrize("gain", [1.0, -2.0])
@pytest.mark.parametrize("nfe", [2, 8])
def test_samples_start_from_the_same_noise_whatever_moves_them(solver: Solver, gain: float, nfe: int) -> None:
    network = Recorder(gain).train()
    batches = samples(network, solver, nfe)
    assert [tuple(batch.shape) for batch in batches] == [(3, 1, 2), (3, 1, 2), (1, 1, 2)]
    for i, seen in enumerate(network.seen):
        assert torch.equal(seen, torch.randn(len(seen), 1, 2, generator=stream(3, "samples", i)))
        torch.testing.assert_close(batches[i], solver.integrate(lambda x, t: gain * x, seen, nfe))
    assert len(network.modes) == 3 * nfe
    assert set(network.modes) == {(False, False)}


def test_another_seed_gives_other_samples() -> None:
    assert not torch.equal(samples(Recorder(1), Heun(), 2, seed=3)[0], samples(Recorder(1), Heun(), 2, seed=4)[0])


def test_a_solver_that_spends_other_than_it_says_is_caught() -> None:
    class Spendthrift(Heun):
        calls_per_step = 1

    with pytest.raises(AssertionError):
        samples(Recorder(1), Spendthrift(), 4)
