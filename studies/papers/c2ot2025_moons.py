"""Eight Gaussians to moons: couplings for generation under a condition."""

from harness.ablation.design.claim import Claim, Column, Ordering
from harness.ablation.design.paper import PaperTable, Row
from harness.ablation.design.study import Study

MOONS: dict[str, object] = {
    "dataset": "moons",
    "noise": {"name": "population", "dataset": {"name": "eight_gaussians"}},
    "objective.label_dropout": 0.0,
    "evaluate.nfe": [4, 64],
}
ARMS = {"FM": "independent", "OT": "exact_ot", "C2OT, the moon as condition": "class_conditional_ot"}
STUDY = Study(
    question="Does a coupling that ignores the condition harm generation under the condition?",
    baseline="FM",
    arms={row: {**MOONS, "coupling": coupling} for row, coupling in ARMS.items()},
    metric="class_wasserstein",
    metrics=["class_wasserstein"],
    nfe=64,
    smallest_difference=0.1,
    looks=(10,),
)
ROWS = {row: row for row in ARMS}

TABLE = PaperTable(
    paper="Cheng & Schwing 2025 (C2OT), The Curse of Conditions, 8 Gaussians to moons",
    scale="points",
    scales=("points",),
    ours={**MOONS, "evaluate.metrics": ["class_wasserstein"]},
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
    lacks={"the 2-Wasserstein distance": "by class, with coordinates in standard deviations of the data"},
    columns={
        "distance": Column(study="c2ot2025_moons", arms=ROWS, nfe=64, metric="class_wasserstein"),
        "distance, 4 calls": Column(study="c2ot2025_moons", arms=ROWS, nfe=4, metric="class_wasserstein"),
    },
    claims={
        "a": Claim(
            says="At many calls, independent pairs are better than a coupling by OT that ignores the condition.",
            parts=[Ordering("distance", ("FM", "OT"))],
            expected="holds",
            because="such a coupling ties the noise to the class, and sampling starts each class from all the noise",
        ),
        "b": Claim(
            says="At many calls, OT within each class is better than OT that ignores the condition.",
            parts=[Ordering("distance", ("C2OT, the moon as condition", "OT"))],
            expected="holds",
            because="its noise does not depend on the class",
        ),
        "b, 4 calls": Claim(
            says="At few calls, OT within each class is better than independent pairs.",
            parts=[Ordering("distance, 4 calls", ("C2OT, the moon as condition", "FM"))],
            expected="holds",
            because="its paths are straighter, and few steps follow straight paths",
        ),
    },
    rows={
        **{row: Row(stated={"coupling": coupling}) for row, coupling in ARMS.items()},
        "C2OT, a coordinate as condition": Row(cannot="a condition here is a class, not a number"),
    },
)  # fmt: skip
