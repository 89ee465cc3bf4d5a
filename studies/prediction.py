"""What should a network predict, and in which space should its error be measured?

Expected before it ran: the velocity's error on `data` and `edm` ties with `velocity`; `noise` and `score`, whose
errors grow without bound where the samples are made, are worse in both spaces.
"""

from harness.ablation.design.study import Study

EDM = {"name": "edm", "sigma_data": 0.75}

STUDY = Study(
    question="Which prediction gives the best samples, with its own error measured or that of the velocity it means?",
    baseline="velocity",
    arms={
        "velocity": {"prediction": "velocity"},
        "data": {"prediction": "data"},
        "data_v": {"prediction": "data", "objective.space": "velocity"},
        "noise": {"prediction": "noise"},
        "noise_v": {"prediction": "noise", "objective.space": "velocity"},
        "score": {"prediction": "score"},
        "edm": {"prediction": EDM},
        "edm_v": {"prediction": EDM, "objective.space": "velocity"},
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
