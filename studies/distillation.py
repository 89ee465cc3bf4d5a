"""Does distillation improve one step of Euler's method, after each round of reflow?

Expected before it ran: one step of a distilled flow is better than one of the flow itself in every round, and the
second round is best.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="How good is one step of Euler's method after each round of reflow, as it is and distilled?",
    baseline="2-rectified",
    arms={
        **{f"{k}-rectified": {"reflow.rounds": k - 1, "evaluate.nfe": [1]} for k in (1, 2, 3)},
        **{
            f"{k}-rectified distilled": {"reflow.rounds": k - 1, "reflow.distil": True, "evaluate.nfe": [1]}
            for k in (1, 2, 3)
        },
    },
    at_scale={"digits": {"evaluate.num_samples": 800}},
    nfe=1,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
