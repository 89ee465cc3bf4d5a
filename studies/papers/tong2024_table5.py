"""CIFAR-10: couplings and paths, by two solvers."""

from harness.ablation.design.paper import PaperTable, Row

STRAIGHT = {"interpolant": "linear", "coupling": "independent"}


def values(euler_100: float, euler_1000: float, dopri5: float, nfe: int) -> dict[str, float]:
    """Return the values of a row."""
    return {"FID, Euler-100": euler_100, "FID, Euler-1000": euler_1000, "FID, dopri5": dopri5, "NFE, dopri5": nfe}


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
