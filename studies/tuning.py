"""Can tuning improve a scale's learning rate, batch, warm-up and average?

Expected before it ran: the tuned settings tie with the scale's, which a search of the same kind found.
"""

from harness.ablation.design.search import Search
from harness.ablation.design.space import even, log, one_of

# For tens of thousands of steps and more.
LONG = {
    "train.learning_rate": log(1e-4, 5e-4),
    "train.batch_size": one_of(128, 256, 512),
    "train.warmup_steps": even(1000, 5000),
    "1 - train.ema_decay": log(1e-4, 1e-2),
    "weighting.gamma": log(0.1, 20.0),
}
# For 660 steps: learning rates around the scale's, averages over the last ten to fifty steps.
DIGITS = {
    "train.learning_rate": log(2e-3, 2e-2),
    "train.batch_size": one_of(64, 128, 256),
    "train.warmup_steps": even(10, 150),
    "1 - train.ema_decay": log(0.02, 0.1),
    "weighting.gamma": log(0.1, 20.0),
}

SEARCH = Search(
    question="Do tuned rate, batch, warm-up, average and min-SNR's gamma beat the settings that the scale was given?",
    fixed={"weighting": "min_snr"},
    spaces={"digits": DIGITS, "fashion": LONG, "cifar10": LONG},
    nfe=32,
    trials=24,
    smallest_difference=0.1,
    looks=(5, 10, 20),
    rungs=4,
    seed=1000,
)
