"""Which of two weightings?"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Does min-SNR help?",
    baseline="even",
    arms={"even": {}, "min_snr": {"weighting": "min_snr"}},
    nfe=2,
    looks=(3,),
)
