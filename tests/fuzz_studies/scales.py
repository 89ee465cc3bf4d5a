"""The scales of the fuzz: two steps of tiny networks on every kind of data that needs no file."""

from harness.components.backbones.mlp import MLP
from harness.components.backbones.transformer import Transformer
from harness.components.backbones.unet import UNet
from harness.data.images import Digits
from harness.data.points import Moons
from harness.data.sequences import USMacro
from harness.evaluation.distances import EnergyDistance
from harness.evaluation.protocol import EvaluateConfig
from harness.runs.config import Reflow, RunConfig
from harness.training.config import TrainConfig

TRAIN = TrainConfig(steps=2, batch_size=8, warmup_steps=1, device="cpu", log_every=1)
EVALUATE = EvaluateConfig(nfe=(2,), num_samples=16, batch_size=16, extractor="values", metrics=(EnergyDistance(),))
REFLOW = Reflow(number=32, nfe=2)

SCALES = {
    "points": RunConfig(
        dataset=Moons(number=60), backbone=MLP(width=8, blocks=1), train=TRAIN, evaluate=EVALUATE, reflow=REFLOW
    ),
    "images": RunConfig(
        dataset=Digits(),
        backbone=UNet(channels=4, multipliers=(1,), groups=2),
        train=TRAIN,
        evaluate=EVALUATE,
        reflow=REFLOW,
    ),
    "sequences": RunConfig(
        dataset=USMacro(), backbone=Transformer(width=8, depth=1, heads=2), train=TRAIN, evaluate=EVALUATE,
        reflow=REFLOW,
    ),
}  # fmt: skip
