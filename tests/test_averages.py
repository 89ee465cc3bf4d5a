"""Averages computed afterwards from snapshots, against averages tracked directly and against numerical integrals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from harness.components.averages import WIDTHS, Ema, Last, PostHoc, gamma_of, mixture
from harness.core.checkpoint import checkpoints, step_of, write_checkpoint
from harness.core.errors import ConfigError, UserError
from harness.training.ema import Averages, combine

STEPS = 1500
EVERY = 30


def profile(t: float, gamma: float, end: float) -> float:
    """The density of time t in the power-function average at `end` (Karras et al. 2024, eq. 121)."""
    return (gamma + 1) * t**gamma / end ** (gamma + 1) if t <= end else 0.0


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.2])
def test_the_width_is_the_standard_deviation_of_the_profile(width: float) -> None:
    gamma = gamma_of(width)
    mean, square = (quad(lambda t, n=n: t**n * profile(t, gamma, 1.0), 0, 1)[0] for n in (1, 2))
    assert (square - mean**2) ** 0.5 == pytest.approx(width, rel=1e-6)


def test_the_mixture_is_the_least_squares_fit_of_the_profiles() -> None:
    """The expected weights come from a least-squares fit on a fine grid of times."""
    ends = np.array([3.0, 3.0, 6.0, 6.0, 10.0, 10.0])
    gammas = np.array([6.94, 16.97] * 3)
    times = (np.arange(200_000) + 0.5) / 20_000
    basis = np.stack(
        [np.where(times <= e, (g + 1) * times**g / e ** (g + 1), 0) for e, g in zip(ends, gammas, strict=True)], 1
    )
    wanted = (4.5 + 1) * times**4.5 / 10**5.5
    expected = np.linalg.lstsq(basis, wanted, rcond=None)[0]
    np.testing.assert_allclose(mixture(ends, gammas, 10.0, 4.5), expected, rtol=1e-3, atol=1e-4)


def walk(network: nn.Linear, averages: Sequence[Averages]) -> None:
    """Move the weights to a target with noise, like weights in training."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(network.weight.shape, generator=generator)
    for n in range(1, STEPS + 1):
        with torch.no_grad():
            network.weight += 0.01 * (target - network.weight) + 0.02 * torch.randn(
                network.weight.shape, generator=generator
            )
        for average in averages:
            average.update(n)


class Snapshots(Averages):
    """Takes snapshots into a folder at its updates."""

    folder: Path

    def update(self, n: int) -> None:
        super().update(n)
        if n % EVERY == 0:
            write_checkpoint(self.folder, n, self.snapshot())


def put_together(folder: Path, width: float) -> dict[str, Tensor]:
    terms = PostHoc(width=width).terms([], sorted(map(step_of, checkpoints(folder))))
    return combine({}, folder, terms, dict(nn.Linear(20, 20).named_parameters()))


def test_an_average_put_together_is_the_one_tracked_directly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Linear(20, 20)
    widths = (0.03, 0.07, 0.13, 0.2)
    kept = Snapshots(network, [], WIDTHS)
    direct = {width: Averages(network, [], [width]) for width in widths}
    kept.folder = tmp_path
    walk(network, [kept, *direct.values()])
    for width in widths:
        expected = direct[width].snapshot()[f"power-{width:g}/weight"]
        assert (put_together(tmp_path, width)["weight"] - expected).norm() / expected.norm() < 1e-3
        assert (expected - network.weight).norm() / expected.norm() > 0.02, "an average that is not the last weights"


def test_several_averages_are_the_same_as_alone() -> None:
    torch.manual_seed(0)
    network = nn.Linear(20, 20)
    together = Averages(network, [0.9, 0.99], [0.1])
    alone = [Averages(network, [decay]) for decay in (0.9, 0.99)]
    walk(network, [together, *alone])
    for decay, own in zip((0.9, 0.99), alone, strict=True):
        assert torch.equal(together.tensors()[f"ema-{decay}/weight"], own.network.weight)  # type: ignore[arg-type]
    assert torch.equal(together.network.weight, alone[0].network.weight)  # type: ignore[arg-type]
    shown, trained = (nn.utils.parameters_to_vector(n.parameters()) for n in (alone[0].network, network))
    apart = (shown - trained).norm() / trained.norm()
    assert together.distance().item() == pytest.approx(apart.item(), rel=1e-5)


def test_without_a_decay_the_network_shown_has_the_last_weights() -> None:
    network = nn.Linear(20, 20)
    averages = Averages(network, [])
    walk(network, [averages])
    assert torch.equal(averages.network.weight, network.weight)  # type: ignore[arg-type]
    assert averages.tensors() == {}


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    network = nn.Linear(20, 20)
    kept = Snapshots(network, [], WIDTHS)
    kept.folder = tmp_path
    walk(network, [kept])
    broken = checkpoints(tmp_path)[3]
    broken.write_bytes(broken.read_bytes()[:-8])
    with pytest.raises(UserError, match=f"{broken}: is damaged"):
        put_together(tmp_path, 0.1)
    other = write_checkpoint(tmp_path, step_of(broken), {"averages/x/weight": torch.ones(3)})
    with pytest.raises(UserError, match=f"{other}: does not fit the run"):
        put_together(tmp_path, 0.1)


@pytest.mark.parametrize(
    ("average", "decays", "said"),
    [
        (Ema(), [], "training keeps none: train.ema_decay is null"),
        (Ema(decay=0.5), [0.9], "decay: training keeps 0.9, not 0.5"),
        (PostHoc(width=0.1), [0.9], "training keeps no snapshots. Set train.snapshot_every"),
    ],
    ids=str,
)
def test_an_average_that_training_does_not_keep_is_refused(
    average: Ema | PostHoc, decays: list[float], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        average.check(decays, snapshots=False)
    Last().check(decays, snapshots=False)
