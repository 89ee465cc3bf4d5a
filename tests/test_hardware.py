"""What a training does is counted by hand; what it sets for its time is undone after it."""

import gc
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from harness.training.hardware import old_left_alone, training_flops


class Dense(nn.Module):
    """3 to 5 to 2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.second(self.first(x).relu() * t[:, None])


class Attention(nn.Module):
    """7 positions of width 4, one head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Image(nn.Module):
    """2 to 4 channels by 3 x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.convolution(x)


@pytest.mark.parametrize(
    ("network", "shape", "flops"),
    [
        (Dense(), (3,), 2 * (2 * 3 * 5 + 3 * 5 * 2)),  # the input needs no gradient
        (Image(), (2, 8, 8), 2 * 2 * (8 * 8 * 4 * 2 * 9)),
        (Attention(), (7, 4), 2 * 2 * (7 * 4 * 12) + 2 * 3 * 2 * (7 * 7 * 4)),
    ],
)
def test_operations_of_a_training_step_are_counted(network: nn.Module, shape: tuple[int, ...], flops: float) -> None:
    """A product of [n, k] and [k, m] is 2nkm operations, and its backward pass two more such products."""
    before = torch.get_rng_state()
    assert training_flops(network, shape, "cpu") == flops
    assert all(w.grad is None for w in network.parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_collections_pass_over_what_is_older_until_training_ends() -> None:
    with old_left_alone():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


def test_a_study_is_checked_without_torchs_compiler() -> None:
    """Its import takes two seconds, in which no worker would have begun."""
    asked = "from harness.ablation.study import load_scale; from harness.checks import check; check(load_scale('digits'))"
    subprocess.run([sys.executable, "-c", f"{asked}; import sys; sys.exit('torch._dynamo' in sys.modules)"], check=True)
