"""ImageNet at 256 x 256 as latents: sizes of DiT and of its patches, without guidance (tables 1 and 4)."""

from harness.ablation.design.paper import PaperTable, Row
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
    rows={
        **{
            f"{size}/{patch}": Row(stated={**dit(f"{size}/{patch}"), "train.steps": 400_000}, published={"FID": fid})
            for size, fids in FID.items()
            for patch, fid in zip((2, 4, 8), fids, strict=True)
        },
        "XL/2, 7M steps": Row(stated={**dit("XL/2"), "train.steps": 7_000_000}, published={"FID": 9.62}),
    },
)
