"""Which time grid suits each path? Every path is sampled with every time grid, from the same trained networks.

Expected before it ran: `vp` and `vp_ddpm` need the grid in log SNR most, `linear` and `fm_ot` least; `ve` gains
nothing from `quadratic`.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="How much do the path and the time grid matter at 32 calls of Euler's method, and does the best grid "
    "depend on the path?",
    axes={
        "path": {
            "linear": {"interpolant": "linear"},
            "vp": {"interpolant": "vp"},
            "gvp": {"interpolant": "gvp"},
            "vp_ddpm": {"interpolant": "vp_ddpm"},
            "cosine": {"interpolant": "cosine"},
            "fm_ot": {"interpolant": "fm_ot"},
            "polynomial": {"interpolant": {"name": "polynomial", "power": 2}},
            "ve": {"interpolant": "ve"},
            # The same path with inputs and targets scaled to unit variance; the other paths hardly need this.
            "ve_edm": {"interpolant": "ve", "prediction": {"name": "edm", "sigma_data": 0.75}},
        },
        # The log SNR range of `ve`, the narrowest of all paths.
        "evaluate.time_grid": ["uniform", "quadratic", {"name": "log_snr", "low": -7.5, "high": 9.0}],
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
