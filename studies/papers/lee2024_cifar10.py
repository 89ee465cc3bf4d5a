"""CIFAR-10 in one step: a 2-rectified flow from pairs that an EDM makes, trained with other times and losses."""

from harness.ablation.design.claim import Claim, Column, Ordering, Tie
from harness.ablation.design.paper import PaperTable, Row
from harness.ablation.design.study import Study, load_scale
from harness.core.config import to_dict

U_SHAPED = {"time_sampler": {"name": "u_shaped", "a": 4.0}}
LPIPS = {"LPIPS beside the loss": "pseudo-Huber alone"}

DIGITS = to_dict(load_scale("digits"))
ROUND: dict[str, object] = {
    "reflow.rounds": 1, "reflow.teacher": DIGITS, "evaluate.nfe": [1], "evaluate.num_samples": 800,
}  # fmt: skip
STUDY = Study(
    question="In one round of reflow, do U-shaped times and the pseudo-Huber loss improve one step?",
    baseline="squared error",
    arms={
        "squared error": {**ROUND, **U_SHAPED, "loss": "mse"},
        "pseudo-Huber": {**ROUND, **U_SHAPED, "loss": "pseudo_huber"},
        "uniform times, squared error": {**ROUND, "time_sampler": "uniform", "loss": "mse"},
    },
    nfe=1,
    smallest_difference=0.1,
    looks=(5, 10),
)

TABLE = PaperTable(
    paper="Lee et al. 2024, Improving the Training of Rectified Flows, CIFAR-10",
    scale="cifar10_liu",
    ours={
        "train.batch_size": 512,
        "evaluate.solver": "euler",
        "evaluate.nfe": [1],
        "evaluate.metrics": ["fid"],
        "reflow.rounds": 1,
        "reflow.number": 1_000_000,
        "reflow.teacher": to_dict(load_scale("cifar10_edm")),
        "reflow.warm_start": False,
        "reflow.solver": {"name": "heun", "euler_last": True},
        "reflow.time_grid": "edm_rho",
        "reflow.nfe": 35,
    },
    stated={
        "dataset": "cifar10",
        "interpolant": "linear",
        "train.batch_size": 512,
        "reflow.rounds": 1,
        "reflow.number": 1_000_000,
        "evaluate.nfe": [1],
    },
    unstated=(
        "backbone.dropout", "train.steps", "train.learning_rate", "train.warmup_steps", "train.ema_decay",
        "train.precision", "reflow.nfe", "evaluate.num_samples",
    ),
    lacks={"a start from the weights of the EDM, on another path": "a network that starts untrained"},
    columns={"FID": Column(study="lee2024_cifar10", arms={name: name for name in STUDY.arms}, nfe=1, published="FID")},
    claims={
        "a": Claim(
            says="In a round of reflow, U-shaped times are better than uniform times for one step.",
            parts=[Ordering("FID", ("squared error", "uniform times, squared error"))],
            expected="holds",
            because="one step asks the network at t = 1 only, where U-shaped times are denser",
        ),
        "b": Claim(
            says="In a round of reflow, the pseudo-Huber loss and the squared error tie for one step.",
            parts=[Tie("FID", ("pseudo-Huber", "squared error"))],
            expected="holds",
            because="the published difference is -1 %",
        ),
    },
    rows={
        "pseudo-Huber": Row(stated={"loss": "pseudo_huber"}, ours=U_SHAPED, published={"FID": 5.17}),
        "squared error": Row(stated={"loss": "mse"}, ours=U_SHAPED, published={"FID": 5.24}),
        "uniform times, squared error": Row(stated={"time_sampler": "uniform", "loss": "mse"}),
        "2-rectified flow++": Row(stated={**U_SHAPED, "loss": "pseudo_huber"}, lacks=LPIPS, published={"FID": 3.38}),
        "2-rectified flow++ with real data": Row(
            cannot="pairs of a teacher and of real images are not mixed here", published={"FID": 3.07}
        ),
    },
)  # fmt: skip
