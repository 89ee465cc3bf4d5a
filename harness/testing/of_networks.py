"""What networks, their embeddings, optimizers, schedules and averages promise.

Each function yields (promise, whether it is kept). An exception breaks the promise that it met.
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
    yield "a vector for each time", tuple(vectors.shape) == (len(TIMES), 32)
    yield "finite", bool(vectors.isfinite().all())
    yield "times that differ are told apart", bool((torch.cdist(vectors, vectors) + torch.eye(len(TIMES)) > 1e-6).all())


def backbone(backbone: Any) -> Promises:
    """One that refuses classes, or whose networks take none, is tried without."""
    fitting = []
    for shape in ((1, 8, 8), (3, 32, 32), (16,), (12, 4)):
        for classes in (3, 0):
            try:
                fitting.append((shape, classes, backbone.build(shape, classes)))
            except ConfigError:
                continue
            break
    yield "it fits images [1, 8, 8] or [3, 32, 32], vectors [16] or sequences [12, 4]", bool(fitting)
    for shape, classes, network in fitting:
        x = torch.randn(3, *shape, generator=generator())
        t = torch.tensor([0.0, 0.5, 1.0])
        for parameter in network.parameters():  # networks whose last layer starts at zero have no gradient behind it
            torch.nn.init.normal_(parameter, std=0.05, generator=generator())
        told = (torch.tensor([0, 2, -1]),) if classes and _takes_classes(network) else ()
        yield f"its output is shaped like its input {list(shape)}", like(seeded(network, x, t, *told), x)
        network.eval()
        plain = network(x, t)
        if told:
            output = network(x, t, *told)
            yield (
                "classes count, and -1 is none",
                not torch.equal(output[:2], plain[:2]) and torch.equal(network(x, t, told[0] * 0 - 1), plain),
            )
        seeded(network.train(), x, t, *told).square().mean().backward()
        yield (
            "every parameter has a finite gradient",
            all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters()),
        )
        other = backbone.build(shape, classes)
        other.load_state_dict(through_safetensors(network.state_dict()))
        yield "its weights are saved and loaded", torch.equal(other.eval()(x, t, *told), network.eval()(x, t, *told))
        yield from _state(network, other, x, t, *told)


def _takes_classes(network: nn.Module) -> bool:
    """Whether it can be called with classes beside samples and times."""
    try:
        inspect.signature(network.forward).bind(None, None, None)
    except TypeError:
        return False
    return True


def _state(network: nn.Module, other: nn.Module, *given: Tensor) -> Promises:
    """What training relies on when it measures a network, saves it and goes on; `other` was given its state."""
    saved = through_safetensors(network.state_dict())
    network.eval()(*(each[:2] for each in given))
    yield "in evaluation it changes nothing that it keeps", same(network.state_dict(), saved)
    outputs = [seeded(one.train(), *given) for one in (network, other)]
    yield (
        "what it remembers is in its state_dict",
        torch.equal(*outputs) and same(network.state_dict(), other.state_dict()),
    )
    with buffers_apart(network):
        seeded(network, given[0][:2].flip(0), *(each[:2] for each in given[1:]))
    seeded(network.eval(), *(each[1:] for each in given))
    outputs = [seeded(one.train(), *given) for one in (network, other)]
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
