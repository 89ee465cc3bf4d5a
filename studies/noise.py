"""Does the distribution that sampling starts from matter?

Expected before it ran: `matched` is better, since it has the data's mean and covariance; `laplace`, `student_t` and
`sparse` are worse; `uniform` is a tie.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Which noise gives the best samples?",
    baseline="gaussian",
    arms={
        "gaussian": {"noise": "gaussian"},
        "matched": {"noise": "matched"},
        "sparse": {"noise": {"name": "sparse", "dropout_rate": 0.1}},
        "student_t": {"noise": {"name": "student_t", "df": 5}},
        "laplace": {"noise": "laplace"},
        "uniform": {"noise": "uniform"},
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
