"""Text to image: formulations ranked over data sets, solvers and steps (table 1), and their FID (table 2)."""

from harness.ablation.design.paper import PaperTable, Row

WHY = "its networks draw images from text, and no network here reads text"


def row(**stated: object) -> Row:
    """Return a row of a formulation, which studies at other scales can take."""
    return Row(stated={"interpolant": "linear", "prediction": "velocity", **stated}, cannot=WHY)


def log_normal(mean: float, std: float) -> Row:
    """Return EDM's formulation with log-normal noise levels."""
    return row(
        interpolant="edm",
        prediction={"name": "edm", "sigma_data": 0.5},
        weighting={"name": "edm", "sigma_data": 0.5},
        time_sampler={"name": "edm_lognormal", "mean": mean, "std": std},
    )


def logit_normal(mean: float, std: float) -> Row:
    """Return rectified flow with logit-normal times."""
    return row(time_sampler={"name": "logit_normal", "mean": mean, "std": std})


TABLE = PaperTable(
    paper="Esser et al. 2024, Scaling Rectified Flow Transformers, tables 1 and 2",
    scale="imagenet_latents",
    rows={
        "rf/lognorm(0.00, 1.00)": logit_normal(0.0, 1.0),
        "rf/lognorm(1.00, 0.60)": logit_normal(1.0, 0.6),
        "rf/lognorm(0.50, 0.60)": logit_normal(0.5, 0.6),
        "rf/lognorm(0.50, 1.00)": logit_normal(0.5, 1.0),
        "rf/mode(1.29)": row(time_sampler={"name": "mode", "scale": 1.29}),
        "rf/mode(1.75)": row(time_sampler={"name": "mode", "scale": 1.75}),
        "rf/cosmap": row(time_sampler="cosmap"),
        "rf": row(time_sampler="uniform"),
        "eps/linear": row(interpolant="vp_ldm", prediction="noise"),
        "v/linear": row(interpolant="vp_ldm"),
        "v/cos": row(interpolant="gvp"),
        "edm(0.00, 0.60)": log_normal(0.0, 0.6),
        "edm(0.60, 1.20)": log_normal(0.6, 1.2),
        "edm(-1.20, 1.20)": log_normal(-1.2, 1.2),
    },
)
