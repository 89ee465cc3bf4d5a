"""CIFAR-10: couplings and paths, by two solvers."""

from harness.ablation.design.claim import CALLS, Claim, Column, Ordering, Tie
from harness.ablation.design.paper import PaperTable, Row
from harness.ablation.design.study import Study

STRAIGHT = {"interpolant": "linear", "coupling": "independent"}


def values(euler_100: float, euler_1000: float, dopri5: float, nfe: int) -> dict[str, float]:
    """Return the values of a row."""
    return {"FID, Euler-100": euler_100, "FID, Euler-1000": euler_1000, "FID, dopri5": dopri5, "NFE, dopri5": nfe}


EULER = {"evaluate.solver": "euler", "evaluate.nfe": [5, 10, 20, 100]}
DOPRI5 = {"evaluate.solver": {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}, "evaluate.nfe": [0]}
PATHS: dict[str, dict[str, object]] = {
    "I-CFM": {"interpolant": "linear"},
    # The published script has sigma = 0 for every model: then this is the path of I-CFM.
    "FM (OT path)": {"interpolant": {"name": "fm_ot", "sigma_min": 0.0}},
    "OT-CFM": {"interpolant": "linear", "coupling": "exact_ot"},
    "VP-FM": {"interpolant": "gvp"},
}

STUDY = Study(
    question="Do the paths and couplings of Tong et al. 2024 differ at 100 steps of Euler's method, and with an "
    "adaptive solver?",
    baseline="I-CFM",
    arms={
        **{name: {**path, **EULER} for name, path in PATHS.items()},
        **{f"{name}, dopri5": {**path, **DOPRI5} for name, path in PATHS.items()},
    },
    at_scale={"digits": {"evaluate.num_samples": 800}},
    nfe=100,
    smallest_difference=0.1,
    looks=(5, 10),
)
ADAPTIVE = {name: f"{name}, dopri5" for name in PATHS}

TABLE = PaperTable(
    paper="Tong et al. 2024, Improving and Generalizing Flow-Based Generative Models, table 5, CIFAR-10",
    scale="cifar10",
    stated={
        "dataset": {"name": "cifar10", "flip": True},
        "prediction": "velocity",
        "time_sampler": "uniform",
        "weighting": "uniform",
        "noise": {"name": "gaussian", "std": 1.0},
        "backbone": {
            "name": "unet", "channels": 128, "blocks": 2, "multipliers": [1, 2, 2, 2], "attention": [16],
            "head_channels": 64, "dropout": 0.1,
        },
        "train.optimizer": "adam",
        "train.batch_size": 128,
        "train.steps": 400_000,
        "train.learning_rate": 2e-4,
        "train.warmup_steps": 5000,
        "train.schedule": "constant",
        "train.clip_norm": 1.0,
        "train.ema_decay": 0.9999,
        "train.ema_warmup": False,
        "evaluate.num_samples": 50_000,
        "evaluate.metrics": ["fid"],
    },
    unstated=("train.precision",),
    lacks={"FID by clean-fid, legacy_tensorflow": "FID by torch-fidelity"},
    evaluations={
        "Euler-100, Euler-1000": {"evaluate.solver": "euler", "evaluate.nfe": [100, 1000]},
        "dopri5": {"evaluate.solver": {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}, "evaluate.nfe": [0]},
    },
    scales=("digits", "points", "cells", "cifar10_small"),
    columns={
        "FID, Euler-100": Column(
            study="tong2024_table5", arms={name: name for name in PATHS}, nfe=100, published="FID, Euler-100",
            evaluation="Euler-100, Euler-1000",
        ),
        "FID, dopri5": Column(
            study="tong2024_table5", arms=ADAPTIVE, nfe=0, published="FID, dopri5", evaluation="dopri5"
        ),
        "NFE, dopri5": Column(
            study="tong2024_table5", arms=ADAPTIVE, nfe=0, metric=CALLS, published="NFE, dopri5", evaluation="dopri5"
        ),
    },
    claims={
        "a": Claim(
            says="FM on the OT path with sigma_min = 0 and I-CFM tie: they are one method.",
            parts=[Tie(column, ("FM (OT path)", "I-CFM")) for column in ("FID, Euler-100", "FID, dopri5")],
            expected="holds",
            because="they have the same objective, and arms share their seeds",
        ),
        "b": Claim(
            says="The VP path is worse than the straight path at 100 steps of Euler's method.",
            parts=[Ordering("FID, Euler-100", ("I-CFM", "VP-FM"))],
            expected="does not hold",
            because="the path of the published code, a quarter of a circle, was within 3 % of the straight one here",
        ),
        "c": Claim(
            says="OT-CFM and I-CFM tie with the adaptive solver.",
            parts=[Tie("FID, dopri5", ("OT-CFM", "I-CFM"))],
            expected="holds",
            because="both learn the same distribution, and the published difference is -2 %",
        ),
        "d": Claim(
            says="The OT coupling does not cost calls of the adaptive solver: it needs fewer.",
            parts=[Ordering("NFE, dopri5", ("OT-CFM", "I-CFM"))],
            expected="holds",
            because="its flow is straighter; the published difference is -8 %",
            smallest_difference=0.05,
        ),
    },
    rows={
        "OT-CFM": Row(stated={**STRAIGHT, "coupling": "exact_ot"}, published=values(4.443, 3.741, 3.577, 134)),
        "I-CFM": Row(stated=STRAIGHT, published=values(4.461, 3.643, 3.659, 146)),
        # With sigma = 0, as the published script has it, the objective of I-CFM.
        "FM (OT path)": Row(stated=STRAIGHT, published=values(4.640, 3.822, 3.655, 143)),
        # The path of the published code: a quarter of a circle.
        "VP-FM": Row(
            stated={"interpolant": "gvp", "coupling": "independent"}, published=values(7.772, 4.048, 4.335, 526)
        ),
    },
)  # fmt: skip
