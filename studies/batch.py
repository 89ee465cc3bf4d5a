"""Is a larger batch worth its samples?

Expected before it ran: 256 in as many steps is better, 256 in as many samples is worse.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Is a batch of 256 better than one of 64, in as many steps and in as many samples?",
    baseline="64",
    arms={
        "64": {"train.batch_size": 64},
        "256, as many steps": {"train.batch_size": 256},
        # A quarter of the steps and of the warm-up, at the same learning rate.
        "256, as many samples": {"train.batch_size": 256, "train.steps": 300, "train.warmup_steps": 25},
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10),
)
