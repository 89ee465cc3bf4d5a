"""Which network, which conditioning and which embedding of time?

Expected before it ran: worse with `add` and with `unscaled` times, which hardly tell one time from another;
attention, `fourier` and `learned` tie; `dit` is far worse, because a transformer needs longer training than this.
"""

from harness.ablation.design.study import Study

STUDY = Study(
    question="Which network gives the best samples, and do its conditioning, its attention and its embedding of time "
    "matter?",
    baseline="unet",
    arms={
        "unet": {},
        "unet_add": {"backbone.conditioning": "add"},
        "unet_attention": {"backbone.attention": [4]},
        "unet_unscaled": {"backbone.time_embedding.scale": 1.0},
        "unet_fourier": {"backbone.time_embedding": "fourier"},
        "unet_learned": {"backbone.time_embedding": "learned"},
        # A transformer does not tolerate the U-Net's learning rate and beta2.
        "dit": {
            "backbone": {"name": "dit", "preset": "digits"},
            "train.learning_rate": 2e-3,
            "train.optimizer.beta2": 0.99,
        },
    },
    nfe=32,
    smallest_difference=0.1,
    looks=(5, 10, 20),
)
