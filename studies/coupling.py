"""Does pairing noise with nearby data help at few steps?"""

from harness.ablation.design.study import Study

# More samples at the NFE of the verdicts.
MORE = {"evaluate.more_samples": [{"nfe": 4, "num_samples": 800}]}

STUDY = Study(
    question="Which coupling of data and noise gives the best samples at four calls of the network?",
    baseline="independent",
    arms={
        "independent": MORE | {"coupling": "independent"},
        "exact_ot": MORE | {"coupling": "exact_ot"},
        "sinkhorn": MORE | {"coupling": {"name": "sinkhorn", "reg": 0.05}},
        "class_conditional_ot": MORE | {"coupling": "class_conditional_ot"},
    },
    nfe=4,
    smallest_difference=0.1,
)
