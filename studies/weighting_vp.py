"""Does weighting by the inverse SNR help on its usual path, that of diffusion?"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="On the variance preserving path, does weighting the error by the inverse SNR give better samples?",
    baseline="uniform",
    arms={
        "uniform": {"interpolant": "vp", "weighting": "uniform"},
        "inverse_snr": {"interpolant": "vp", "weighting": "inverse_snr"},
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
