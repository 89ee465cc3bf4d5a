import math

import pytest
import torch
from torch import Tensor, nn

from harness.training.ema import Averages

UPDATES = 50


def history(network: nn.Module) -> list[Tensor]:
    """Return random weights [updates] of the network, in float64."""
    generator = torch.Generator().manual_seed(0)
    size = sum(p.numel() for p in network.parameters())
    return [torch.rand(size, generator=generator, dtype=torch.float32).double() * 2 - 1 for _ in range(UPDATES)]


def follow(network: nn.Module, decay: float, weights: list[Tensor]) -> Tensor:
    ema = Averages(network, [decay])
    for n, values in enumerate(weights, 1):
        nn.utils.vector_to_parameters(values.float(), network.parameters())
        ema.update(n)
    return nn.utils.parameters_to_vector(ema.network.parameters()).double()


def test_the_first_update_copies_every_bit() -> None:
    network = nn.Linear(7, 3)
    weights = history(network)[:1]
    assert torch.equal(follow(network, 0.9999, weights), weights[0].float().double())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.75, 0.9999])
def test_it_equals_the_recursion_in_float64(decay: float) -> None:
    network = nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 2))
    weights = history(network)
    expected = torch.zeros_like(weights[0])
    for n, values in enumerate(weights, 1):
        d = min(decay, (n - 1) / (n + 9))
        expected = d * expected + (1 - d) * values
    torch.testing.assert_close(follow(network, decay, weights), expected, atol=1e-6, rtol=0)


def test_without_warm_up_it_starts_from_the_initial_weights() -> None:
    """torchcfm's: average <- d average + (1 - d) weights from the first step on."""
    network = nn.Linear(7, 3)
    expected = nn.utils.parameters_to_vector(network.parameters()).detach().double()
    ema = Averages(network, [0.9], warmup=False)
    for n, values in enumerate(history(network), 1):
        nn.utils.vector_to_parameters(values.float(), network.parameters())
        ema.update(n)
        expected = 0.9 * expected + 0.1 * values
    found = nn.utils.parameters_to_vector(ema.network.parameters()).double()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_before_the_cap_step_k_weighs_as_the_rising_power_k_to_k_plus_8() -> None:
    """The product of the decays telescopes: step k of n has weight 10 (n-1)!/(n+9)! k(k+1)...(k+8);
    these sum to one.
    """
    network = nn.Linear(7, 3)
    weights = history(network)
    shares = [10 * math.prod(range(k, k + 9)) / math.prod(range(UPDATES, UPDATES + 10)) for k in range(1, UPDATES + 1)]
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    expected = torch.stack([share * values for share, values in zip(shares, weights, strict=True)]).sum(0)
    torch.testing.assert_close(follow(network, 0.9999, weights), expected, atol=1e-6, rtol=0)


def test_the_average_neither_trains_nor_drops_out() -> None:
    ema = Averages(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), [0.9])
    assert not any(module.training for module in ema.network.modules())
    assert not any(p.requires_grad for p in ema.network.parameters())
