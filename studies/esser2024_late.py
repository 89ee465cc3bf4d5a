"""Are logit-normal times still better than uniform ones late in training, after 8,000 steps on digits?

Expected before it ran: they are, by about as much as after 2,000 steps (-26 % in `esser2024_tables`). A later paper
(arXiv 2603.12517) finds uniform times ahead again late in training.
"""

from harness.ablation.design.study import Study, load_study

EARLY = load_study("esser2024_tables")
ARMS = ("rf", "rf/lognorm(0.00, 1.00)")

STUDY = Study(
    question="Are logit-normal times still better than uniform ones after 8,000 steps?",
    baseline="rf",
    arms={arm: {**EARLY.arms[arm], "train.steps": 8000} for arm in ARMS},
    nfe=EARLY.nfe,
    smallest_difference=EARLY.smallest_difference,
    looks=(10,),
)
