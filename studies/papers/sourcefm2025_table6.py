"""CIFAR-10: the noise that training and sampling start from, and two couplings, by Euler's method."""

from harness.ablation.design.claim import Claim, Column, Ordering, Tie
from harness.ablation.design.paper import PaperTable, Row
from harness.ablation.design.study import Study

WIDTH = 27.198 / 55.418
"""Width of the norm-aligned noise: ratio of the norms of images and of noise, as the authors' code has it."""
ALIGNED: dict[str, object] = {"noise": {"name": "gaussian", "std": WIDTH}}
PRUNED: dict[str, object] = {"evaluate.noise": "pruned"}
SOURCES: dict[str, dict[str, object]] = {
    "Gaussian": {"noise": {"name": "gaussian", "std": 1.0}},
    "pruned sampling": {"noise": {"name": "gaussian", "std": 1.0}, **PRUNED},
    "norm-aligned": ALIGNED,
    "both": {**ALIGNED, "evaluate.noise": {"name": "pruned", "std": WIDTH}},
}
NFE = (5, 10, 20, 40, 100)
OT = {
    "Gaussian": ((19.80, 0.39), (10.95, 0.34), (7.41, 0.20), (5.61, 0.10), (4.40, 0.01)),
    "pruned sampling": ((17.24, 0.08), (9.17, 0.14), (6.34, 0.05), (4.92, 0.11), (4.15, 0.07)),
    "norm-aligned": ((24.92, 0.17), (11.39, 0.01), (6.81, 0.07), (4.98, 0.06), (4.03, 0.08)),
    "both": ((21.52, 0.22), (9.55, 0.06), (5.85, 0.03), (4.53, 0.06), (3.88, 0.03)),
}
INDEPENDENT = {
    "Gaussian": ((34.49, 0.24), (13.30, 0.06), (7.75, 0.08), (5.63, 0.06), (4.35, 0.02)),
    "pruned sampling": ((28.78, 0.19), (10.37, 0.15), (6.40, 0.06), (4.89, 0.09), (3.97, 0.03)),
    "norm-aligned": ((52.20, 0.09), (18.94, 0.18), (8.10, 0.04), (4.93, 0.08), (3.79, 0.02)),
    "both": ((48.10, 0.34), (16.58, 0.24), (7.04, 0.06), (4.56, 0.03), (3.64, 0.02)),
}

# On digits the ratio of the norms is 0.846; `python -c` with sklearn's digits in [-1, 1] prints it.
DIGITS_WIDTH = 0.846
DIGITS_SOURCES: dict[str, dict[str, object]] = {
    "Gaussian": {"noise": "gaussian"},
    "pruned sampling": {"noise": "gaussian", "evaluate.noise": "pruned"},
    "norm-aligned": {"noise": {"name": "gaussian", "std": DIGITS_WIDTH}},
    "both": {
        "noise": {"name": "gaussian", "std": DIGITS_WIDTH},
        "evaluate.noise": {"name": "pruned", "std": DIGITS_WIDTH},
    },
}
SAMPLED: dict[str, object] = {"evaluate.nfe": list(NFE), "evaluate.num_samples": 800}
STUDY = Study(
    question="Do couplings and sources of noise differ as in SourceFM, from 5 to 100 steps of Euler's method?",
    baseline="independent, Gaussian",
    arms={
        f"{pairs}, {source}": {"coupling": coupling, **settings, **SAMPLED}
        for pairs, coupling in (("independent", "independent"), ("OT", "exact_ot"))
        for source, settings in DIGITS_SOURCES.items()
    },
    nfe=5,
    smallest_difference=0.1,
    looks=(5, 10),
)
ARMS = {name: name for name in STUDY.arms}
BOTH = ("OT", "independent")

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
    columns={
        f"FID, NFE {nfe}": Column(study="sourcefm2025_table6", arms=ARMS, nfe=nfe, published=f"FID, NFE {nfe}")
        for nfe in NFE
    },
    claims={
        "a": Claim(
            says="The OT coupling is better than independent pairs at 5 and 10 calls.",
            parts=[Ordering(f"FID, NFE {nfe}", ("OT, Gaussian", "independent, Gaussian")) for nfe in (5, 10)],
            expected="holds",
            because="it was better by 53 % at 4 calls here; the published differences are -43 and -18 %",
        ),
        "b": Claim(
            says="The two couplings tie at 100 calls.",
            parts=[Tie("FID, NFE 100", ("OT, Gaussian", "independent, Gaussian"))],
            expected="holds",
            because="both learn the same distribution, and the published difference is +1 %",
        ),
        "c, 5 calls": Claim(
            says="Norm-aligned noise is worse than Gaussian noise at 5 calls.",
            parts=[Ordering("FID, NFE 5", ("independent, Gaussian", "independent, norm-aligned"))],
            expected="does not hold",
            because="on digits the norms differ by 15 %, on CIFAR-10 by 51 %, so the two noises are nearly the same",
        ),
        "c, 100 calls": Claim(
            says="Norm-aligned noise is better than Gaussian noise at 100 calls.",
            parts=[Ordering("FID, NFE 100", ("independent, norm-aligned", "independent, Gaussian"))],
            expected="does not hold",
            because="on digits the norms differ by 15 %, on CIFAR-10 by 51 %, so the two noises are nearly the same",
        ),
        "d": Claim(
            says="Pruned sampling is better than Gaussian noise at 5 calls, without training anything.",
            parts=[Ordering("FID, NFE 5", ("independent, pruned sampling", "independent, Gaussian"))],
            expected="holds",
            because="the published difference is -17 %",
        ),
        "d, every NFE": Claim(
            says="Pruned sampling is better than Gaussian noise at every number of calls.",
            parts=[
                Ordering(f"FID, NFE {nfe}", ("independent, pruned sampling", "independent, Gaussian")) for nfe in NFE
            ],
            expected="holds",
            because="the published differences are -9 to -22 %",
        ),
    },
    rows={
        f"{pairs}, {source}": Row(
            stated={"coupling": coupling, **SOURCES[source]},
            published={f"FID, NFE {nfe}": value for nfe, value in zip(NFE, values, strict=True)},
        )
        for pairs, coupling, rows in (("OT", "exact_ot", OT), ("independent", "independent", INDEPENDENT))
        for source, values in rows.items()
    },
)  # fmt: skip
