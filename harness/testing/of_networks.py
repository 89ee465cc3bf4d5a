"""Promises of networks, their embeddings, optimizers, schedules and averages.

Each function yields (promise, whether it is kept). An exception counts as one broken promise.
"""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.declared import place_of
from harness.core.errors import ConfigError, UserError
from harness.core.tried import Instance, Like, tried
from harness.testing.probes import TIMES, Note, Promises, generator, like, near, same, seeded, through_safetensors, told
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


SHAPES = [("images", (1, 8, 8)), ("images", (3, 32, 32)), ("vectors", (16,)), ("sequences", (12, 4))]
"""(kind of data, shape of a sample) on which a backbone is tried."""
FORWARD = "def forward(self, x, t, y=None)"


@dataclass(kw_only=True)
class _Trial:
    """A backbone on samples of one shape."""

    backbone: Any
    kind: str
    shape: tuple[int, ...]
    classes: int = 3
    network: Any = None
    given: tuple[Tensor, ...] = ()
    output: Any = None
    refused: bool = False
    """Whether `build` refuses the shape."""
    failure: str = ""
    """What `build` or `forward` raises; empty if both run."""

    def __str__(self) -> str:
        return f"{self.kind} {list(self.shape)}"

    def run(self) -> None:
        """Build the network and call it; note an exception. `UserError` if `forward` has the wrong arguments."""
        try:
            self._build()
        except ConfigError as error:
            self.refused = True
            self.failure = f"build refuses them: {error}"
            return
        except (Exception, SystemExit) as error:  # whatever a user's network raises
            self.failure = told(error, self.backbone)
            return
        _require_arguments(self.backbone, self.network)
        x = torch.randn(3, *self.shape, generator=generator())
        classes = (torch.tensor([0, 2, -1]),) if self.classes and _takes(self.network, 3) else ()
        self.given = (x, torch.tensor([0.0, 0.5, 1.0]), *classes)
        try:
            for parameter in self.network.parameters():  # a last layer of zeros passes no gradient back
                torch.nn.init.normal_(parameter, std=0.05, generator=generator())
            self.output = seeded(self.network, *self.given)
        except (Exception, SystemExit) as error:
            self.failure = told(error, self.backbone)

    def _build(self) -> None:
        """Build the network for three classes, or without classes if the backbone refuses them."""
        due = Instance((nn.Module,), "a torch.nn.Module")
        try:
            self.network = tried(self.backbone, "build", self.shape, self.classes, due=due)
        except ConfigError:
            self.classes = 0
            self.network = tried(self.backbone, "build", self.shape, 0, due=due)


def backbone(backbone: Any) -> Promises:
    """Promises of a backbone on each shape that it fits: `build` accepts the shape and `forward` runs.

    It must fit at least one. A backbone that refuses classes, or whose network takes none, is tried without them.
    """
    trials = [_Trial(backbone=backbone, kind=kind, shape=shape) for kind, shape in SHAPES]
    for trial in trials:
        trial.run()
    if all(trial.failure for trial in trials):
        yield from ((f"{trial}: {trial.failure}", False) for trial in trials)
        return
    yield _fits(trials), True
    raising = {trial.kind: trial for trial in reversed(trials) if trial.failure and not trial.refused}
    yield from (
        (Note(f"{trial}: not for these data, or a fault: {trial.failure}"), True)
        for trial in reversed(raising.values())
    )
    fitting = [trial for trial in trials if not trial.failure]
    for trial in fitting:
        last = "forward runs"
        try:
            for last, is_kept in _on_shape(trial):
                yield last, is_kept
        except (Exception, SystemExit) as error:
            yield f"{trial}: after '{last}': {told(error, backbone)}", False
    if any(trial.classes and not _takes(trial.network, 3) for trial in fitting):
        yield Note(f"forward takes no classes; for a class-conditional run, write {FORWARD}"), True


def _fits(trials: list[_Trial]) -> Note:
    """Return which data a backbone fits; a kind of data of which no shape fits is named without shapes."""
    fitting = [trial for trial in trials if not trial.failure]
    kinds = {trial.kind for trial in fitting}
    others = dict.fromkeys(str(t) if t.kind in kinds else t.kind for t in trials if t.failure)
    return Note(f"fits {', '.join(map(str, fitting))}{'; not ' if others else ''}{', '.join(others)}")


def _on_shape(trial: _Trial) -> Promises:
    """Promises of a network whose forward runs; after an output of the wrong shape, no others are tried."""
    network = trial.network
    given = trial.given
    x, t, *told_classes = given
    if fault := Like(x).fault(trial.output):
        what = f"forward returns {fault}, but should return {Like(x)}"
        alike = isinstance(trial.output, Tensor) and like(trial.output, x)
        other = "Return a tensor like x, or raise ConfigError in build for this shape."
        advice = "Times are in [0, 1], ends included." if alike else other
        yield f"{trial}: {near(_place_of_forward(trial.backbone, network))}: {what}. {advice}", False
        return
    yield f"the output keeps the shape and dtype of the input {list(trial.shape)}", True
    network.eval()
    plain = network(x, t)
    if told_classes:
        promise = "the output depends on the class, and class -1 means no class"
        if torch.equal(network(*given)[:2], plain[:2]):
            yield f"{promise}, but y changes nothing. Use it, or leave y out of forward", False
        else:
            yield promise, torch.equal(network(x, t, told_classes[0] * 0 - 1), plain)
    seeded(network.train(), *given).square().mean().backward()
    yield (
        "every parameter has a finite gradient",
        all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters()),
    )
    other = trial.backbone.build(trial.shape, trial.classes)
    other.load_state_dict(through_safetensors(network.state_dict()))
    yield (
        "a network loaded from the saved weights gives the same output",
        torch.equal(other.eval()(*given), network.eval()(*given)),
    )
    yield from _state(network, other, *given)


def _require_arguments(backbone: Any, network: nn.Module) -> None:
    """Raise `UserError` if a network cannot be called with samples and times alone."""
    if _takes(network, 2):
        return
    what = "forward needs classes" if _takes(network, 3) else "forward cannot be called with x and t"
    raise UserError(f"{near(_place_of_forward(backbone, network))}: {what}. Write {FORWARD}.")


def _place_of_forward(backbone: Any, network: nn.Module) -> str:
    """Return file and line of a network's forward; of the backbone if torch declares the network."""
    of_torch = type(network).__module__.partition(".")[0] == "torch"
    return place_of(type(backbone) if of_torch else network.forward)


def _takes(network: nn.Module, number: int) -> bool:
    """Whether a network can be called with this number of arguments; true if its signature cannot be read."""
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*[None] * number)
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
