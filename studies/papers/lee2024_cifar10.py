"""CIFAR-10 in one step: a 2-rectified flow from pairs that an EDM makes, trained with other times and losses."""

from harness.ablation.design.paper import PaperTable, Row
from harness.ablation.design.study import load_scale
from harness.core.config import to_dict

U_SHAPED = {"time_sampler": {"name": "u_shaped", "a": 4.0}}
LPIPS = {"LPIPS beside the loss": "pseudo-Huber alone"}

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
