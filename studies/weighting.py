"""Which times should count more in the loss?"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Which weighting of the velocity error gives the best samples?",
    baseline="uniform",
    arms={
        "uniform": {"weighting": "uniform"},
        "inverse_snr": {"weighting": "inverse_snr"},
        "data_end": {"weighting": {"name": "data_end", "power": 2}},
        "noise_end": {"weighting": {"name": "noise_end", "power": 2}},
        "min_snr": {"weighting": {"name": "min_snr", "gamma": 5}},
    },
    nfe=32,
    smallest_difference=0.05,
)
