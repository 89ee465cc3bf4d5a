"""How big a study is: a configuration by name, for `--scale`."""

from harness.components.backbones.unet import UNet
from harness.components.time_samplers import Stratified
from harness.data.images import CIFAR10, Digits, FashionMNIST
from harness.evaluation.protocol import EvaluateConfig
from harness.runs import RunConfig
from harness.training.trainer import TrainConfig

SCALES = {
    # Half a minute a run on one core; stratified times, a high rate and a short beta2 make the most of 520 steps.
    "digits": RunConfig(
        dataset=Digits(),
        backbone=UNet(channels=16, multipliers=(1, 2), blocks=1, groups=4),
        time_sampler=Stratified(),
        train=TrainConfig(
            steps=520,
            batch_size=128,
            learning_rate=8e-3,
            warmup_steps=50,
            beta2=0.97,
            log_every=20,
            sample_every=260,
            checkpoint_every=50,
        ),
        evaluate=EvaluateConfig(num_samples=400, batch_size=100, extractor="digits"),
    ),
    # Minutes a run on a GPU.
    "fashion": RunConfig(
        dataset=FashionMNIST(),
        backbone=UNet(channels=32, multipliers=(1, 2, 2), blocks=2, groups=8),
        train=TrainConfig(steps=20_000, learning_rate=5e-4),
        evaluate=EvaluateConfig(num_samples=10_000),
    ),
    # Hours a run on a GPU.
    "cifar10": RunConfig(
        dataset=CIFAR10(),
        backbone=UNet(channels=64, multipliers=(1, 2, 2, 2), blocks=2, groups=32, dropout=0.1),
        train=TrainConfig(steps=100_000, learning_rate=2e-4, warmup_steps=5000),
        evaluate=EvaluateConfig(num_samples=50_000),
    ),
}
