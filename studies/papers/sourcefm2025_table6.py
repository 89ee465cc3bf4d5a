"""CIFAR-10: the noise that training and sampling start from, and two couplings, by Euler's method."""

from harness.ablation.design.paper import PaperTable, Row

ALIGNED: dict[str, object] = {"noise": {"name": "gaussian", "std": 27.198 / 55.418}}
PRUNED: dict[str, object] = {"evaluate.noise": "pruned"}
SOURCES: dict[str, dict[str, object]] = {
    "Gaussian": {"noise": {"name": "gaussian", "std": 1.0}},
    "pruned sampling": {"noise": {"name": "gaussian", "std": 1.0}, **PRUNED},
    "norm-aligned": ALIGNED,
    "both": {**ALIGNED, **PRUNED},
}

TABLE = PaperTable(
    paper="Lee et al. 2025, SourceFM, table 6, CIFAR-10",
    scale="cifar10",
    ours={
        "train.batch_size": 512,
        "train.steps": 200_000,
        "evaluate.num_samples": 51_200,
        "evaluate.nfe": [5, 10, 20, 40, 100],
    },
    stated={
        "dataset": "cifar10",
        "interpolant": "linear",
        "prediction": "velocity",
        "backbone": {"name": "unet", "channels": 128, "blocks": 2, "multipliers": [1, 2, 2, 2], "attention": [16]},
        "train.batch_size": 512,
        "train.steps": 200_000,
        "train.schedule": "constant",
        "evaluate.solver": "euler",
        "evaluate.nfe": [5, 10, 20, 40, 100],
        "evaluate.num_samples": 51_200,
        "evaluate.metrics": ["fid"],
    },
    unstated=(
        "dataset.flip", "backbone.dropout", "train.learning_rate", "train.warmup_steps", "train.clip_norm",
        "train.ema_decay", "train.precision",
    ),
    lacks={"a choice among 11 checkpoints from 80k to 180k steps, by a rule not stated": "the last step"},
    rows={
        f"{pairs}, {source}": Row(stated={"coupling": coupling, **settings})
        for pairs, coupling in (("OT", "exact_ot"), ("independent", "independent"))
        for source, settings in SOURCES.items()
    },
)  # fmt: skip
