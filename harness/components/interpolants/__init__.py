"""Paths from data to noise: the base class and every member. Importing this package registers them all."""

from harness.components.interpolants.base import (
    EarliestTime,
    Interpolant,
    LatestTime,
    Scaled,
    bisect,
    check_times,
    derivative,
    over,
)
from harness.components.interpolants.diffusion import GVP, Cosine, EDMPath, VarianceExploding, VariancePreserving
from harness.components.interpolants.noise_rates import DDPM, LatentDiffusion, SubVP
from harness.components.interpolants.straight import FlowMatchingOT, Linear, Polynomial

__all__ = [
    "DDPM",
    "GVP",
    "Cosine",
    "EDMPath",
    "EarliestTime",
    "FlowMatchingOT",
    "Interpolant",
    "LatentDiffusion",
    "LatestTime",
    "Linear",
    "Polynomial",
    "Scaled",
    "SubVP",
    "VarianceExploding",
    "VariancePreserving",
    "bisect",
    "check_times",
    "derivative",
    "over",
]
