"""Do rounds of reflow straighten the flow, and how few steps does each round need?

Expected before it ran: the second flow is better than the first at 4 calls, the third and fourth are no better than
the second.
"""

from harness.ablation.design.study import Study

NFE = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]

STUDY = Study(
    question="How many steps of Euler's method does a flow need after each round of reflow, and what does a round cost "
    "in quality?",
    baseline="1-rectified",
    arms={f"{k}-rectified": {"reflow.rounds": k - 1, "evaluate.nfe": NFE} for k in (1, 2, 3, 4)},
    # More samples at the NFE of the verdicts.
    at_scale={"digits": {"evaluate.more_samples": [{"nfe": 4, "num_samples": 800}]}},
    metrics=("straightness", "curvature", "transport_cost"),
    expected_nfe={"1-rectified": (50, 100), "2-rectified": (20, 30), "3-rectified": (10, 15)},
    nfe=4,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
