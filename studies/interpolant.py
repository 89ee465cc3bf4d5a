"""Which path from data to noise is learnt best? The solver is so accurate that its errors do not matter.

Expected before it ran: `linear`, `fm_ot` and `cosine` tie, because the paths differ little in the levels of noise that
they train; `ve` without `edm`'s scaling is worst.
"""

from harness.ablation.design.study import Study, load_study

CONVERGED = {"evaluate.solver": {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}, "evaluate.nfe": [0]}

STUDY = Study(
    question="Which interpolant gives the best samples at convergence, with the velocity predicted on each?",
    baseline="linear",
    arms={name: {**path, **CONVERGED} for name, path in load_study("interpolant_grid").axes["path"].items()},
    at_scale={"digits": {"evaluate.num_samples": 800}},
    nfe=0,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
