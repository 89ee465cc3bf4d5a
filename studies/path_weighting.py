"""Does the best weighting of times depend on the path?

Expected before it ran: the weighting matters more than the path, and depends on it: `cosine` weights the middle
already.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="How much do the interpolant and the weighting of the velocity error matter, and does the effect of one "
    "depend on the other?",
    axes={
        "interpolant": ["linear", "gvp", "cosine"],
        "weighting": ["uniform", {"name": "data_end", "power": 2}, {"name": "noise_end", "power": 2}],
    },
    nfe=8,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
