"""A study of mine."""

from harness import Study

STUDY = Study(
    question="Does a longer warm-up give better samples?",
    baseline="short",
    arms={
        "short": {"train.warmup_steps": 20},
        "long": {"train.warmup_steps": 200},
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
