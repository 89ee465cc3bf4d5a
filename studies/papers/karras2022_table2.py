"""CIFAR-10, unconditional: the changes of EDM, one after another."""

from harness.ablation.design.claim import Claim, Column, Ordering
from harness.ablation.design.paper import PaperTable, Row
from harness.ablation.design.study import Study

ANOTHER_PATH = (
    "its network learns on the path of Song et al. 2021 and is sampled along sigma(t) = t; here a flow is "
    "sampled along the path that it has learned"
)
DDPMPP = {
    "backbone.filter": "box",
    "backbone.progressive_input": "none",
    "backbone.time_embedding": {"name": "sinusoidal", "scale": 1.0},
}
NCSNPP = {
    "backbone.filter": "fir",
    "backbone.progressive_input": "residual",
    "backbone.time_embedding": "fourier",
    "backbone.time_multiplier": 2,
}
EDM = {
    "weighting": {"name": "edm", "sigma_data": 0.5, "t_min": 1e-6},
    "time_sampler": {"name": "edm_lognormal", "mean": -1.2, "std": 1.2},
}
AUGMENTED = {"augmentation of 12 % of the images": "flips alone"}

SAMPLED = {
    "interpolant": "edm",
    "prediction": {"name": "edm", "sigma_data": 0.75, "time": "log_sigma"},
    "evaluate.solver": {"name": "heun", "euler_last": True},
    "evaluate.time_grid": {"name": "edm_rho", "rho": 7.0, "sigma_min": 0.002, "sigma_max": 80.0},
    "evaluate.nfe": [35],
    "evaluate.num_samples": 800,
}
STUDY = Study(
    question="With EDM's preconditioning, are its loss weighting and its density of noise levels better than the plain "
    "noise error on log-uniform levels?",
    baseline="D, preconditioning, VE",
    arms={
        "D, preconditioning, VE": {
            **SAMPLED,
            "time_sampler": {"name": "log_uniform", "sigma_min": 0.02, "sigma_max": 80.0},
            "weighting": "uniform",
            "objective.space": "noise",
        },
        "E, loss, VE": {
            **SAMPLED,
            "time_sampler": {"name": "edm_lognormal", "mean": -1.2, "std": 1.2},
            "weighting": {"name": "edm", "sigma_data": 0.75},
        },
    },
    nfe=35,
    smallest_difference=0.1,
    looks=(5, 10),
)

TABLE = PaperTable(
    paper="Karras et al. 2022, Elucidating the Design Space of Diffusion-Based Generative Models, table 2, CIFAR-10",
    scale="cifar10_edm",
    stated={
        "dataset": "cifar10",
        "interpolant": "edm",
        "prediction": {"name": "edm", "sigma_data": 0.5, "time": "log_sigma"},
        "objective.normalise_weight": False,
        "backbone": {"name": "ncsnpp", "channels": 128, "blocks": 4, "multipliers": [2, 2, 2], "dropout": 0.13},
        "train.optimizer": "adam",
        "train.batch_size": 512,
        "train.steps": 200_000_000 // 512,
        "train.learning_rate": 1e-3,
        "train.schedule": "constant",
        "train.ema_decay": 0.5 ** (512 / 500_000),
        "evaluate.solver": {"name": "heun", "euler_last": True},
        "evaluate.time_grid": {"name": "edm_rho", "rho": 7.0, "sigma_min": 0.002, "sigma_max": 80.0},
        "evaluate.nfe": [35],
        "evaluate.metrics": [{"name": "lowest_fid", "sets": 3}],
        "evaluate.num_samples": 150_000,
    },
    unstated=("dataset.flip", "train.warmup_steps", "train.clip_norm", "train.precision"),
    lacks={"the weight average has a half-life of at most 5 % of the images so far": "a start by `train.ema_warmup`"},
    columns={
        "FID": Column(
            study="karras2022_table2",
            arms={name: name for name in STUDY.arms},
            nfe=35,
            published="FID",
        ),
    },
    claims={
        "a": Claim(
            says="EDM's weighting and density of noise levels improve on the plain noise error (D to E).",
            parts=[Ordering("FID", ("E, loss, VE", "D, preconditioning, VE"))],
            expected="holds",
            because="the published difference is -36 %",
        ),
    },
    rows={
        "A, baseline, VP": Row(cannot=ANOTHER_PATH, published={"FID": 3.01}),
        "A, baseline, VE": Row(cannot=ANOTHER_PATH, published={"FID": 3.77}),
        "B, hyperparameters, VP": Row(cannot=ANOTHER_PATH, published={"FID": 2.51}),
        "B, hyperparameters, VE": Row(cannot=ANOTHER_PATH, published={"FID": 2.94}),
        "C, capacity, VP": Row(cannot=ANOTHER_PATH, published={"FID": 2.31}),
        "C, capacity, VE": Row(cannot=ANOTHER_PATH, published={"FID": 2.83}),
        "D, preconditioning, VP": Row(
            cannot="its density of noise levels is that of times on another path, VP", published={"FID": 2.29}
        ),
        "D, preconditioning, VE": Row(
            stated={
                **NCSNPP,
                "time_sampler": {"name": "log_uniform", "sigma_min": 0.02, "sigma_max": 100.0},
                "weighting": "uniform",
                "objective.space": "noise",
            },
            ours={"interpolant.sigma_max": 100.0},
            lacks={"sampling from sigma = 80": "the path begins at the highest level of training, 100"},
            published={"FID": 3.10},
        ),
        "E, loss, VP": Row(stated={**DDPMPP, **EDM}, published={"FID": 2.05}),
        "E, loss, VE": Row(stated={**NCSNPP, **EDM}, published={"FID": 1.99}),
        "F, augmentation, VP": Row(stated={**DDPMPP, **EDM}, lacks=AUGMENTED, published={"FID": 1.97}),
        "F, augmentation, VE": Row(stated={**NCSNPP, **EDM}, lacks=AUGMENTED, published={"FID": 1.98}),
    },
)
