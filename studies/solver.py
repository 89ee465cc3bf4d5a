"""Which solver and time grid give the best samples in few calls of one trained network?"""

from collections.abc import Mapping

from harness.ablation.design.study import Study

SHIFTED: dict[str, object] = {"evaluate.time_grid": {"name": "shifted", "shift": 3}}
HEUN: dict[str, object] = {"evaluate.solver": "heun", "evaluate.nfe": [2, 4, 8, 16, 32]}
RK4: dict[str, object] = {"evaluate.solver": "rk4", "evaluate.nfe": [4, 8, 16, 32]}

ARMS: Mapping[str, Mapping[str, object]] = {
    "euler": {"evaluate.solver": "euler"},
    "euler shifted": {"evaluate.solver": "euler", **SHIFTED},
    "heun": HEUN,
    "heun shifted": HEUN | SHIFTED,
    "rk4": RK4,
    "rk4 shifted": RK4 | SHIFTED,
    "dopri5 1e-2": {"evaluate.solver": {"name": "dopri5", "rtol": 1e-2, "atol": 1e-2}, "evaluate.nfe": [0]},
    "dopri5 1e-4": {"evaluate.solver": {"name": "dopri5", "rtol": 1e-4, "atol": 1e-4}, "evaluate.nfe": [0]},
}

STUDY = Study(
    question="Which solver and time grid give the best samples of the same trained network for the same number of "
    "calls?",
    baseline="euler",
    # More samples at the NFE of the verdicts.
    arms={name: {**arm, "evaluate.more_samples": [{"nfe": 8, "num_samples": 800}]} for name, arm in ARMS.items()},
    nfe=8,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
