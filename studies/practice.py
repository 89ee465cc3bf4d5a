"""Which of the usual advice on training matters? Each arm changes one piece of it.

Expected before it ran: worse without the average, without warm-up, at a constant rate, with batches of 16 and with
data off scale, most of all in [-10, 10]; no clipping, weight decay and bf16 are ties.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Which of the usual advice on training matters for the samples, and how much?",
    baseline="as advised",
    arms={
        "as advised": {},
        # The baseline's training, sampled with its last weights.
        "no EMA": {"evaluate.average": "last"},
        "no gradient clipping": {"train.clip_norm": None},
        "no warm-up": {"train.warmup_steps": 0},
        "constant rate": {"train.schedule": "constant"},
        # "Don't use tiny batch sizes (<32)": the same number of steps, from a quarter of the samples.
        "batch of 16": {"train.batch_size": 16},
        # Thirty times the scale's weight decay, ten times AdamW's default.
        "weight decay 0.1": {"train.optimizer.weight_decay": 0.1},
        # "Normalize data to [-1, 1] or standardize": half that range and ten times it, with noise of unit variance.
        "data in [0, 1]": {"dataset.encoded": [0, 1]},
        "data in [-10, 10]": {"dataset.encoded": [-10, 10]},
        # "Use mixed precision (with caution)": not the default on a CPU.
        "bf16": {"train.precision": "bf16"},
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
