"""Does it help at few steps to pair noise with the data that lie near it?"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Which coupling of data and noise gives the best samples at four calls of the network?",
    baseline="independent",
    arms={
        "independent": {"coupling": "independent"},
        "exact_ot": {"coupling": "exact_ot"},
        "sinkhorn": {"coupling": {"name": "sinkhorn", "reg": 0.05}},
        "class_conditional_ot": {"coupling": "class_conditional_ot"},
    },
    nfe=4,
    smallest_difference=0.1,
)
