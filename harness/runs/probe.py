"""Try a user's components on a few samples of a run before training: each must return what its family promises.

`harness check` tries more, without a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.components.averages import Term
from harness.core.config import Config
from harness.core.declared import is_own
from harness.core.registry import Component
from harness.core.tried import NUMBER, WHOLE, Instance, Like, attempted, require, times, tried
from harness.data.base import Data
from harness.evaluation.extractors import extractor_of
from harness.evaluation.flow_metrics import FlowMetric
from harness.flow.sampling import NetworkField, Trained
from harness.runs.config import RunConfig

NUMBER_OF_SAMPLES = 4
ROWS = 32
"""Samples to try a metric on, unless it needs more."""
CALLABLE = Instance((Callable,), "a callable that takes images")  # type: ignore[arg-type]
Probe = Callable[[Any, RunConfig, Data], None]


def probe(config: RunConfig, data: Data) -> None:
    """Raise `UserError` for the first component with a wrong return value: class, method, the value, and the right one.

    Does not draw from the global generator.
    """
    extractor = extractor_of(config.evaluate.extractor)
    own = [*users(config), *(users(extractor) if extractor else ())]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for family, try_out in PROBES.items():
            for component in own:
                if component.family == family:
                    try_out(component, config, data)


def users(config: Config) -> Iterator[Component]:
    """Yield the components of a configuration, at any depth, that the user wrote."""
    if isinstance(config, Component) and not is_own(type(config)):
        yield config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Config):
                yield from users(item)


def _batch(data: Data) -> Tensor:
    return data.encode(data.train[torch.arange(min(NUMBER_OF_SAMPLES, len(data.train)))])


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _interpolant(path: Any, config: RunConfig, data: Data) -> None:
    for dtype in (torch.float32, torch.float64):
        t = times(NUMBER_OF_SAMPLES, dtype)
        for method in ("alpha", "sigma", "alpha_dot", "sigma_dot"):
            tried(path, method, t, due=Like(t))


def _prediction(prediction: Any, config: RunConfig, data: Data) -> None:
    x0 = _batch(data)
    t = times(len(x0), torch.float32)
    x1 = torch.randn(x0.shape, generator=_generator())
    path = config.interpolant
    variance = config.noise.variance(config.noise.learn(data))
    xt = path.interpolate(x0, x1, t)
    target = tried(prediction, "target", x0, x1, t, path, variance, due=Like(x0))
    tried(prediction, "network_input", xt, t, path, variance, due=Like(x0))
    tried(prediction, "convert", target, xt, t, path, "velocity", variance, due=Like(x0))


def _weighting(weighting: Any, config: RunConfig, data: Data) -> None:
    path = config.path(config.noise.learn(data))
    for dtype in (torch.float32, torch.float64):
        t = times(NUMBER_OF_SAMPLES, dtype)
        tried(weighting, "weight", t, path, due=Like(t, low=0))


def _loss(loss: Any, config: RunConfig, data: Data) -> None:
    error = torch.randn(_batch(data).shape, generator=_generator())
    tried(loss, "measure", error, due=Like(error.flatten(1).sum(1), low=0))


def _perceptual(loss: Any, config: RunConfig, data: Data) -> None:
    samples = _batch(data)
    tried(loss, "compare", samples, samples.flip(0), due=Like(samples.flatten(1).sum(1), low=0))


def _time_sampler(sampler: Any, config: RunConfig, data: Data) -> None:
    path = config.path(config.noise.learn(data))
    n = NUMBER_OF_SAMPLES
    tried(sampler, "sample", n, _generator(), "cpu", path, due=Like(torch.zeros(n), low=0, high=1))
    u = times(n, torch.float64)
    tried(sampler, "quantile", u, path, due=Like(u, low=0, high=1))
    tried(sampler, "density", u, path, due=Like(u, low=0))


def _noise(noise: Any, config: RunConfig, data: Data) -> None:
    state = tried(noise, "learn", data, due=Instance((Mapping,), "a mapping of tensors by name"))
    for name, value in state.items():
        require(noise, "learn", value, Instance((Tensor,), "a tensor"), str(name))
    variance = tried(noise, "variance", state, due=Instance((Tensor,), "a tensor"))
    shape = data.shape if variance.ndim else ()
    require(noise, "variance", variance, Like(torch.zeros(shape, dtype=variance.dtype), low=0))
    x0 = _batch(data)
    tried(noise, "sample", tuple(x0.shape), _generator(), state, due=Like(torch.zeros(x0.shape)))


def _coupling(coupling: Any, config: RunConfig, data: Data) -> None:
    x0 = _batch(data)
    y = None if data.classes is None else data.classes[: len(x0)]
    x1 = torch.randn(x0.shape, generator=_generator())
    due = Instance((tuple,), "a Pair of data, noise and classes")
    pair = tried(coupling, "pair", x0, x1, _generator(), y, due=due)
    require(coupling, "pair", pair if len(pair) == 3 else len(pair), due)
    for part, value in zip(("the data", "the noise"), pair, strict=False):
        require(coupling, "pair", value, Like(x0), part)
    if y is not None and config.conditional:
        require(coupling, "pair", pair[2], Like(y), "the classes")


def _solver(solver: Any, config: RunConfig, data: Data) -> None:
    nfe = 0 if solver.adaptive else solver.calls(2)
    steps = tried(solver, "steps", nfe, due=WHOLE)
    x = torch.randn(2, *data.shape, generator=_generator())
    times_of = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    state = config.noise.learn(data)
    field = NetworkField(Trained(lambda x, t: 0.1 * x, config, state))  # type: ignore[arg-type]
    tried(solver, "integrate", field, x, times_of, _generator(), due=Like(x))


def _time_grid(grid: Any, config: RunConfig, data: Data) -> None:
    due = torch.zeros(5, dtype=torch.float64)
    tried(grid, "times", 4, config.path(config.noise.learn(data)), due=Like(due, low=0, high=1))


def _network(backbone: Any, config: RunConfig, data: Data) -> None:
    classes = data.num_classes if config.conditional else 0
    module = Instance((nn.Module,), "a torch.nn.Module")
    network = tried(backbone, "build", data.shape, classes, due=module)
    x = _batch(data)
    more = [torch.zeros(len(x), dtype=torch.long)] if config.conditional else []
    output = attempted(backbone, "build", lambda: network(x, times(len(x), torch.float32), *more))
    require(backbone, "build", output, Like(x), "the network's output")


def _time_embedding(embedding: Any, config: RunConfig, data: Data) -> None:
    module = tried(embedding, "build", 32, due=Instance((nn.Module,), "a torch.nn.Module"))
    t = times(NUMBER_OF_SAMPLES, torch.float32)
    output = attempted(embedding, "build", lambda: module(t))
    require(embedding, "build", output, Like(torch.zeros(len(t), 32)), "the module's output")


def _optimizer(optimizer: Any, config: RunConfig, data: Data) -> None:
    due = Instance((torch.optim.Optimizer,), "a torch.optim.Optimizer")
    tried(optimizer, "build", [nn.Parameter(torch.ones(2))], due=due)


def _schedule(schedule: Any, config: RunConfig, data: Data) -> None:
    steps = config.train.steps
    for step in {config.train.warmup_steps, steps - 1}:
        share = tried(schedule, "share", step, config.train.warmup_steps, steps, due=NUMBER)
        require(schedule, "share", torch.tensor(float(share)), Like(torch.tensor(0.0), low=0, high=1), f"step {step}")


def _average(average: Any, config: RunConfig, data: Data) -> None:
    every = config.train.snapshot_every
    snapshots = list(range(every, config.train.steps + 1, every)) if every else []
    terms = tried(average, "terms", config.train.decays, snapshots, due=Instance((list, tuple), "a list of Term"))
    for term in terms:
        require(average, "terms", term, Instance((Term,), "a Term"), "a part")


def _metric(metric: Any, config: RunConfig, data: Data) -> None:
    if isinstance(metric, FlowMetric) or metric.reads == "logits":
        return
    extractor = extractor_of(config.evaluate.extractor)
    number = min(max(ROWS, metric.fewest), len(data.train))
    rows = data.train[torch.arange(number)].double()
    if extractor is not None:
        rows = torch.randn(number, extractor.dimensions, generator=_generator(), dtype=torch.float64)
    y = None if data.classes is None else data.classes[:number]
    summary = tried(metric, "summarise", rows, y, due=Instance((Mapping,), "a mapping of arrays by name"))
    reference = metric.of_reference.summarise(rows, y)
    tried(metric, "compare", summary, reference, due=NUMBER)


def _extractor(extractor: Any, config: RunConfig, data: Data) -> None:
    if data.kind != "image":
        return
    network = tried(extractor, "load", "cpu", due=CALLABLE)
    images = data.train[torch.arange(2)].expand(-1, 3, -1, -1)
    given = attempted(extractor, "load", lambda: network(images))
    pair = Instance((tuple,), "a pair of features and logits")
    require(extractor, "load", given if isinstance(given, tuple) and len(given) == 2 else [given], pair, "images")
    require(extractor, "load", given[0], Like(torch.zeros(2, extractor.dimensions)), "the features of images")


def _dataset(dataset: Any, config: RunConfig, data: Data) -> None:
    x = attempted(dataset, "load", lambda: _batch(data))
    require(dataset, "load", x, Instance((Tensor,), "a tensor"), "encoded samples")
    require(dataset, "load", x, Like(torch.zeros(x.shape)), "encoded samples")
    back = attempted(dataset, "load", lambda: data.decode(x))
    require(dataset, "load", back, Instance((Tensor,), "a tensor"), "decoded samples")


PROBES: dict[str, Probe] = {
    "dataset": _dataset,
    "noise": _noise,
    "interpolant": _interpolant,
    "prediction": _prediction,
    "time_sampler": _time_sampler,
    "weighting": _weighting,
    "loss": _loss,
    "perceptual": _perceptual,
    "coupling": _coupling,
    "time_embedding": _time_embedding,
    "backbone": _network,
    "optimizer": _optimizer,
    "schedule": _schedule,
    "average": _average,
    "time_grid": _time_grid,
    "solver": _solver,
    "extractor": _extractor,
    "metric": _metric,
}
"""{family: the function that tries a member}. A family comes after the families that it uses."""
