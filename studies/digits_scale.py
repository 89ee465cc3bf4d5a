"""Which settings should the digits scale train with? The search trains only the baseline, before any other arm.

The scale now has the winner's settings. The search started from the earlier settings, at commit 049c42c.
"""

from harness.ablation.design.search import Search
from harness.ablation.design.space import even, log, together

SEARCH = Search(
    question="Which batch, rate, warm-up, averages and weight decay give the baseline of the digits scale the best "
    "samples, in as many seconds of training?",
    spaces={
        "digits": {
            # Each takes about as many seconds when two trials share two cores: 33, 51, 87 and 146 ms per step.
            "train.batch_size, train.steps": together((32, 960), (64, 660), (128, 400), (256, 230)),
            "train.learning_rate": log(2e-3, 4e-2),
            "train.warmup_steps": even(10, 150),
            "1 - train.optimizer.beta2": log(5e-3, 0.1),
            "1 - train.ema_decay": log(0.01, 0.2),
            "train.optimizer.weight_decay": log(1e-3, 1.0),
        }
    },
    pruner=None,  # a pruner would compare trials of different batch sizes after the same number of steps
    nfe=32,
    trials=40,
    seed=1000,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
