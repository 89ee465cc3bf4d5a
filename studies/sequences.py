"""Do findings on images hold for time series: the density of training times, and how the transformer gets the time?

Expected before it ran: times matter little (10 % at most), `add` is worse than `adaln`, and the two do not interact.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="On windows of a time series, how much do the density of training times and the way in which the "
    "transformer is told the time matter, and does the effect of one depend on the other?",
    axes={
        "times": {
            "stratified": {"time_sampler": "stratified"},
            "uniform": {"time_sampler": "uniform"},
            "logit_normal": {"time_sampler": {"name": "logit_normal", "stratify": True}},
            "u_shaped": {"time_sampler": {"name": "u_shaped", "stratify": True}},
        },
        "backbone.conditioning": ["adaln", "add"],
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
