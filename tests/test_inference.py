"""Forward passes in sampling: their precision is part of the protocol, and fixed sizes change no output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from test_compiled import Calls
from torch import Tensor, nn

from harness.core.config import override
from harness.core.errors import ConfigError
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import evaluate, judge_of
from harness.runs.sample import averaged, restore, samples
from harness.runs.validate import check
from harness.training import inference
from harness.training.inference import Inference, InPrecision, in_precision, plain

BOTH = {"train.graph": "on", "train.compile": "reduce-overhead"}
"""A mode with graphs of its own."""


class Network(nn.Module):
    """It notes the sizes of its batches and the type of its products."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.sizes = list[int]()
        self.kinds = set[torch.dtype]()

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.sizes.append(len(x))
        out: Tensor = self.layer(x)
        self.kinds.add(out.dtype)
        return out + t[:, None] + (0 if y is None else y[:, None])


def batch(size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(size, 3, generator=generator),
        torch.rand(size, generator=generator),
        torch.randint(5, (size,), generator=generator),
    )


@pytest.mark.parametrize("told", [1, 2])
def test_smaller_batches_are_filled_up_to_a_known_size_and_cut_again(told: int) -> None:
    network = Network()
    served = Inference(network, graphs=False)
    sizes = (4, 8, 3, 7, 4, 9, 1)
    for i, size in enumerate(sizes):
        given = batch(size, i)[: 1 + told]
        with torch.no_grad():
            expected = network(*given)
        found = served(*given)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
        assert not found.requires_grad
    assert network.sizes[1::2] == [4, 8, 4, 8, 4, 9, 4]
    assert plain(served) is network
    assert plain(network) is network


def test_a_graph_of_each_size_repeats_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a call in place of a graph: it writes to the same tensor every time."""
    records = list[str]()

    def record(call: Callable[[], Tensor], generators: Iterable[torch.Generator] = ()) -> Callable[[], Tensor]:
        records.append("one")
        fixed = call()
        return lambda: fixed.copy_(call())

    monkeypatch.setattr(inference, "record", record)
    network = Network()
    served = Inference(network, graphs=True)
    earlier = list[tuple[Tensor, Tensor]]()
    for i, size in enumerate((4, 2, 8, 8, 4, 5)):
        given = batch(size, i)
        with torch.no_grad():
            earlier.append((served(*given), network(*given)))
    assert len(records) == 2
    for found, expected in earlier:
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_precision_rounds_the_network_alone() -> None:
    network = Network()
    x, t, _ = batch(8)
    with torch.no_grad():
        expected = network(x, t)
        found = InPrecision(network, "bf16", "cpu")(x, t)
        assert torch.equal(InPrecision(network, "fp32", "cpu")(x, t), expected)
    assert network.kinds == {torch.float32, torch.bfloat16}
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() < 0.02 * expected.norm()


def test_each_precision_has_graphs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of one precision would give its values in the other too; here a record keeps the first values."""

    def record(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        kept = call()
        return lambda: kept

    monkeypatch.setattr(inference, "record", record)
    network = Network()
    served = Inference(network, graphs=True)
    x, t, _ = batch(8)
    half = in_precision(served, "bf16", "cpu")
    assert in_precision(served, "bf16", "cpu") is half
    with torch.no_grad():
        expected = network(x, t)
    assert torch.equal(in_precision(served, "fp32", "cpu")(x, t), expected)
    assert not torch.equal(half(x, t), expected)
    assert torch.equal(served(x, t), expected)
    assert plain(served) is network


def test_a_graph_in_bf16_contains_the_casts_of_the_weights() -> None:
    """Otherwise it would read weights that autocast has dropped since."""
    network = InPrecision(Network(), "bf16", "cpu")
    x, t, _ = batch(8)
    with torch.no_grad(), Calls() as first:
        network(x, t)
    with torch.no_grad(), Calls() as second:
        network(x, t)
    assert first.number["_to_copy"] == second.number["_to_copy"] == 3  # x, the weight and the bias


def test_samples_in_bf16_have_a_protocol_of_their_own(tiny: RunConfig, tiny_run: Run) -> None:
    """They differ a little from those in fp32, and both have values in one run."""
    half = Run(override(tiny, {"evaluate.precision": "bf16"}), tiny_run.folder)
    protocols = [run.config.protocol() for run in (tiny_run, half)]
    assert [protocol.sampling.rpartition("; ")[2] for protocol in protocols] == ["fp32", "bf16"]
    assert protocols[0].digest == override(tiny, {"evaluate.precision": "fp32"}).protocol().digest
    assert protocols[0].digest != protocols[1].digest
    drawn = [torch.cat([b.x for b in samples(run, restore(run), 2, 64)]).float() for run in (tiny_run, half)]
    apart = (drawn[0] - drawn[1]).norm() / drawn[0].norm()
    assert 0 < apart < 0.05
    for run in (tiny_run, half):
        evaluate(run, restore(run), judge_of(run.config), lambda: False)
    values = [half.evaluation(protocol)["values"]["fid"]["2"] for protocol in protocols]
    assert 0 < abs(values[0] - values[1]) < 0.05 * values[0]


def test_tf32_is_refused_where_nothing_rounds_to_it(tiny: RunConfig, tiny_run: Run) -> None:
    coarse = override(tiny, {"evaluate.precision": "tf32"})
    with pytest.raises(ConfigError, match=r"^evaluate\.precision: this machine's cpu does not round to tf32"):
        check(coarse)
    with pytest.raises(ConfigError, match=r"^evaluate\.precision: "):
        next(samples(Run(coarse, tiny_run.folder), averaged(tiny_run), 2, 8))


@pytest.mark.parametrize(
    ("changes", "made"),
    [({}, []), ({"train.compile": "default"}, [False]), ({"train.graph": "on"}, [True]), (BOTH, [False])],
)
def test_a_gpu_serves_networks_at_few_sizes(
    tiny: RunConfig, tiny_run: Run, changes: dict[str, Any], made: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list[bool]()

    def served(network: nn.Module, graphs: bool) -> nn.Module:
        found.append(graphs)
        return network

    there = averaged(tiny_run)._replace(device="cuda")
    monkeypatch.setattr("harness.runs.sample.averaged", lambda run: there)
    monkeypatch.setattr("harness.runs.sample.Inference", served)
    restore(Run(override(tiny, changes), tiny_run.folder))
    assert found == made
    found.clear()
    monkeypatch.setattr("harness.runs.sample.averaged", lambda run: there._replace(device="cpu"))
    restore(tiny_run)
    assert found == []
