"""Which times should count more in the loss?"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Which weighting of the error gives the best samples?",
    baseline="uniform",
    arms={
        "uniform": {"weighting": "uniform"},
        # min(SNR, 5): first on the data error, as in Hang et al., then on the velocity error, which is measured here.
        "min_snr": {"weighting": {"name": "min_snr", "gamma": 5}},
        "clipped_snr": {"weighting": {"name": "clipped_snr", "gamma": 5}},
        "data_end": {"weighting": {"name": "data_end", "power": 2}},
        "noise_end": {"weighting": {"name": "noise_end", "power": 2}},
        "inverse_snr": {"weighting": "inverse_snr"},
    },
    nfe=32,
    smallest_difference=0.1,
)
