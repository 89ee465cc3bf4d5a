"""ImageNet at 256 x 256 as latents: sizes of DiT and of its patches, without guidance (tables 1 and 4)."""

from harness.ablation.design.claim import Claim, Column, Trend
from harness.ablation.design.paper import PaperTable, Row
from harness.ablation.design.space import log
from harness.ablation.design.study import Study
from harness.ablation.design.tuned import Tuned
from harness.components.backbones.dit import DiT

FID = {
    "S": (68.40, 100.41, 153.60),
    "B": (43.47, 68.38, 122.74),
    "L": (23.33, 45.64, 118.87),
    "XL": (19.47, 43.01, 106.41),
}
"""{size: FID after 400,000 steps, with patches of side 2, 4 and 8}"""


def dit(preset: str) -> dict[str, object]:
    """Return the network of a size and a patch."""
    return {"backbone": {"name": "dit", **DiT.presets[preset]}}


def small(width: int, patch: int) -> dict[str, object]:
    """Return the arm of a width and a patch, in the place of `dit`: heads of 16, and digits have 8 x 8 pixels."""
    return {
        "backbone": {"name": "dit", "width": width, "depth": 4, "heads": width // 16, "patch": patch},
        "train.steps": 1000,
        "train.optimizer.beta2": 0.99,
        "evaluate.nfe": [32],
        "evaluate.num_samples": 800,
    }


SIZES = {"S/2": "width 16, patch 2", "B/2": "width 32, patch 2", "L/2": "width 64, patch 2"}
PATCHES = {"B/8": "width 32, patch 4", "B/4": "width 32, patch 2", "B/2": "width 32, patch 1"}
STUDY = Study(
    question="Do wider diffusion transformers and smaller patches give better samples, each at a tuned learning rate?",
    baseline="width 32, patch 2",
    arms={
        "width 32, patch 2": small(32, 2),
        "width 16, patch 2": small(16, 2),
        "width 64, patch 2": small(64, 2),
        "width 32, patch 4": small(32, 4),
        "width 32, patch 1": small(32, 1),
    },
    # With rates up to 0.01, every search took the largest of its six rates.
    tuned=Tuned(spaces={"digits": {"train.learning_rate": log(1e-3, 1e-1)}}, trials=6, rungs=2),
    nfe=32,
    smallest_difference=0.1,
    looks=(8,),
)

TABLE = PaperTable(
    paper="Peebles & Xie 2023, Scalable Diffusion Models with Transformers, tables 1 and 4, ImageNet 256",
    scale="imagenet_latents",
    stated={
        "dataset": {"name": "latents", "flip": True, "scale": 0.18215},
        "objective.label_dropout": 0.1,
        "train.optimizer": {"name": "adamw", "weight_decay": 0.0},
        "train.batch_size": 256,
        "train.learning_rate": 1e-4,
        "train.warmup_steps": 0,
        "train.schedule": "constant",
        "train.clip_norm": None,
        "train.ema_decay": 0.9999,
        "train.ema_warmup": False,
        "interpolant": {"name": "vp_ddpm", "steps": 1000},
        "prediction": "noise",
        "weighting": "uniform",
        "evaluate.solver": "ancestral",
        "evaluate.time_grid": {"name": "respaced", "of": 1000},
        "evaluate.nfe": [250],
        "evaluate.num_samples": 50_000,
        "evaluate.extractor": "inception",
        "evaluate.metrics": ["fid"],
    },
    ours={
        "interpolant": {"name": "vp_ddpm", "steps": 1000},
        "prediction": "noise",
        "evaluate.solver": "ancestral",
        "evaluate.time_grid": "respaced",
        "evaluate.nfe": [250],
        "evaluate.num_samples": 50_000,
        "evaluate.extractor": "inception",
        "evaluate.metrics": ["fid"],
    },
    unstated=("train.precision",),
    lacks={
        "variances of the steps that the network learns": "the variance of the path's posterior",
        "training at 1,000 times": "training at every time between them",
        "statistics of ImageNet by Inception in TensorFlow": "torch-fidelity's, and the decoder in HARNESS_VAE",
    },
    columns={
        "FID, sizes": Column(study="peebles2023_tables", arms=SIZES, nfe=32, published="FID", paper_nfe=250),
        "FID, patches": Column(study="peebles2023_tables", arms=PATCHES, nfe=32, published="FID", paper_nfe=250),
    },
    claims={
        "a": Claim(
            says="FID falls with the size of the network at a fixed patch.",
            parts=[Trend("FID, sizes", ("S/2", "B/2", "L/2"))],
            expected="holds",
            because="no arm is near its best after 1,000 steps, and a wider network learns more in each; the published "
            "FID falls by 42 % from size to size on average",
        ),
        "b": Claim(
            says="FID falls with smaller patches at a fixed size of the network.",
            parts=[Trend("FID, patches", ("B/8", "B/4", "B/2"))],
            expected="holds",
            because="more tokens take more computation in each step; the published FID falls by 40 % from patch to "
            "patch on average",
        ),
    },
    rows={
        **{
            f"{size}/{patch}": Row(stated={**dit(f"{size}/{patch}"), "train.steps": 400_000}, published={"FID": fid})
            for size, fids in FID.items()
            for patch, fid in zip((2, 4, 8), fids, strict=True)
        },
        "XL/2, 7M steps": Row(stated={**dit("XL/2"), "train.steps": 7_000_000}, published={"FID": 9.62}),
    },
)
