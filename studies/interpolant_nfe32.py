"""Which path gives the best samples in 32 calls, each with the time grid that suits it best?

Expected before it ran: as at convergence, except for `vp` and `ve`, whose paths bend more.
"""

from harness.ablation.design.space import one_of
from harness.ablation.design.study import Study, load_study
from harness.ablation.design.tuned import Tuned

AXES = load_study("interpolant_grid").axes

STUDY = Study(
    question="Which interpolant gives the best samples at 32 calls of Euler's method, each on its best of three time "
    "grids?",
    baseline="linear",
    arms=AXES["path"],
    # Three trials try the three grids on one training of each path.
    tuned=Tuned(spaces={"digits": {"evaluate.time_grid": one_of(*AXES["evaluate.time_grid"])}}, trials=3, rungs=2),
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
