"""Where should sparse noise put a dropped entry: at 0, or at the encoding of the data's zero (a gene not seen)?

Expected before it ran: both kinds of sparse noise are worse than Gaussian noise, because most of the data's mass is not
zero after encoding.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Does noise that drops entries as the data do give better samples, and where should a dropped entry lie?",
    baseline="gaussian",
    arms={
        "gaussian": {"noise": "gaussian"},
        "sparse": {"noise": {"name": "sparse", "dropout_rate": 0.1}},
        "sparse_stored": {"noise": {"name": "sparse", "dropout_rate": 0.1, "stored_zero": True}},
    },
    nfe=32,
    smallest_difference=0.05,
    looks=(5, 10),
)
