"""Solvers from noise to data: the base classes and every member. Importing this package registers them all."""

from harness.components.solvers.base import Field, OneStepSolver, Solver
from harness.components.solvers.ordinary import RK4, AdamsBashforth2, DormandPrince5, Euler, Heun, Midpoint
from harness.components.solvers.stochastic import Ancestral, EulerMaruyama, HeunSDE, StochasticSolver

__all__ = [
    "RK4",
    "AdamsBashforth2",
    "Ancestral",
    "DormandPrince5",
    "Euler",
    "EulerMaruyama",
    "Field",
    "Heun",
    "HeunSDE",
    "Midpoint",
    "OneStepSolver",
    "Solver",
    "StochasticSolver",
]
