"""ImageNet at 256 x 256 as latents: a constant weight against min-SNR-5, with two predictions of a U-Net."""

from harness.ablation.design.paper import PaperTable, Row

MIN_SNR = {"weighting": {"name": "min_snr", "gamma": 5.0}}
DATA = {"prediction": "data"}
NOISE = {"prediction": "noise"}

# The authors give the command of this U-Net in issue 9 of github.com/TiankaiHang/Min-SNR-Diffusion-Training.
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
