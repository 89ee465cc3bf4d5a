"""Which path should lead from data to noise?"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Which interpolant gives the best samples, with the velocity predicted on each?",
    baseline="linear",
    arms={
        "linear": {"interpolant": "linear"},
        "vp": {"interpolant": "vp"},
        "gvp": {"interpolant": "gvp"},
        "vp_ddpm": {"interpolant": "vp_ddpm"},
        "cosine": {"interpolant": "cosine"},
        "fm_ot": {"interpolant": "fm_ot"},
        "polynomial": {"interpolant": {"name": "polynomial", "power": 2}},
        "ve": {"interpolant": "ve"},
        # The same path with inputs and targets scaled to unit variance, which the others hardly need.
        "ve_edm": {"interpolant": "ve", "prediction": {"name": "edm", "sigma_data": 0.75}},
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
