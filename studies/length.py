"""When does longer training stop paying, and does the flow then copy its training data?"""

from harness.ablation.design.study import Study, load_scale

# The scale's own; a study sets numbers of steps, not shares of them.
STEPS = load_scale("digits").train.steps

STUDY = Study(
    question="When does longer training stop paying, and does the flow then copy its training data?",
    baseline="1x",
    arms={f"{times:g}x": {"train.steps": round(times * STEPS)} for times in (0.25, 0.5, 1, 2, 4, 8)},
    # FID to the training images would reward copies of them; authenticity, which the scale has, counts such copies.
    metric="held_out_fid",
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
