"""ImageNet at 256 x 256 as latents: a constant weight against min-SNR-5, with two predictions of a U-Net."""

from harness.ablation.design.claim import Claim, Column, Ordering, Tie
from harness.ablation.design.paper import PaperTable, Row
from harness.ablation.design.study import Study

MIN_SNR: dict[str, object] = {"weighting": {"name": "min_snr", "gamma": 5.0}}
DATA: dict[str, object] = {"prediction": "data"}
NOISE: dict[str, object] = {"prediction": "noise"}

# The authors give the command of this U-Net in issue 9 of github.com/TiankaiHang/Min-SNR-Diffusion-Training.

LENGTHS = {330: "200k", 1650: "1000k"}
"""{steps on digits: steps in the paper}, in the same ratio"""
STUDY = Study(
    question="On the cosine path, does min-SNR-5 help with data and with noise prediction, early and late?",
    baseline="data, constant weight, 200k",
    arms={
        f"{name}, {length}": {
            "interpolant": "cosine", **settings, "train.steps": steps, "train.warmup_steps": 110,
            "evaluate.nfe": [32],
        }
        for name, settings in {
            "data, constant weight": DATA | {"weighting": "uniform"},
            "data, min-SNR-5": DATA | MIN_SNR,
            "noise, plain error": NOISE | {"weighting": "uniform"},
            "noise, min-SNR-5": NOISE | MIN_SNR,
        }.items()
        for steps, length in LENGTHS.items()
    },
    at_scale={"digits": {"evaluate.num_samples": 800}},
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10),
)  # fmt: skip

TABLE = PaperTable(
    paper="Hang et al. 2023, Efficient Diffusion Training via Min-SNR Weighting Strategy, table 1",
    scale="imagenet_latents",
    ours={
        "interpolant": "cosine",
        "backbone": {"name": "unet", "channels": 192, "multipliers": [1, 2, 2, 2], "blocks": 3, "attention": [16, 8, 4],
                     "conditioning": "film", "groups": 32, "resample": "residual"},
        "train.optimizer.beta1": 0.99,
        "train.optimizer.beta2": 0.99,
        "evaluate.extractor": "inception",
        "evaluate.metrics": ["fid"],
    },
    stated={
        "evaluate.metrics": ["fid"],
        "dataset": "latents",
        "interpolant": "cosine",
        "backbone": {"name": "unet", "channels": 192, "blocks": 3},
        "train.optimizer": {"name": "adamw", "beta1": 0.99, "beta2": 0.99},
        "train.batch_size": 256,
        "train.learning_rate": 1e-4,
    },
    unstated=(
        "dataset.flip", "backbone.multipliers", "backbone.attention", "backbone.head_channels",
        "objective.label_dropout", "train.warmup_steps", "train.schedule", "train.clip_norm", "train.ema_decay",
        "evaluate.solver", "evaluate.nfe", "evaluate.num_samples",
    ),
    lacks={"training at 1,000 times": "training at every time between them", "half precision (fp16)": "bf16 on a GPU"},
    scales=("digits", "points", "cells"),
    columns={
        "FID": Column(study="hang2023_table1", arms={name: name for name in STUDY.arms}, nfe=32, published="FID"),
    },
    claims={
        "a, early": Claim(
            says="With data prediction, min-SNR-5 is better than a constant weight early in training.",
            parts=[Ordering("FID", ("data, min-SNR-5, 200k", "data, constant weight, 200k"))],
            expected="holds",
            because="the published difference is -69 %",
        ),
        "a, late": Claim(
            says="With data prediction, min-SNR-5 is better than a constant weight late in training.",
            parts=[Ordering("FID", ("data, min-SNR-5, 1000k", "data, constant weight, 1000k"))],
            expected="holds",
            because="the published difference is -49 %",
        ),
        "b": Claim(
            says="With noise prediction, min-SNR-5 and the plain error tie late in training.",
            parts=[Tie("FID", ("noise, min-SNR-5, 1000k", "noise, plain error, 1000k"))],
            expected="holds",
            because="the published difference is -2 %",
        ),
    },
    rows={
        f"{name}, {steps // 1000}k": Row(stated={**settings, "train.steps": steps}, published={"FID": fid})
        for name, settings, fids in (
            ("data, constant weight", {**DATA, "weighting": "uniform"}, (25.93, 8.33)),
            ("data, min-SNR-5", {**DATA, **MIN_SNR}, (7.99, 4.28)),
            ("noise, plain error", {**NOISE, "weighting": "uniform"}, (8.55, 4.21)),
            ("noise, min-SNR-5", {**NOISE, **MIN_SNR}, (7.32, 4.14)),
        )
        for steps, fid in zip((200_000, 1_000_000), fids, strict=True)
    },
)  # fmt: skip
