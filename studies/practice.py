"""Which of the usual advice on training matters? Each arm changes one piece of it.

Expected before it ran: worse without the average, without warm-up, at a constant rate, with batches of 16 and with
data off scale, most of all in [-10, 10]; no clipping, weight decay and bf16 ties.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Which of the usual advice on training matters for the samples, and how much?",
    baseline="as advised",
    arms={
        "as advised": {},
        # The baseline's own training: what differs is which of its weights are sampled from.
        "no EMA": {"evaluate.average": "last"},
        "no gradient clipping": {"train.clip_norm": None},
        "no warm-up": {"train.warmup_steps": 0},
        "constant rate": {"train.schedule": "constant"},
        # "Don't use tiny batch sizes (<32)"; in as many steps, so from a quarter of the samples.
        "batch of 16": {"train.batch_size": 16},
        # Thirty times the scale's, ten times AdamW's default.
        "weight decay 0.1": {"train.optimizer.weight_decay": 0.1},
        # "Normalize data to [-1, 1] or standardize": half that range beside noise of unit size, and ten times.
        "data in [0, 1]": {"dataset.encoded": [0, 1]},
        "data in [-10, 10]": {"dataset.encoded": [-10, 10]},
        # "Use mixed precision (with caution)": on a CPU it has to be asked for.
        "bf16": {"train.precision": "bf16"},
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
