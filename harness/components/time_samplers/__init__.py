"""Samplers of training times: every density, and samplers that modify one. Importing this registers them all."""

from harness.components.time_samplers.base import TimeSampler, Uniform
from harness.components.time_samplers.densities import (
    Beta,
    CosMap,
    EDMLogNormal,
    LogitNormal,
    Mode,
    Power,
    UShaped,
    cosmap_density,
    logit_normal_density,
)
from harness.components.time_samplers.derived import LowDiscrepancy, Shifted, Stratified, shift_time

__all__ = [
    "Beta",
    "CosMap",
    "EDMLogNormal",
    "LogitNormal",
    "LowDiscrepancy",
    "Mode",
    "Power",
    "Shifted",
    "Stratified",
    "TimeSampler",
    "UShaped",
    "Uniform",
    "cosmap_density",
    "logit_normal_density",
    "shift_time",
]
