"""When does longer training on digits stop paying, and does the flow then copy its training data?

Expected before it ran: FID to held-out images falls to four times the scale's steps and then rises; authenticity
falls from twice the steps on.
"""

from harness.ablation.design.study import Study, load_scale

OWN = load_scale("digits").train


def times(factor: float) -> dict[str, object]:
    """Return `factor` times the scale's steps and warm-up steps."""
    return {"train.steps": round(factor * OWN.steps), "train.warmup_steps": round(factor * OWN.warmup_steps)}


STUDY = Study(
    question="When does longer training on digits stop paying, and does the flow then copy its training data?",
    baseline="1x",
    arms={f"{factor:g}x": times(factor) for factor in (0.25, 0.5, 1, 2, 4, 8)},
    # FID to the training images would reward copies. The scale also measures authenticity, which detects copies.
    metric="held_out_fid",
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
