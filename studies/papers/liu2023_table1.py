"""CIFAR-10: rounds of reflow, one step of Euler's method, and distillation."""

from harness.ablation.design.paper import PaperTable, Row

RK45 = {"evaluate.solver": {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}, "evaluate.nfe": [0]}
ONE_STEP = {"evaluate.solver": "euler", "evaluate.nfe": [1]}
BETA = {"beta_min": 0.1, "beta_max": 20.0}
STEPS = {"train.steps": 1_300_000}
DISTILLED = {**ONE_STEP, "reflow.distil": True, "reflow.perceptual": "lpips", "reflow.number": 1_000_000}

TABLE = PaperTable(
    paper="Liu et al. 2023, Flow Straight and Fast, table 1, CIFAR-10",
    scale="cifar10_liu",
    stated={
        "dataset": "cifar10",
        "prediction": "velocity",
        "weighting": "uniform",
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
    unstated=("dataset.flip", "train.steps", "train.ema_warmup", "evaluate.num_samples"),
    rows={
        "1-rectified, RK45": Row(stated={**RK45, **STEPS}),
        "2-rectified, RK45": Row(stated={**RK45, "reflow.rounds": 1, "reflow.number": 1_000_000}),
        "3-rectified, RK45": Row(stated={**RK45, "reflow.rounds": 2, "reflow.number": 1_000_000}),
        "1-rectified, one step": Row(stated={**ONE_STEP, **STEPS}),
        "2-rectified, one step": Row(stated={**ONE_STEP, "reflow.rounds": 1, "reflow.number": 1_000_000}),
        "3-rectified, one step": Row(stated={**ONE_STEP, "reflow.rounds": 2, "reflow.number": 1_000_000}),
        **{f"{k}-rectified, distilled": Row(stated={**DISTILLED, "reflow.rounds": k - 1}) for k in (1, 2, 3)},
        "VP ODE": Row(stated={**RK45, **STEPS, "interpolant": {"name": "vp_ddpm", **BETA}}),
        "sub-VP ODE": Row(stated={**RK45, **STEPS, "interpolant": {"name": "sub_vp", **BETA}}),
        "VP SDE": Row(cannot="its sampler alternates a step of the equation with steps of Langevin dynamics"),
    },
)  # fmt: skip
