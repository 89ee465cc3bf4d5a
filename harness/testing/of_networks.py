"""Promises of networks, their embeddings, optimizers, schedules and averages.

Each function yields (promise, whether it is kept). An exception counts as one broken promise.
"""

from __future__ import annotations

import inspect
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
    yield "the embedding of times [n] has shape [n, dimensions]", tuple(vectors.shape) == (len(TIMES), 32)
    yield "embeddings are finite", bool(vectors.isfinite().all())
    yield (
        "different times have different embeddings",
        bool((torch.cdist(vectors, vectors) + torch.eye(len(TIMES)) > 1e-6).all()),
    )


def backbone(backbone: Any) -> Promises:
    """Promises of a backbone; one that refuses classes, or whose networks take none, is tried without them."""
    fitting = []
    for shape in ((1, 8, 8), (3, 32, 32), (16,), (12, 4)):
        for classes in (3, 0):
            try:
                fitting.append((shape, classes, backbone.build(shape, classes)))
            except ConfigError:
                continue
            break
    yield "the backbone fits images [1, 8, 8] or [3, 32, 32], vectors [16] or sequences [12, 4]", bool(fitting)
    for shape, classes, network in fitting:
        x = torch.randn(3, *shape, generator=generator())
        t = torch.tensor([0.0, 0.5, 1.0])
        for parameter in network.parameters():  # networks whose last layer starts at zero have no gradient behind it
            torch.nn.init.normal_(parameter, std=0.05, generator=generator())
        told = (torch.tensor([0, 2, -1]),) if classes and _takes_classes(network) else ()
        yield f"the output keeps the shape and dtype of the input {list(shape)}", like(seeded(network, x, t, *told), x)
        network.eval()
        plain = network(x, t)
        if told:
            output = network(x, t, *told)
            yield (
                "the output depends on the class, and class -1 means no class",
                not torch.equal(output[:2], plain[:2]) and torch.equal(network(x, t, told[0] * 0 - 1), plain),
            )
        seeded(network.train(), x, t, *told).square().mean().backward()
        yield (
            "every parameter has a finite gradient",
            all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters()),
        )
        other = backbone.build(shape, classes)
        other.load_state_dict(through_safetensors(network.state_dict()))
        yield (
            "a network loaded from the saved weights gives the same output",
            torch.equal(other.eval()(x, t, *told), network.eval()(x, t, *told)),
        )
        yield from _state(network, other, x, t, *told)


def _takes_classes(network: nn.Module) -> bool:
    """Whether a network can be called with classes after samples and times."""
    try:
        inspect.signature(network.forward).bind(None, None, None)
    except TypeError:
        return False
    return True


def _state(network: nn.Module, other: nn.Module, *given: Tensor) -> Promises:
    """Promises for evaluating, saving and resuming a network in training; `other` has loaded the network's state."""
    saved = through_safetensors(network.state_dict())
    network.eval()(*(each[:2] for each in given))
    yield "the network does not change its state in evaluation mode", same(network.state_dict(), saved)
    outputs = [seeded(one.train(), *given) for one in (network, other)]
    yield (
        "everything that the network remembers between calls is in its state_dict",
        torch.equal(*outputs) and same(network.state_dict(), other.state_dict()),
    )
    with buffers_apart(network):
        seeded(network, given[0][:2].flip(0), *(each[:2] for each in given[1:]))
    seeded(network.eval(), *(each[1:] for each in given))
    outputs = [seeded(one.train(), *given) for one in (network, other)]
    yield (
        "an evaluation between two training steps does not change the network",
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
    yield "200 steps bring the weights near the minimum of a quadratic function", bool((weight.abs() < 0.3).all())
    before = weight.detach().clone()
    made.found_inf = torch.tensor(1.0)
    made.step()
    yield "the optimizer skips a step when found_inf is 1", torch.equal(weight, before)


def schedule(schedule: Any) -> Promises:
    shares = [schedule.share(step, 10, 100) for step in range(10, 100)]
    yield "shares of the peak learning rate are in [0, 1]", all(0 <= share <= 1 for share in shares)
    yield "the learning rate starts at the peak after the warm-up", shares[0] > 0.9
    yield (
        "the learning rate never rises after the warm-up",
        all(later <= earlier for earlier, later in itertools.pairwise(shares)),
    )


def average(average: Any) -> Promises:
    terms = average.terms([0.9, 0.99], list(range(10, 1001, 10)))
    yield "the average has at least one term", bool(terms)
    yield "the shares of the terms sum to one", abs(sum(term.share for term in terms) - 1) < 0.01
