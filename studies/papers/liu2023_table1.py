"""CIFAR-10: rounds of reflow, one step of Euler's method, and distillation."""

from harness.ablation.design.claim import Claim, Column, Ordering, Trend
from harness.ablation.design.paper import PaperTable, Row

RK45 = {"evaluate.solver": {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}, "evaluate.nfe": [0]}
ONE_STEP = {"evaluate.solver": "euler", "evaluate.nfe": [1]}
BETA = {"beta_min": 0.1, "beta_max": 20.0}
STEPS = {"train.steps": 1_300_000}
FIRST = {"interpolant": "linear", **STEPS}
ROUND = {"interpolant": "linear", "reflow.number": 1_000_000}
DISTILLED = {"reflow.distil": True, "reflow.perceptual": "lpips"}
CURVED = "one step of Euler's method gives samples only if the path is straight"


def rk45(nfe: int, score: float, fid: float, recall: float) -> dict[str, float]:
    """Return the values of the columns of the adaptive solver."""
    return {"NFE": nfe, "IS": score, "FID": fid, "recall": recall}


ROUNDS = ("1-rectified", "2-rectified", "3-rectified")


def flows(ending: str, arm_ending: str = "") -> dict[str, str]:
    """Return {row: arm of a study} of each round."""
    return {f"{flow}, {ending}": f"{flow}{arm_ending}" for flow in ROUNDS}


TABLE = PaperTable(
    paper="Liu et al. 2023, Flow Straight and Fast, table 1, CIFAR-10",
    scale="cifar10_liu",
    stated={
        "dataset": "cifar10",
        "prediction": "velocity",
        "weighting": "uniform",
        "loss": "mse",
        "noise": {"name": "gaussian", "std": 1.0},
        "coupling": "independent",
        "time_sampler": {"name": "truncated", "low": 0.0, "high": 0.999},
        "backbone": {
            "name": "ncsnpp", "channels": 128, "multipliers": [1, 2, 2, 2], "blocks": 4, "attention": [16],
            "dropout": 0.15,
        },
        "train.optimizer": "adam",
        "train.batch_size": 128,
        "train.learning_rate": 2e-4,
        "train.warmup_steps": 5000,
        "train.schedule": "constant",
        "train.clip_norm": 1.0,
        "train.ema_decay": 0.999999,
        "evaluate.metrics": ["fid", "isc", "recall"],
    },
    # The steps of a round are not stated; a later note of the authors names 300,000, and 4 million pairs.
    unstated=(
        "dataset.flip", "train.steps", "train.ema_warmup", "train.precision", "reflow.solver", "reflow.nfe",
        "reflow.warm_start", "evaluate.num_samples",
    ),
    scales=("digits", "points", "cells"),
    columns={
        "FID, one step": Column(study="reflow", arms=flows("one step"), nfe=1, published="FID"),
        # The study of rounds has no adaptive solver: 128 steps of Euler's method stand for it.
        "FID, many steps": Column(study="reflow", arms=flows("RK45"), nfe=128, published="FID", paper_nfe=0),
        "straightness": Column(study="reflow", arms={flow: flow for flow in ROUNDS}, nfe=64, metric="straightness"),
        "FID, distilled": Column(
            study="distillation",
            arms={**flows("distilled", " distilled"), **{f"{flow}, one step": flow for flow in ROUNDS}},
            nfe=1,
            published="FID",
        ),
    },
    claims={
        "a": Claim(
            says="One step is better after every round.",
            parts=[Ordering("FID, one step", [f"{flow}, one step" for flow in reversed(ROUNDS)])],
            expected="holds",
            because="the published differences are -97 and -33 %",
            after=True,
        ),
        "b": Claim(
            says="With many steps, FID rises with every round.",
            parts=[Ordering("FID, many steps", [f"{flow}, RK45" for flow in ROUNDS])],
            expected="holds",
            because="each round learns from samples of the round before; the published differences are +30 and +18 %",
            after=True,
        ),
        "c": Claim(
            says="The flow is straighter after every round.",
            parts=[Ordering("straightness", list(reversed(ROUNDS)))],
            expected="holds",
            because="theorem 3.7 of the paper",
            after=True,
        ),
        "distillation": Claim(
            says="Distillation improves one step of every flow.",
            parts=[Ordering("FID, distilled", (f"{flow}, distilled", f"{flow}, one step")) for flow in ROUNDS],
            expected="holds",
            because="a distilled network is trained for one step; the published differences are -98, -60 and -36 %",
            after=True,
        ),
        "distilled first": Claim(
            says="A distilled 2-rectified flow is better than a distilled first flow.",
            parts=[Ordering("FID, distilled", ("2-rectified, distilled", "1-rectified, distilled"))],
            expected="holds",
            because="its pairs are straighter; the published difference is -22 %",
            after=True,
        ),
        "distilled trend": Claim(
            says="The distilled flow improves from round to round.",
            parts=[Trend("FID, distilled", [f"{flow}, distilled" for flow in ROUNDS])],
            expected="holds",
            because="the published values fall by 8 % from round to round on average",
            after=True,
        ),
    },
    rows={
        "1-rectified, RK45": Row(stated={**RK45, **FIRST}, published=rk45(127, 9.60, 2.58, 0.57)),
        "2-rectified, RK45": Row(stated={**RK45, **ROUND, "reflow.rounds": 1}, published=rk45(110, 9.24, 3.36, 0.54)),
        "3-rectified, RK45": Row(stated={**RK45, **ROUND, "reflow.rounds": 2}, published=rk45(104, 9.01, 3.96, 0.53)),
        "1-rectified, one step": Row(stated={**ONE_STEP, **FIRST}, published={"FID": 378}),
        "2-rectified, one step": Row(stated={**ONE_STEP, **ROUND, "reflow.rounds": 1}, published={"FID": 12.21}),
        "3-rectified, one step": Row(stated={**ONE_STEP, **ROUND, "reflow.rounds": 2}, published={"FID": 8.15}),
        **{
            f"{k}-rectified, distilled": Row(
                stated={**ONE_STEP, **ROUND, **DISTILLED, "reflow.rounds": k - 1},
                published={"IS": score, "FID": fid, "recall": recall},
            )
            for k, score, fid, recall in ((1, 9.08, 6.18, 0.45), (2, 9.01, 4.85, 0.50), (3, 8.79, 5.21, 0.51))
        },
        "VP ODE": Row(
            stated={**RK45, **STEPS, "interpolant": {"name": "vp_ddpm", **BETA}}, published=rk45(140, 9.37, 3.93, 0.51)
        ),
        "sub-VP ODE": Row(
            stated={**RK45, **STEPS, "interpolant": {"name": "sub_vp", **BETA}}, published=rk45(146, 9.46, 3.16, 0.55)
        ),
        "VP ODE, distilled": Row(cannot=CURVED, published={"IS": 8.73, "FID": 16.23, "recall": 0.29}),
        "sub-VP ODE, distilled": Row(cannot=CURVED, published={"IS": 8.80, "FID": 14.32, "recall": 0.35}),
        "VP SDE": Row(
            cannot="its sampler alternates a step of the equation with steps of Langevin dynamics",
            published={"FID": 2.55, "NFE": 2000},
        ),
    },
)  # fmt: skip
