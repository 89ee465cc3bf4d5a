"""The study `mine`."""

from harness import Study

STUDY = Study(
    question="Does a longer warm-up give better samples?",
    baseline="short",
    arms={
        "short": {"train.warmup_steps": 20},
        "long": {"train.warmup_steps": 200},
    },
    nfe=32,  # network calls per sample at which the arms are compared
    smallest_difference=0.1,  # an interval within 10 % of zero is a tie
    looks=(5, 10, 20),  # number of seeds at each look
)
