"""How few calls of the network give good samples, and how much quality do fewer calls cost?"""

from harness.ablation.design.search import Search
from harness.ablation.design.space import log, one_of

# Settings that bend a flow's paths, and the solver that follows them.
PATHS = {
    "interpolant": one_of("linear", "gvp", "cosine"),
    "coupling": one_of("independent", "exact_ot"),
    "evaluate.solver": one_of("euler", "ab2", "heun", "midpoint"),
}

SEARCH = Search(
    question="Which settings give the best samples, and which give samples that are nearly as good in fewer calls?",
    spaces={
        "points": {**PATHS, "train.learning_rate": log(5e-4, 8e-3), "1 - train.ema_decay": log(1e-3, 3e-2)},
        "digits": {**PATHS, "train.learning_rate": log(2e-3, 2e-2), "1 - train.ema_decay": log(0.02, 0.1)},
    },
    fixed={"evaluate.nfe": [2, 4, 8, 16, 32]},
    against="calls",
    pruner=None,
    nfe=32,
    trials=24,
    smallest_difference=0.1,
    looks=(5, 10, 20),
    seed=1000,
)
