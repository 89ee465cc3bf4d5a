"""Eight Gaussians to moons: couplings for generation under a condition."""

from harness.ablation.design.paper import PaperTable, Row

TABLE = PaperTable(
    paper="Cheng & Schwing 2025 (C2OT), The Curse of Conditions, 8 Gaussians to moons",
    scale="points",
    ours={
        "dataset": "moons",
        "noise": {"name": "population", "dataset": {"name": "eight_gaussians"}},
        "objective.label_dropout": 0.0,
    },
    stated={
        "dataset": "moons",
        "noise": {"name": "population", "dataset": "eight_gaussians"},
        "interpolant": "linear",
        "prediction": "velocity",
        "objective.label_dropout": 0.0,
    },
    unstated=(
        "backbone.width", "backbone.blocks", "train.steps", "train.batch_size", "train.learning_rate",
        "train.ema_decay", "evaluate.solver", "evaluate.nfe", "evaluate.num_samples",
    ),
    lacks={"the 2-Wasserstein distance": "the sliced Wasserstein distance"},
    rows={
        "FM": Row(stated={"coupling": "independent"}),
        "OT": Row(stated={"coupling": "exact_ot"}),
        "C2OT, the moon as condition": Row(stated={"coupling": "class_conditional_ot"}),
        "C2OT, a coordinate as condition": Row(cannot="a condition here is a class, not a number"),
    },
)  # fmt: skip
