"""Promises of the components of an objective: interpolants, predictions, weightings, losses and so on.

Each function yields (promise, whether it is kept). An exception counts as one broken promise.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from harness.components.couplings import transport_cost
from harness.components.interpolants import Linear
from harness.components.weightings import Stated
from harness.core.tried import Like, times, tried
from harness.flow.formulation import Formulation
from harness.flow.time_weight import TimeWeight
from harness.testing.probes import TIMES, Promises, generator, like, same, through_safetensors


def interpolant(path: Any) -> Promises:
    inside = times(4, torch.float64)
    for method in ("alpha", "sigma"):
        tried(path, method, inside, due=Like(inside))
    functions = (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot)
    for dtype in (torch.float32, torch.float64):
        t = TIMES.to(dtype)
        yield (
            f"alpha, sigma and their derivatives keep the shape and dtype of t ({dtype})",
            all(like(f(t), t) for f in functions),
        )
        yield (
            f"alpha, sigma and their derivatives are finite on [0, 1] ({dtype})",
            all(f(t).isfinite().all() for f in functions),
        )
    inner = TIMES[4:-4]
    yield (
        "alpha never rises and sigma never falls in t",
        bool((path.alpha(TIMES).diff() <= 1e-12).all() and (path.sigma(TIMES).diff() >= -1e-12).all()),
    )
    yield "the path begins at the data: alpha(0) = 1", abs(path.alpha(TIMES[:1]).item() - 1) < 1e-6
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


def prediction(prediction: Any) -> Promises:
    path = Linear()
    variance = torch.tensor(0.7, dtype=torch.float64)
    x0, x1 = torch.randn(2, 9, 3, generator=generator(), dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    xt = path.interpolate(x0, x1, t)
    output = prediction.target(x0, x1, t, path, variance)
    yield "the target keeps the shape and dtype of the data", like(output, x0)
    expected = {"velocity": path.velocity(x0, x1, t), "data": x0, "noise": x1, "score": -x1 / (t[:, None] * variance)}
    for to, value in expected.items():
        converted = prediction.convert(output, xt, t, path, to, variance)
        yield f"convert turns the target into the exact {to}", torch.allclose(converted, value, rtol=1e-8, atol=1e-8)
        yield (
            f"the factor for errors of the {to} is finite on [0, 1]",
            bool(prediction.factor(TIMES, path, to, variance).isfinite().all()),
        )
    yield (
        "the network's input keeps the shape and dtype of the data",
        like(prediction.network_input(xt, t, path, variance), xt),
    )


def weighting(weighting: Any) -> Promises:
    inside = times(4, torch.float64)
    tried(weighting, "weight", inside, Linear(), due=Like(inside, low=0))
    for dtype in (torch.float32, torch.float64):
        t = TIMES.to(dtype)
        weight = weighting.weight(t, Linear())
        yield f"weights keep the shape and dtype of t ({dtype})", like(weight, t)
        yield _weights(t, weight)
        weighting.weight(t[:7], Linear())
        yield f"the same times give the same weights ({dtype})", torch.equal(weighting.weight(t, Linear()), weight)
    yield f"stated_for is one of {', '.join(get_args(Stated))}", weighting.stated_for in get_args(Stated)
    mean = TimeWeight(Formulation(weighting=weighting), {}).mean
    yield "the mean weight over the training times is positive and finite", 0 < mean < float("inf")


def _weights(t: Tensor, weight: Tensor) -> tuple[str, bool]:
    """The promise that weights are finite and not negative; if it is broken, with the worst time and what to do."""
    dtype = str(t.dtype).removeprefix("torch.")
    if (weight.isfinite() & (weight >= 0)).all():
        return f"weights are finite and not negative on [0, 1] ({dtype})", True
    infinite = ~weight.isfinite()
    worst = int(infinite.int().argmax() if infinite.any() else weight.argmin())
    bound = "max=0.99" if t[worst] > 0.5 else "min=0.01"
    advice = f"keep the time away from it, like t.clamp({bound})" if infinite.any() else "add .clamp(min=0)"
    value = f"weight(t = {t[worst]:g}) = {weight[worst]:.2g} ({dtype})"
    return f"{value}, but weights must be finite and not negative on [0, 1]: {advice}", False


def loss(loss: Any) -> Promises:
    error = torch.randn(6, 3, 2, 2, generator=generator(), requires_grad=True)
    tried(loss, "measure", error.detach(), due=Like(torch.zeros(6), low=0))
    measured = loss.measure(error)
    yield "the loss of errors [n, ...] has shape [n]", tuple(measured.shape) == (6,)
    yield (
        "the loss is never negative, and zero for an error of zero",
        bool((measured >= 0).all()) and bool((loss.measure(torch.zeros(2, 3)).abs() < 1e-6).all()),
    )
    yield (
        "if squared is True, twice the error gives four times the loss",
        not loss.squared or torch.allclose(loss.measure(2 * error), 4 * measured, rtol=1e-4),
    )
    measured.mean().backward()
    yield "the gradient is finite", error.grad is not None and bool(error.grad.isfinite().all())
    flat = torch.zeros(2, 3, requires_grad=True)
    loss.measure(flat).mean().backward()
    yield "the gradient is finite for an error of zero", flat.grad is not None and bool(flat.grad.isfinite().all())


def perceptual(loss: Any) -> Promises:
    samples, targets = torch.rand(2, 4, 3, 16, 16, generator=generator()).mul(2).sub(1).unbind()
    tried(loss, "compare", samples, targets, due=Like(torch.zeros(4), low=0))
    samples.requires_grad_()
    compared = loss.compare(samples, targets)
    yield "the loss of samples [n, ...] has shape [n]", tuple(compared.shape) == (4,)
    yield (
        "the loss is never negative, and zero for samples that are their targets",
        bool((compared >= 0).all()) and bool((loss.compare(targets, targets).abs() < 1e-6).all()),
    )
    yield "the loss of samples that are not their targets is above zero", bool((compared > 0).all())
    compared.mean().backward()
    given = samples.grad is not None and bool(samples.grad.isfinite().all()) and bool(samples.grad.any())
    yield "the gradient of samples that are not their targets is finite and not zero", given
    same = targets.clone().requires_grad_()
    loss.compare(same, targets).mean().backward()
    flat = same.grad is not None and bool(same.grad.isfinite().all())
    yield "the gradient is finite for samples that are their targets", flat


def time_sampler(sampler: Any) -> Promises:
    path = Linear()
    n = 4096
    first, _, second = (sampler.sample(number, generator(), "cpu", path) for number in (n, 7, n))
    yield (
        "times are float32 of shape [n] in [0, 1]",
        first.shape == (n,) and first.dtype == torch.float32 and bool(((first >= 0) & (first <= 1)).all()),
    )
    yield "a generator in the same state gives the same times", torch.equal(first, second)
    u = torch.linspace(0.01, 0.99, 197, dtype=torch.float64)
    yield "quantile never falls", bool((sampler.quantile(u, path).diff() >= 0).all())
    slope = (sampler.quantile(u + 1e-5, path) - sampler.quantile(u - 1e-5, path)) / 2e-5
    yield (
        "density is the derivative of the distribution function, the inverse of quantile",
        torch.allclose(sampler.density(sampler.quantile(u, path), path) * slope, torch.ones_like(u), rtol=1e-3),
    )
    counts = torch.histc(first.double(), 10, 0, 1) / n
    grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    inner = (grid[1:] + grid[:-1]) / 2
    expected = sampler.density(inner, path).view(10, -1).mean(1) / 10
    yield "sampled times follow the density", bool((counts - expected).abs().max() < 0.04)


def noise(noise: Any) -> Promises:
    data = torch.randn(500, 2, 3, generator=generator(7)) * torch.linspace(0.2, 2, 6).view(2, 3)
    state = noise.fit(data)
    yield "fit returns {name: tensor}", all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    restored = through_safetensors(state)
    x1, _, again = (
        noise.sample((n, 2, 3), generator(), s) for n, s in ((20_000, state), (7, state), (20_000, restored))
    )
    yield "sampling does not change the state", same(state, restored)
    yield (
        "samples are float32 of the shape that was asked for",
        tuple(x1.shape) == (20_000, 2, 3) and x1.dtype == torch.float32,
    )
    yield "samples are finite", bool(x1.isfinite().all())
    yield "the same generator state and the saved state give the same samples", torch.equal(x1, again)
    variance = noise.variance(state).double().expand(2, 3)
    spread = x1.double().var(0)
    yield "samples have a mean of zero", bool((x1.double().mean(0).abs() < 5 * (spread / 20_000).sqrt()).all())
    yield "samples have the variance that variance(state) declares", torch.allclose(spread, variance, rtol=0.15)


def coupling(coupling: Any) -> Promises:
    x0, x1 = (torch.randn(12, 2, 2, generator=generator(i)) for i in (1, 2))
    y = torch.arange(12) % 3
    before = [value.clone() for value in (x0, x1, y)]
    data, noise, _ = coupling.pair(x0, x1, generator(), y)
    coupling.pair(x0[:7], x1[:7], generator(3), y[:7])
    yield "the coupling does not change the batch that it is given", all(map(torch.equal, (x0, x1, y), before))
    yield "pairs keep the shape and dtype of the batch", like(data, x0) and like(noise, x1)
    yield (
        "a generator in the same state gives the same pairs",
        all(torch.equal(a, b) for a, b in zip((data, noise), coupling.pair(x0, x1, generator(), y)[:2], strict=True)),
    )
    yield "the transport cost of the pairs is finite", bool(transport_cost(data, noise).isfinite())
