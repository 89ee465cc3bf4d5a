"""Does it help to count some times more, by a weight or by drawing them more often?

Expected before it ran: drawing times in proportion to a weight is at least as good as weighting the loss, since the
gradient varies less; (1 - t)^2 and the log-normal are ties with even weights, t^2 is worse in both forms.
"""

from harness.ablation.design.study import Study


def weighted(name: str, **fields: float) -> dict[str, object]:
    """Even times, uneven weights."""
    return {"time_sampler": "stratified", "weighting": {"name": name, **fields}}


def drawn(name: str, **fields: float) -> dict[str, object]:
    """Uneven times, even weights."""
    return {"time_sampler": {"name": name, "stratify": True, **fields}, "weighting": "uniform"}


# The two arms of a pair have the same expected objective; only the variance of the gradient differs.
STUDY = Study(
    question="Does it help to count some times more, by a weight or by drawing them more often?",
    baseline="uniform",
    arms={
        "uniform": weighted("uniform"),
        "data_end weighted": weighted("data_end", power=2),
        "data_end drawn": drawn("beta", a=1, b=3),  # density 3 (1 - t)^2
        "noise_end weighted": weighted("noise_end", power=2),
        "noise_end drawn": drawn("beta", a=3, b=1),  # density 3 t^2
        "logit_normal weighted": weighted("logit_normal"),
        "logit_normal drawn": drawn("logit_normal"),
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
