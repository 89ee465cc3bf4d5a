"""A formulation in words, formulas and a picture; finds formulations that train the same.

The effective weight at log SNR lambda is w(t) p(t) |dt / d lambda|, with the weighted error converted to the error of
the noise: one curve that combines weighting, time density, loss space and prediction. Arms with the same curve and the
same interpolant, prediction, noise and coupling have the same expected objective; otherwise they share the curve only
(Kingma & Gao 2023).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.components.interpolants import derivative
from harness.components.predictions import SPACES
from harness.core.drawing import legend_below, plain_log, png, shown, write_picture
from harness.core.errors import listed
from harness.core.registry import Component
from harness.data.base import load
from harness.flow.time_weight import TimeWeight
from harness.runs.config import RunConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_SNR = torch.linspace(-9, 9, 721, dtype=torch.float64)
SAME = 2e-3
"""Relative difference below which two curves are the same."""


@dataclass(frozen=True)
class Explained:
    """A formulation with the noise state learned from its data."""

    config: RunConfig
    noise_state: Mapping[str, Tensor]

    @classmethod
    def of(cls, config: RunConfig) -> Explained:
        """Read the data set, since the noise may be fitted to it."""
        data = load(config.dataset)
        return cls(config, config.noise.learn(data))

    @functools.cached_property
    def time_weight(self) -> TimeWeight:
        """Weight of an error at a time."""
        return TimeWeight(self.config.learned(), self.noise_state)

    def effective_share(self) -> float:
        """Return (E w)^2 / E w^2 of the weights in a batch, in (0, 1]: the effective share of its samples."""
        return self.time_weight.effective_share()

    def effective_weight(self) -> Tensor:
        """Return the weight over `LOG_SNR`, up to a constant factor; NaN at levels that the path does not reach."""
        f = self.config
        path = self.time_weight.path
        variance = self.time_weight.variance.double().mean()
        if f.reflow.distil:  # it trains at one level only
            return torch.full_like(LOG_SNR, torch.nan)
        t = path.time_of_log_snr(LOG_SNR)
        # by autograd: finite differences would leave the path at its ends, and log_snr_dot is clamped
        speed = -1 / derivative(path.log_snr, t)
        weight = self.time_weight(t) * f.time_sampler.density(t, path) * speed
        of_noise = SPACES["noise"].determinant(t, f.interpolant)
        noise_error = of_noise / f.prediction.determinant(t, f.interpolant, variance)
        measured_error = f.prediction.factor(t, f.interpolant, f.space, variance)
        on_path = (t > 0) & (t < 1) & (path.log_snr(t) - LOG_SNR).abs().lt(1e-6)
        return torch.where(on_path, weight * (measured_error / noise_error).square(), torch.nan)

    def lines(self) -> list[tuple[str, str, str]]:
        """Return (part, formula, source) in the order in which training uses the parts."""
        f = self.config
        parts: list[Component] = [f.noise, f.coupling, f.time_sampler, f.interpolant, f.prediction, f.loss, f.weighting]
        rows = [(f"{part.family} {part.name}", part.written_out(), part.source) for part in parts]
        space = "the network's output" if f.objective.space == "output" else f"the {f.space} computed from the output"
        if f.parent:
            way = f"by {f.reflow.solver.name} at NFE {f.reflow.nfe}"
            made = f"{f.reflow.number:,} of the {f.parent.rectified}-rectified flow, {way}"
            rows[1] = ("pairs", made, f.reflow.source)
        if f.reflow.distil:
            unused = {f.time_sampler.family, f.weighting.family, *([f.loss.family] if f.perceptual else [])}
            asked = [row for row in rows if row[0].partition(" ")[0] not in unused]
            objective = f"E [loss(e)], e the error of {space}"
            if f.perceptual:
                asked.append((f"perceptual {f.perceptual.name}", f.perceptual.written_out(), f.perceptual.source))
                objective = "E [perceptual(x1 - v, x0)], x1 - v the sample of one step"
            return [*asked, ("x_t", "sigma x1, at t = 1 only", f.reflow.source), ("objective", objective, "")]
        return [*rows, *self._objective(space)]

    def _objective(self, space: str) -> list[tuple[str, str, str]]:
        """Return the lines of the whole objective; `space` names the error in words."""
        f = self.config
        std = self.time_weight.variance.mean().sqrt().item()
        rows = [
            ("x_t", "alpha x0 + sigma x1", ""),
            ("log SNR", f"2 log(alpha / (sigma sd)), sd of the noise {std:.4g}", ""),
        ]
        weight = "w(t)"
        if f.stated_for != f.space:
            weight = "w(t) k(t)^2"
            clamped = f"t clamped to [{f.prediction.t_min:g}, {f.prediction.t_max:g}]"
            ratio = f"the error of the {f.stated_for}, for which w is stated, over the error of {space}"
            rows.append(("k(t)", f"{ratio}; {clamped}", ""))
        divided = f" / {self.time_weight.mean:.6g}" if f.objective.normalise_weight else ""
        corrected = " / p(t)" if f.time_sampler.importance_correct else ""
        share = f"{percent(self.effective_share())} of a batch: (E W)^2 / E W^2, W the whole weight of loss(e)"
        return [
            *rows,
            ("objective", f"E [{weight}{divided}{corrected} loss(e)], e the error of {space}", ""),
            ("effective share", share, "Kish 1965"),
        ]


def percent(share: float) -> str:
    """Return a share as a percentage, like `56 %` or `0.3 %`."""
    return f"{100 * share:.0f} %" if share > 0.0995 else f"{100 * share:.2g} %"


def alike(arms: Mapping[str, Explained]) -> list[str]:
    """Return a line for each group of different arms with the same objective or the same curve."""
    curves = {name: arm.effective_weight() for name, arm in arms.items()}
    lines: list[str] = []
    for group in _groups(list(arms), lambda a, b: _same_curve(curves[a], curves[b])):
        objectives = _groups(group, lambda a, b: _beside_curve(arms[a].config) == _beside_curve(arms[b].config))
        for same in objectives:
            for own in _groups(same, lambda a, b: _learner(arms[a].config) == _learner(arms[b].config)):
                if len({arms[name].config.formulation for name in own}) > 1:
                    lines.append(
                        f"{listed(own)}: the same expected objective; only the variance of its gradient differs."
                    )
        if len(objectives) > 1:
            lines.append(
                f"{listed(same[0] for same in objectives)}: the same weight over log SNR, on different formulations."
            )
    return lines


def compared(arms: Mapping[str, Explained]) -> list[str]:
    """Return the lines of `alike`, or one line that says that there is none."""
    return alike(arms) or ["no two arms have the same objective or the same weight over log SNR."]


def draw(arms: Mapping[str, Explained], path: Path) -> None:
    """Write the effective weights over log SNR as a PNG, as `draw_weights` draws them."""
    write_picture(path, lambda: _curves(arms))


def _curves(arms: Mapping[str, Explained]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    draw_weights(axes, arms, [{"ls": ("-", "--", ":")[i % 3], "color": f"C{i % 10}"} for i in range(len(arms))])
    if len(arms) > 1:
        legend_below(figure, axes.get_legend_handles_labels()[0])
    return png(figure, dpi=150)


def draw_weights(axes: Axes, arms: Mapping[str, Explained], styles: Iterable[Mapping[str, Any]]) -> None:
    """Draw the effective weights over log SNR, each scaled to 1 where the noise is as strong as the data.

    `styles` are Matplotlib's settings of the arms' lines.
    """
    for (name, arm), style in zip(arms.items(), styles, strict=True):
        curve = arm.effective_weight()
        middle = curve[LOG_SNR.abs().argmin()]
        axes.plot(LOG_SNR, curve / middle, label=shown(name), lw=1.6, **style)
    axes.set_yscale("log")
    low, high = (min(max(end, 1e-6), 1e6) for end in axes.get_ylim())
    plain_log(axes, "y", low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("log SNR (noise left, data right)")
    axes.set_ylabel("effective weight of the noise error")
    axes.grid(alpha=0.3)


def _beside_curve(f: RunConfig) -> tuple[object, ...]:
    """Return the parts that must agree, besides the curve, for the same expected objective.

    Losses that are not squared also need the same space.
    """
    return f.reflow, f.interpolant, f.prediction, f.noise, f.coupling, f.loss, f.loss.squared or f.space


def _learner(f: RunConfig) -> tuple[object, ...]:
    """Return network and data; arms in which they differ have different objectives."""
    return f.backbone, f.dataset


def _same_curve(a: Tensor, b: Tensor) -> bool:
    both = (a > 0) & (b > 0)
    if not both.any() or not torch.equal(a > 0, b > 0):
        return False
    ratio = (a[both] / b[both]).log()
    return bool((ratio - ratio.median()).abs().max() < SAME)


def _groups(names: list[str], same: Callable[[str, str], bool]) -> list[list[str]]:
    """Return `names` in groups; each member is the same as the first of its group."""
    groups: list[list[str]] = []
    for name in names:
        home = next((group for group in groups if same(group[0], name)), None)
        groups.append([name]) if home is None else home.append(name)
    return groups
