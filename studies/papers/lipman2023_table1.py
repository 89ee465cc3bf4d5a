"""CIFAR-10: flow matching on two paths beside score-based objectives with the same network."""

from harness.ablation.design.paper import PaperTable, Row

VP = {
    "interpolant": {"name": "vp_ddpm", "beta_min": 0.1, "beta_max": 20.0},
    "time_sampler": {"name": "truncated", "low": 1e-5, "high": 1.0},
}

TABLE = PaperTable(
    paper="Lipman et al. 2023, Flow Matching for Generative Modeling, table 1, CIFAR-10",
    scale="cifar10_lipman",
    stated={
        "dataset": "cifar10",
        "backbone": {
            "name": "unet", "channels": 256, "blocks": 2, "multipliers": [1, 2, 2, 2], "attention": [16],
            "head_channels": 64, "dropout": 0.0,
        },
        "train.optimizer": "adam",
        "train.batch_size": 256,
        "train.steps": 391_000,
        "train.learning_rate": 5e-4,
        "train.warmup_steps": 45_000,
        "train.schedule": {"name": "polynomial", "power": 1.0, "floor": 1e-8 / 5e-4},
        "train.precision": "fp32",
        "evaluate.solver": {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5},
        "evaluate.nfe": [0],
        "evaluate.num_samples": 50_000,
        "evaluate.metrics": ["fid"],
        "evaluate.num_reference": None,
    },
    unstated=("dataset.flip", "train.clip_norm", "train.ema_decay", "train.ema_warmup"),
    lacks={"NLL averaged over 1 to 50 importance samples": "NLL is not measured; the metric bits_per_dim takes one"},
    rows={
        "DDPM": Row(stated={**VP, "prediction": "noise"}, published={"NLL": 3.12, "FID": 7.48, "NFE": 274}),
        "score matching": Row(
            stated={**VP, "prediction": "score", "objective.space": "noise"},
            published={"NLL": 3.16, "FID": 19.94, "NFE": 242},
        ),
        "ScoreFlow": Row(
            stated={**VP, "prediction": "score", "weighting": "likelihood", "objective.space": "noise"},
            published={"NLL": 3.09, "FID": 20.78, "NFE": 428},
        ),
        "FM, diffusion path": Row(stated=VP, published={"NLL": 3.10, "FID": 8.06, "NFE": 183}),
        "FM, OT path": Row(
            stated={"interpolant": "fm_ot"},
            ours={"interpolant.sigma_min": 1e-4},
            published={"NLL": 2.99, "FID": 6.35, "NFE": 142},
        ),
    },
)  # fmt: skip
