"""Text to image: formulations ranked over data sets, solvers and steps (table 1), and their FID (table 2)."""

from harness.ablation.design.paper import PaperTable, Row

WHY = "its networks draw images from text, and no network here reads text"


def row(ranks: tuple[float, float, float], fid: float | None = None, **stated: object) -> Row:
    """Return a row of a formulation, which studies at other scales can take, with its mean ranks and its FID."""
    published = dict(zip(("rank, all", "rank, 5 steps", "rank, 50 steps"), ranks, strict=True))
    published |= {} if fid is None else {"FID, 25 steps": fid}
    return Row(stated={"interpolant": "linear", "prediction": "velocity", **stated}, cannot=WHY, published=published)


def log_normal(mean: float, std: float, ranks: tuple[float, float, float]) -> Row:
    """Return EDM's formulation with log-normal noise levels."""
    return row(
        ranks,
        interpolant="edm",
        prediction={"name": "edm", "sigma_data": 0.5},
        weighting={"name": "edm", "sigma_data": 0.5},
        time_sampler={"name": "edm_lognormal", "mean": mean, "std": std},
    )


def logit_normal(mean: float, std: float, ranks: tuple[float, float, float], fid: float | None = None) -> Row:
    """Return rectified flow with logit-normal times."""
    return row(ranks, fid, time_sampler={"name": "logit_normal", "mean": mean, "std": std})


TABLE = PaperTable(
    paper="Esser et al. 2024, Scaling Rectified Flow Transformers, tables 1 and 2",
    scale="imagenet_latents",
    rows={
        "rf/lognorm(0.00, 1.00)": logit_normal(0.0, 1.0, (1.54, 1.25, 1.50), 45.78),
        "rf/lognorm(1.00, 0.60)": logit_normal(1.0, 0.6, (2.08, 3.50, 2.00), 114.26),
        "rf/lognorm(0.50, 0.60)": logit_normal(0.5, 0.6, (2.71, 8.50, 1.00)),
        "rf/mode(1.29)": row((2.75, 3.25, 3.00), time_sampler={"name": "mode", "scale": 1.29}),
        "rf/lognorm(0.50, 1.00)": logit_normal(0.5, 1.0, (2.83, 1.50, 2.50)),
        "eps/linear": row((2.88, 4.25, 2.75), interpolant="vp_ldm", prediction="noise"),
        "rf/mode(1.75)": row((3.33, 2.75, 2.75), 44.39, time_sampler={"name": "mode", "scale": 1.75}),
        "rf/cosmap": row((4.13, 3.75, 4.00), time_sampler="cosmap"),
        "edm(0.00, 0.60)": log_normal(0.0, 0.6, (5.63, 13.25, 3.25)),
        "rf": row((5.67, 6.50, 5.75), 49.70, time_sampler="uniform"),
        # Its v is alpha x1 - sigma x0, which is no prediction here.
        "v/linear": Row(cannot=WHY, published={"rank, all": 6.83, "rank, 5 steps": 5.75, "rank, 50 steps": 7.75}),
        "edm(0.60, 1.20)": log_normal(0.6, 1.2, (9.00, 13.00, 9.00)),
        "v/cos": row((9.17, 12.25, 8.75), interpolant="gvp"),
        "edm(-1.20, 1.20)": log_normal(-1.2, 1.2, (15.58, 20.25, 15.00)),
    },
)
