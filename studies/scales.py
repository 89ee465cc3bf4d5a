"""The base configurations of studies, by name, for `--scale`. Verdicts use a scale's first metric."""

from harness.components import weightings
from harness.components.backbones.dit import DiT
from harness.components.backbones.embeddings import Sinusoidal
from harness.components.backbones.mlp import MLP
from harness.components.backbones.ncsnpp import NCSNpp
from harness.components.backbones.transformer import Transformer
from harness.components.backbones.unet import UNet
from harness.components.couplings import ExactOT
from harness.components.interpolants import EDMPath, FlowMatchingOT
from harness.components.noises import Population
from harness.components.predictions import EDM
from harness.components.solvers import DormandPrince5, Heun
from harness.components.time_grids import EDMRho
from harness.components.time_samplers import EDMLogNormal, Stratified, Truncated
from harness.core.config import override
from harness.data.cells import Cells
from harness.data.images import CIFAR10, Digits, FashionMNIST
from harness.data.latents import LatentFolder
from harness.data.points import EightGaussians
from harness.data.sequences import USMacro
from harness.evaluation.distances import MMD, Authenticity, EnergyDistance, LabelAccuracy, SlicedWasserstein, TwoSample
from harness.evaluation.fidelity import FID, KID, HeldOutFID, InceptionScore, LowestFID, Precision, Recall
from harness.evaluation.profiles import Autocorrelation, DropoutRate, GeneMean, GeneVariance, Spectrum
from harness.evaluation.protocol import EvaluateConfig, MoreSamples
from harness.flow.formulation import ObjectiveConfig
from harness.runs.config import Reflow, RunConfig
from harness.training.config import TrainConfig
from harness.training.optimizers import Adam, AdamW
from harness.training.schedules import Constant, PolynomialDecay

# The search of studies/digits_scale.py found batch, learning rate, warm-up and averages for the
# baseline alone, on a seed that no study reports. The numbers are rounded to three significant digits.
DIGITS = RunConfig(
    dataset=Digits(),
    backbone=UNet(**UNet.presets["digits"]),
    time_sampler=Stratified(),
    train=TrainConfig(
        steps=660, batch_size=64, learning_rate=4.39e-3, warmup_steps=110, ema_decay=0.9367,
        optimizer=AdamW(beta2=0.9493, weight_decay=3.27e-3),
        log_every=20, sample_every=660, checkpoint_every=66,
    ),
    evaluate=EvaluateConfig(
        num_samples=400, more_samples=(MoreSamples(nfe=32, num_samples=800),), batch_size=100, extractor="digits",
        metrics=(FID(), HeldOutFID(), Authenticity()),
    ),
    reflow=Reflow(number=10_000, nfe=40),
)  # fmt: skip

DISTANCES = (SlicedWasserstein(), MMD(), EnergyDistance(), TwoSample())

HEALTHY = ("frozen_bmmc_healthy_donor1_filtered", "frozen_bmmc_healthy_donor2_filtered")
LEUKAEMIA = ("aml027_pre_transplant_filtered",)

# Zheng et al. 2017, as a folder of 10x folders in HARNESS_DATA/aml.
CELLS = RunConfig(
    dataset=Cells(path="aml", keep=HEALTHY, genes=100, min_cells=100),
    backbone=MLP(width=384, blocks=3),
    time_sampler=Stratified(),
    train=TrainConfig(
        steps=1200, batch_size=64, learning_rate=2e-3, warmup_steps=100, ema_decay=0.999,
        log_every=50, sample_every=600, checkpoint_every=200,
    ),
    evaluate=EvaluateConfig(
        nfe=(8, 32), num_samples=800, batch_size=400, extractor="values",
        metrics=(*DISTANCES, GeneMean(), GeneVariance(), DropoutRate()),
    ),
)  # fmt: skip

# Tong et al. 2024, as their training script has it; their evaluation uses clean-fid.
TONG = RunConfig(
    dataset=CIFAR10(flip=True),
    backbone=UNet(**UNet.presets["torchcfm-cifar10"]),
    train=TrainConfig(
        steps=400_000, batch_size=128, learning_rate=2e-4, warmup_steps=5000, schedule=Constant(), optimizer=Adam(),
        clip_norm=1.0, ema_decay=0.9999, ema_warmup=False,
    ),
    evaluate=EvaluateConfig(num_samples=50_000, nfe=(100, 1000)),
)  # fmt: skip

DDPMPP = NCSNpp.presets["ddpmpp-cifar10"]

# Karras et al. 2022 (EDM). Flips stand for their augmentation; the average of the weights begins as the harness's does.
KARRAS = RunConfig(
    dataset=CIFAR10(flip=True),
    interpolant=EDMPath(),
    prediction=EDM(sigma_data=0.5, time="log_sigma", t_min=1e-7, t_max=1.0),
    weighting=weightings.EDM(t_min=1e-6),
    time_sampler=EDMLogNormal(),
    objective=ObjectiveConfig(space="data", normalise_weight=False),
    backbone=NCSNpp(**{
        **DDPMPP, "multipliers": (2, 2, 2), "dropout": 0.13, "time_embedding": Sinusoidal(scale=1.0),
    }),
    train=TrainConfig(
        steps=390_625, batch_size=512, learning_rate=1e-3, warmup_steps=19_531, schedule=Constant(), optimizer=Adam(),
        clip_norm=None, ema_decay=0.5 ** (512 / 500_000),
    ),
    evaluate=EvaluateConfig(
        solver=Heun(euler_last=True), time_grid=EDMRho(), nfe=(35,), num_samples=150_000, metrics=(LowestFID(),),
    ),
)  # fmt: skip

# Lipman et al. 2023. sigma_min, clipping and the average of the weights are assumed.
LIPMAN = RunConfig(
    dataset=CIFAR10(),
    interpolant=FlowMatchingOT(),
    backbone=UNet(**UNet.presets["adm-256"]),
    train=TrainConfig(
        steps=391_000, batch_size=256, learning_rate=5e-4, warmup_steps=45_000, schedule=PolynomialDecay(floor=2e-5),
        optimizer=Adam(), clip_norm=None, precision="fp32",
    ),
    evaluate=EvaluateConfig(solver=DormandPrince5(), nfe=(0,), num_samples=50_000),
)  # fmt: skip

# Liu et al. 2023. Flips and the number of samples are assumed.
LIU = RunConfig(
    dataset=CIFAR10(flip=True),
    time_sampler=Truncated(low=0.0, high=0.999),
    backbone=NCSNpp(**{**DDPMPP, "dropout": 0.15}),
    train=TrainConfig(
        steps=1_300_000, batch_size=128, learning_rate=2e-4, warmup_steps=5000, schedule=Constant(), optimizer=Adam(),
        clip_norm=1.0, ema_decay=0.999999,
    ),
    evaluate=EvaluateConfig(
        solver=DormandPrince5(), nfe=(0,), num_samples=50_000, metrics=(FID(), InceptionScore(), Recall()),
    ),
    reflow=Reflow(number=1_000_000, solver=DormandPrince5(), nfe=0),
)  # fmt: skip

SCALES = {
    "digits": DIGITS,
    "digits_dit": override(
        DIGITS,
        {
            "backbone": {"name": "dit", "preset": "digits"},
            "train.steps": 3000,
            "train.batch_size": 128,
            "train.learning_rate": 2e-3,
            "train.warmup_steps": 50,
            "train.optimizer": AdamW(beta2=0.99),
            "train.ema_decay": 0.9999,
        },
    ),
    "digits_classes": override(
        DIGITS,
        {
            "objective.label_dropout": 0.1,
            "train.steps": 1000,
            "evaluate.guidance.scale": 2.0,
            "evaluate.nfe": [2, 4, 8, 16, 32, 64],
            "evaluate.metrics": [FID(), LabelAccuracy()],
        },
    ),
    "points": RunConfig(
        dataset=EightGaussians(),
        backbone=MLP(width=128, blocks=3),
        time_sampler=Stratified(),
        train=TrainConfig(
            steps=2000,
            batch_size=256,
            learning_rate=2e-3,
            warmup_steps=100,
            ema_decay=0.99,
            log_every=50,
            sample_every=2000,
            checkpoint_every=500,
        ),
        evaluate=EvaluateConfig(
            nfe=(2, 4, 8, 16, 32),
            num_samples=2000,
            num_reference=4000,
            batch_size=1000,
            extractor="values",
            metrics=DISTANCES,
        ),
    ),
    "cells": CELLS,
    "transport": override(
        CELLS,
        {
            "dataset.keep": list(LEUKAEMIA),
            "noise": Population(dataset=Cells(path="aml", keep=HEALTHY, genes=100, min_cells=100)),
            "coupling": ExactOT(),
            "evaluate.num_samples": 700,
        },
    ),
    "sequences": RunConfig(
        dataset=USMacro(),
        backbone=Transformer(width=64, depth=3, heads=4),
        time_sampler=Stratified(),
        train=TrainConfig(
            steps=2000,
            batch_size=64,
            learning_rate=1e-3,
            warmup_steps=100,
            ema_decay=0.999,
            log_every=50,
            sample_every=1000,
            checkpoint_every=500,
        ),
        evaluate=EvaluateConfig(
            nfe=(2, 4, 8, 16, 32),
            num_samples=140,
            batch_size=140,
            extractor="values",
            metrics=(*DISTANCES, Autocorrelation(), Spectrum()),
        ),
    ),
    "fashion_small": RunConfig(
        dataset=FashionMNIST(),
        backbone=UNet(channels=16, multipliers=(1, 2, 2), blocks=1, groups=8),
        time_sampler=Stratified(),
        train=TrainConfig(
            steps=1500,
            batch_size=64,
            learning_rate=2e-3,
            warmup_steps=100,
            optimizer=AdamW(beta2=0.99),
            ema_decay=0.999,
            sample_every=750,
            checkpoint_every=250,
        ),
        evaluate=EvaluateConfig(
            nfe=(32,), num_samples=256, num_reference=1024, batch_size=64, metrics=(FID(), KID(), Precision(), Recall())
        ),
    ),
    "fashion": RunConfig(
        dataset=FashionMNIST(),
        backbone=UNet(**UNet.presets["fashion"]),
        train=TrainConfig(steps=20_000, learning_rate=5e-4),
        evaluate=EvaluateConfig(num_samples=10_000),
    ),
    "cifar10": TONG,
    "cifar10_small": override(
        TONG,
        {
            "backbone.channels": 64,
            "backbone.dropout": 0.0,
            "train.steps": 30_000,
            "train.batch_size": 256,
            "train.learning_rate": 5e-4,
            "train.warmup_steps": 1000,
            "train.schedule": "cosine",
            "train.ema_warmup": True,
            "evaluate.num_samples": 10_000,
            "evaluate.nfe": [5, 10, 20, 100],
        },
    ),
    "cifar10_edm": KARRAS,
    "cifar10_lipman": LIPMAN,
    "cifar10_liu": LIU,
    "imagenet_latents": RunConfig(
        dataset=LatentFolder(path="imagenet_latents", flip=True),
        backbone=DiT(**DiT.presets["XL/2"]),
        objective=ObjectiveConfig(label_dropout=0.1),
        train=TrainConfig(
            steps=400_000,
            batch_size=256,
            learning_rate=1e-4,
            warmup_steps=0,
            schedule=Constant(),
            optimizer=AdamW(weight_decay=0),
            clip_norm=None,
            ema_warmup=False,
        ),
        evaluate=EvaluateConfig(num_samples=10_000, extractor="values", metrics=(SlicedWasserstein(),)),
    ),
}

ABOUT = {
    "digits": "scikit-learn's digits with a U-Net; half a minute a run on one core",
    "digits_dit": "the digits with a transformer",
    "digits_classes": "the same U-Net with classes and guidance",
    "points": "points in the plane; seconds a run on one core",
    "cells": "bone marrow of two healthy donors; a minute a run on one core",
    "transport": "from healthy to leukaemia cells: the noise is the healthy population",
    "sequences": "quarters of the US economy; a minute a run on one core",
    "fashion_small": "Fashion-MNIST with a small U-Net; ten minutes a run on one core, most of it for Inception",
    "fashion": "Fashion-MNIST; minutes a run on a GPU",
    "cifar10": "Tong et al. 2024 on CIFAR-10, as their script trains, for a GPU",
    "cifar10_small": "CIFAR-10 with half their width and settings of our own, never trained yet",
    "cifar10_edm": "Karras et al. 2022 (EDM); flips stand for their augmentation",
    "cifar10_lipman": "Lipman et al. 2023; sigma_min, clipping and the average of the weights are assumed",
    "cifar10_liu": "Liu et al. 2023; flips and the number of samples are assumed",
    "imagenet_latents": "DiT and SiT, XL/2, on latents of ImageNet: .npy files in HARNESS_DATA, with mirror images",
}
"""The descriptions that `harness list scales` prints."""
