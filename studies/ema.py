"""How long should the average of the weights be? One training per seed keeps all averages that the arms compare.

Expected before it ran: short averages are best for such a short training: 0.9 and 0.95 and `posthoc` 0.1 tie, `last`
is worse than these, and 0.9999 with its warm-up lies between.
"""

from harness.ablation.design.study import Study

KEPT = {"train.ema_decay": 0.9999, "train.more_ema_decays": [0.5, 0.8, 0.9, 0.95], "train.snapshot_every": 10}

STUDY = Study(
    question="Which average of the weights gives the best samples?",
    baseline="ema 0.9999 warmed up",
    arms={
        "ema 0.9999 warmed up": KEPT,
        **{
            f"ema {decay:g}": KEPT | {"evaluate.average": {"name": "ema", "decay": decay}}
            for decay in (0.5, 0.8, 0.9, 0.95)
        },
        **{
            f"posthoc {width:g}": KEPT | {"evaluate.average": {"name": "posthoc", "width": width}}
            for width in (0.02, 0.05, 0.1, 0.2)
        },
        "last": KEPT | {"evaluate.average": "last"},
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
