"""Samplers of training times: every density, and samplers that modify one. Importing this registers them all."""

from harness.components.time_samplers.base import TimeSampler, Uniform
from harness.components.time_samplers.densities import (
    Beta,
    CosMap,
    EDMLogNormal,
    LogitNormal,
    LogUniform,
    Mode,
    Power,
    UShaped,
    cosmap_density,
    logit_normal_density,
)
from harness.components.time_samplers.derived import LowDiscrepancy, Shifted, Stratified, Truncated, shift_time

__all__ = [
    "Beta",
    "CosMap",
    "EDMLogNormal",
    "LogUniform",
    "LogitNormal",
    "LowDiscrepancy",
    "Mode",
    "Power",
    "Shifted",
    "Stratified",
    "TimeSampler",
    "Truncated",
    "UShaped",
    "Uniform",
    "cosmap_density",
    "logit_normal_density",
    "shift_time",
]
