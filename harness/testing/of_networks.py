"""What networks, their embeddings, optimizers, schedules and averages promise.

Each function yields (promise, whether it is kept). An exception breaks the promise that it met.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.errors import ConfigError
from harness.testing.probes import TIMES, Promises, generator, like, same, seeded, through_safetensors
from harness.training.buffers import buffers_apart


def time_embedding(embedding: Any) -> Promises:
    module = embedding.build(32)
    vectors = module(TIMES.float())
    yield "a vector for each time", tuple(vectors.shape) == (len(TIMES), 32)
    yield "finite", bool(vectors.isfinite().all())
    yield "times that differ are told apart", bool((torch.cdist(vectors, vectors) + torch.eye(len(TIMES)) > 1e-6).all())


def backbone(backbone: Any) -> Promises:
    fitting = []
    for shape in ((1, 8, 8), (3, 32, 32), (16,), (12, 4)):
        try:
            fitting.append((shape, backbone.build(shape, 3)))
        except ConfigError:
            continue
    yield "it fits images [1, 8, 8] or [3, 32, 32], vectors [16] or sequences [12, 4]", bool(fitting)
    for shape, network in fitting:
        x = torch.randn(3, *shape, generator=generator())
        t = torch.tensor([0.0, 0.5, 1.0])
        for parameter in network.parameters():  # networks whose last layer starts at zero have no gradient behind it
            torch.nn.init.normal_(parameter, std=0.05, generator=generator())
        y = torch.tensor([0, 2, -1])
        yield f"its output is shaped like its input {list(shape)}", like(seeded(network, x, t, y), x)
        network.eval()
        output = network(x, t, y)
        plain = network(x, t)
        yield (
            "classes count, and -1 is none",
            not torch.equal(output[:2], plain[:2]) and torch.equal(network(x, t, y * 0 - 1), plain),
        )
        seeded(network.train(), x, t, y).square().mean().backward()
        yield (
            "every parameter has a finite gradient",
            all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters()),
        )
        other = backbone.build(shape, 3)
        other.load_state_dict(through_safetensors(network.state_dict()))
        yield "its weights are saved and loaded", torch.equal(other.eval()(x, t, y), network.eval()(x, t, y))
        yield from _state(network, other, x, t, y)


def _state(network: nn.Module, other: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> Promises:
    """What training relies on when it measures a network, saves it and goes on; `other` was given its state."""
    saved = through_safetensors(network.state_dict())
    network.eval()(x[:2], t[:2], y[:2])
    yield "in evaluation it changes nothing that it keeps", same(network.state_dict(), saved)
    outputs = [seeded(one.train(), x, t, y) for one in (network, other)]
    yield (
        "what it remembers is in its state_dict",
        torch.equal(*outputs) and same(network.state_dict(), other.state_dict()),
    )
    with buffers_apart(network):
        seeded(network, x[:2].flip(0), t[:2], y[:2])
    seeded(network.eval(), x[1:], t[1:], y[1:])
    outputs = [seeded(one.train(), x, t, y) for one in (network, other)]
    yield (
        "a look between two steps leaves it as it was",
        torch.equal(*outputs) and same(network.state_dict(), other.state_dict()),
    )


def optimizer(optimizer: Any) -> Promises:
    weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    made = optimizer.build([weight])
    for group in made.param_groups:
        group["lr"] = 0.05
    for _ in range(200):
        made.zero_grad()
        weight.square().sum().backward()
        made.step()
    yield "it comes down a bowl", bool((weight.abs() < 0.3).all())
    before = weight.detach().clone()
    made.found_inf = torch.tensor(1.0)
    made.step()
    yield "it skips a step that was found bad", torch.equal(weight, before)


def schedule(schedule: Any) -> Promises:
    shares = [schedule.share(step, 10, 100) for step in range(10, 100)]
    yield "shares of the peak are in [0, 1]", all(0 <= share <= 1 for share in shares)
    yield "it begins at the peak", shares[0] > 0.9
    yield "it never rises", all(later <= earlier for earlier, later in itertools.pairwise(shares))


def average(average: Any) -> Promises:
    terms = average.terms([0.9, 0.99], list(range(10, 1001, 10)))
    yield "there is something that it is the sum of", bool(terms)
    yield "its shares sum to one", abs(sum(term.share for term in terms) - 1) < 0.01
