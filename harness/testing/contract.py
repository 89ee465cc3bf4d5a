"""What every component promises, family by family: run over all the harness's own, and over yours by `harness check`.

Each function yields (promise, whether it is kept). An exception breaks the promise that it met.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.components.couplings import transport_cost
from harness.components.interpolants import Linear
from harness.components.time_samplers import Uniform
from harness.core.config import digest, to_dict
from harness.core.errors import ConfigError
from harness.core.registry import Component, about, build
from harness.core.rng import seed_layers
from harness.flow.formulation import Formulation
from harness.flow.sampling import NetworkField, Trained
from harness.testing.evaluation import extractor_promises, metric_promises
from harness.testing.promises import Promises, generator
from harness.training.buffers import buffers_apart

TIMES = torch.linspace(0, 1, 201, dtype=torch.float64)


def promises(component: Component) -> list[tuple[str, bool]]:
    """Every promise of a component's family, and whether it is kept."""
    kept: list[tuple[str, bool]] = []
    for check in (_any, _FAMILIES[component.family]):
        try:
            kept.extend(check(component))
        except Exception as error:  # whatever a user's component raises
            after = kept[-1][0] if kept else "the start"
            kept.append((f"after '{after}': {type(error).__name__}: {error}", False))
    return kept


def _any(component: Component) -> Promises:
    plain, said = json.loads(json.dumps(to_dict(component))), about(type(component))
    again = build(component.family, plain)
    yield "its configuration goes through JSON and back", again == component
    yield "its digest survives that", digest(again) == digest(component)
    yield "it can be a key, as frozen dataclasses can", len({component, again}) == 1
    yield "its docstring says what it is", bool(said) and not said.startswith(f"{type(component).__name__}(")
    yield "its formula, where there is one, can be written out", bool(component.written_out())


def _interpolant(path: Any) -> Promises:
    functions = (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot)
    for dtype in (torch.float32, torch.float64):
        t = TIMES.to(dtype)
        yield (
            f"alpha, sigma and their derivatives keep shape and dtype ({dtype})",
            all(_like(f(t), t) for f in functions),
        )
        yield f"they are finite on [0, 1] ({dtype})", all(f(t).isfinite().all() for f in functions)
    inner = TIMES[4:-4]
    yield (
        "alpha falls and sigma rises",
        bool((path.alpha(TIMES).diff() <= 1e-12).all() and (path.sigma(TIMES).diff() >= -1e-12).all()),
    )
    yield "x_0 is the data: alpha(0) = 1", abs(path.alpha(TIMES[:1]).item() - 1) < 1e-6
    step = 1e-6
    for name in ("alpha", "sigma"):
        slope = (getattr(path, name)(inner + step) - getattr(path, name)(inner - step)) / (2 * step)
        derivative = getattr(path, f"{name}_dot")(inner)
        yield f"{name}_dot is the derivative of {name}", torch.allclose(derivative, slope, rtol=1e-4, atol=1e-6)
    yield "time_of_log_snr inverts log_snr", torch.allclose(path.time_of_log_snr(path.log_snr(inner)), inner, atol=1e-6)
    data, noise = torch.randn(2, 5, 3, 2, generator=generator(), dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    moved = (path.interpolate(data, noise, t + step) - path.interpolate(data, noise, t - step)) / (2 * step)
    yield (
        "velocity is the derivative of interpolate",
        torch.allclose(path.velocity(data, noise, t), moved, rtol=1e-4, atol=1e-5),
    )


def _prediction(prediction: Any) -> Promises:
    path, variance = Linear(), torch.tensor(0.7, dtype=torch.float64)
    x0, x1 = torch.randn(2, 9, 3, generator=generator(), dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    xt, output = path.interpolate(x0, x1, t), prediction.target(x0, x1, t, path, variance)
    yield "its target has the data's shape and dtype", _like(output, x0)
    expected = {"velocity": path.velocity(x0, x1, t), "data": x0, "noise": x1, "score": -x1 / (t[:, None] * variance)}
    for to, value in expected.items():
        converted = prediction.convert(output, xt, t, path, to, variance)
        yield f"its target converts into the {to} exactly", torch.allclose(converted, value, rtol=1e-8, atol=1e-8)
        yield (
            f"the factor of an error in the {to} is finite",
            bool(prediction.factor(TIMES, path, to, variance).isfinite().all()),
        )
    yield "the network's input has the data's shape", _like(prediction.network_input(xt, t, path, variance), xt)


def _weighting(weighting: Any) -> Promises:
    for dtype in (torch.float32, torch.float64):
        t = TIMES.to(dtype)
        weight = weighting.weight(t, Linear())
        yield f"weights keep shape and dtype ({dtype})", _like(weight, t)
        yield f"they are finite and not negative on [0, 1] ({dtype})", bool((weight.isfinite() & (weight >= 0)).all())
        weighting.weight(t[:7], Linear())
        yield f"the times alone decide ({dtype})", torch.equal(weighting.weight(t, Linear()), weight)
    mean = weighting.expectation(Uniform(), Linear())
    yield "their mean is positive and finite", 0 < mean < float("inf")


def _loss(loss: Any) -> Promises:
    error = torch.randn(6, 3, 2, 2, generator=generator(), requires_grad=True)
    measured = loss.measure(error)
    yield "one number for each sample", tuple(measured.shape) == (6,)
    yield (
        "not negative, and zero without an error",
        bool((measured >= 0).all()) and bool((loss.measure(torch.zeros(2, 3)).abs() < 1e-6).all()),
    )
    measured.mean().backward()
    yield "finite gradients", error.grad is not None and bool(error.grad.isfinite().all())
    flat = torch.zeros(2, 3, requires_grad=True)
    loss.measure(flat).mean().backward()
    yield "finite gradients without an error", flat.grad is not None and bool(flat.grad.isfinite().all())


def _time_sampler(sampler: Any) -> Promises:
    path, n = Linear(), 4096
    first, _, second = (sampler.sample(number, generator(), "cpu", path) for number in (n, 7, n))
    yield (
        "times are float32 [n] in [0, 1]",
        first.shape == (n,) and first.dtype == torch.float32 and bool(((first >= 0) & (first <= 1)).all()),
    )
    yield "the generator alone decides", torch.equal(first, second)
    u = torch.linspace(0.01, 0.99, 197, dtype=torch.float64)
    yield "quantiles rise", bool((sampler.quantile(u, path).diff() >= 0).all())
    slope = (sampler.quantile(u + 1e-5, path) - sampler.quantile(u - 1e-5, path)) / 2e-5
    yield (
        "the density is the slope of the distribution function",
        torch.allclose(sampler.density(sampler.quantile(u, path), path) * slope, torch.ones_like(u), rtol=1e-3),
    )
    counts = torch.histc(first.double(), 10, 0, 1) / n
    grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    inner = (grid[1:] + grid[:-1]) / 2
    expected = sampler.density(inner, path).view(10, -1).mean(1) / 10
    yield "the times follow the density", bool((counts - expected).abs().max() < 0.04)


def _noise(noise: Any) -> Promises:
    data = torch.randn(500, 2, 3, generator=generator(7)) * torch.linspace(0.2, 2, 6).view(2, 3)
    state = noise.fit(data)
    yield "its state is tensors by name", all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    restored = _through_safetensors(state)
    x1, _, again = (
        noise.sample((n, 2, 3), generator(), s) for n, s in ((20_000, state), (7, state), (20_000, restored))
    )
    yield "sampling leaves its state as it was", _same(state, restored)
    yield "samples are float32 of the asked shape", tuple(x1.shape) == (20_000, 2, 3) and x1.dtype == torch.float32
    yield "finite", bool(x1.isfinite().all())
    yield "the generator and the saved state alone decide", torch.equal(x1, again)
    variance = noise.variance(state).double().expand(2, 3)
    spread = x1.double().var(0)
    yield "mean zero", bool((x1.double().mean(0).abs() < 5 * (spread / 20_000).sqrt()).all())
    yield "the variance that it declares", torch.allclose(spread, variance, rtol=0.15)


def _coupling(coupling: Any) -> Promises:
    x0, x1 = (torch.randn(12, 2, 2, generator=generator(i)) for i in (1, 2))
    y = torch.arange(12) % 3
    before = [value.clone() for value in (x0, x1, y)]
    data, noise, _ = coupling.pair(x0, x1, generator(), y)
    coupling.pair(x0[:7], x1[:7], generator(3), y[:7])
    yield "it leaves the batch as it was", all(map(torch.equal, (x0, x1, y), before))
    yield "pairs have the batch's shape and dtype", _like(data, x0) and _like(noise, x1)
    yield (
        "the generator alone decides",
        all(torch.equal(a, b) for a, b in zip((data, noise), coupling.pair(x0, x1, generator(), y)[:2], strict=True)),
    )
    yield "the cost is finite", bool(transport_cost(data, noise).isfinite())


def _solver(solver: Any) -> Promises:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return x + t.view(-1, 1)

    nfe = 0 if solver.adaptive else 8 * solver.calls_per_step
    times = torch.linspace(1, 0, solver.steps(nfe) + 1, dtype=torch.float64)
    start, ends = torch.randn(5, 3, generator=generator(), dtype=torch.float64), []
    for _ in range(2):
        field = NetworkField(Trained(network, Formulation(), {}))  # type: ignore[arg-type]
        ends.append(solver.integrate(field, start, times, generator()))
        yield "it spends the calls that it declares", solver.adaptive or field.calls == nfe
    yield "it keeps shape and dtype", _like(ends[0], start)
    yield "the generator alone decides", torch.equal(ends[0], ends[1])


def _time_grid(grid: Any) -> Promises:
    for steps in (1, 2, 7, 32):
        times = grid.times(steps, Linear())
        yield f"{steps} steps have {steps + 1} times", tuple(times.shape) == (steps + 1,)
        yield f"they fall from 1 to 0 ({steps})", times[0] == 1 and times[-1] == 0 and bool((times.diff() < 0).all())


def _time_embedding(embedding: Any) -> Promises:
    module = embedding.build(32)
    vectors = module(TIMES.float())
    yield "a vector for each time", tuple(vectors.shape) == (len(TIMES), 32)
    yield "finite", bool(vectors.isfinite().all())
    yield "times that differ are told apart", bool((torch.cdist(vectors, vectors) + torch.eye(len(TIMES)) > 1e-6).all())


def _backbone(backbone: Any) -> Promises:
    fitting = []
    for shape in ((1, 8, 8), (3, 32, 32), (16,), (12, 4)):
        try:
            fitting.append((shape, backbone.build(shape, 3)))
        except ConfigError:
            continue
    yield "it fits images [1, 8, 8] or [3, 32, 32], vectors [16] or sequences [12, 4]", bool(fitting)
    for shape, network in fitting:
        x, t = torch.randn(3, *shape, generator=generator()), torch.tensor([0.0, 0.5, 1.0])
        for parameter in network.parameters():  # networks whose last layer starts at zero have no gradient behind it
            torch.nn.init.normal_(parameter, std=0.05, generator=generator())
        y = torch.tensor([0, 2, -1])
        yield f"its output is shaped like its input {list(shape)}", _like(_seeded(network, x, t, y), x)
        network.eval()
        output, plain = network(x, t, y), network(x, t)
        yield (
            "classes count, and -1 is none",
            not torch.equal(output[:2], plain[:2]) and torch.equal(network(x, t, y * 0 - 1), plain),
        )
        _seeded(network.train(), x, t, y).square().mean().backward()
        yield (
            "every parameter has a finite gradient",
            all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters()),
        )
        other = backbone.build(shape, 3)
        other.load_state_dict(_through_safetensors(network.state_dict()))
        yield "its weights are saved and loaded", torch.equal(other.eval()(x, t, y), network.eval()(x, t, y))
        yield from _state(network, other, x, t, y)


def _state(network: nn.Module, other: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> Promises:
    """What training relies on when it measures a network, saves it and goes on; `other` was given its state."""
    saved = _through_safetensors(network.state_dict())
    network.eval()(x[:2], t[:2], y[:2])
    yield "in evaluation it changes nothing that it keeps", _same(network.state_dict(), saved)
    outputs = [_seeded(one.train(), x, t, y) for one in (network, other)]
    yield (
        "what it remembers is in its state_dict",
        torch.equal(*outputs) and _same(network.state_dict(), other.state_dict()),
    )
    with buffers_apart(network):
        _seeded(network, x[:2].flip(0), t[:2], y[:2])
    _seeded(network.eval(), x[1:], t[1:], y[1:])
    outputs = [_seeded(one.train(), x, t, y) for one in (network, other)]
    yield (
        "a look between two steps leaves it as it was",
        torch.equal(*outputs) and _same(network.state_dict(), other.state_dict()),
    )


def _dataset(dataset: Any) -> Promises:
    data, again = dataset.load(), dataset.load()
    batch = data.train[torch.arange(min(64, len(data.train)))]
    yield "it holds samples to train on", len(data.train) > 1
    yield "it loads the same twice", data.fingerprint == again.fingerprint
    encoded = data.encode(batch)
    yield "encoded samples are finite float32", encoded.dtype == torch.float32 and bool(encoded.isfinite().all())
    yield "decode inverts encode", torch.allclose(data.decode(encoded).double(), batch.double(), atol=1e-4)
    if data.augment:
        before = batch.clone()
        first, _, second = (data.augment(part, generator()) for part in (batch, batch[:7], batch))
        yield "the generator alone decides what augmentation does", torch.equal(first, second)
        yield "augmentation leaves the stored samples as they were", torch.equal(batch, before)


def _optimizer(optimizer: Any) -> Promises:
    weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    made = optimizer.build([weight])
    for group in made.param_groups:
        group["lr"] = 0.05
    for _ in range(200):
        made.zero_grad()
        weight.square().sum().backward()
        made.step()
    yield "it comes down a bowl", bool((weight.abs() < 0.3).all())
    before, made.found_inf = weight.detach().clone(), torch.tensor(1.0)
    made.step()
    yield "it skips a step that was found bad", torch.equal(weight, before)


def _schedule(schedule: Any) -> Promises:
    shares = [schedule.share(step, 10, 100) for step in range(10, 100)]
    yield "shares of the peak are in [0, 1]", all(0 <= share <= 1 for share in shares)
    yield "it begins at the peak", shares[0] > 0.9
    yield "it never rises", all(later <= earlier for earlier, later in itertools.pairwise(shares))


def _average(average: Any) -> Promises:
    terms = average.terms([0.9, 0.99], list(range(10, 1001, 10)))
    yield "there is something that it is the sum of", bool(terms)
    yield "its shares sum to one", abs(sum(term.share for term in terms) - 1) < 0.01


def _same(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


def _seeded(network: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The network's output, with layers such as dropout drawing the same each time."""
    seed_layers(0, "cpu")
    return network(x, t, y)


def _like(value: Tensor, other: Tensor) -> bool:
    return value.shape == other.shape and value.dtype == other.dtype and value.device == other.device


def _through_safetensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from safetensors.torch import load, save

    return load(save({name: value.contiguous() for name, value in tensors.items()})) if tensors else {}


_FAMILIES: dict[str, Callable[[Any], Promises]] = {
    "interpolant": _interpolant,
    "prediction": _prediction,
    "weighting": _weighting,
    "loss": _loss,
    "time_sampler": _time_sampler,
    "noise": _noise,
    "coupling": _coupling,
    "solver": _solver,
    "time_grid": _time_grid,
    "time_embedding": _time_embedding,
    "backbone": _backbone,
    "optimizer": _optimizer,
    "schedule": _schedule,
    "average": _average,
    "dataset": _dataset,
    "extractor": extractor_promises,
    "metric": metric_promises,
}
