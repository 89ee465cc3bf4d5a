"""The configurations of the golden losses, FID and names in tests/golden. They do not depend on the tuning of scales.

`python tests/golden_cases.py` writes the golden files again, after a version was raised for a stated reason.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from harness.core.config import override
from harness.core.errors import Stopped
from harness.data.base import Data
from harness.evaluation.protocol import EVALUATION_VERSION
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import NUMERICS_VERSION
from harness.runs.train import ensure, train

GOLDEN = Path(__file__).parent / "golden"
STEPS = 20
TRAIN = {
    "steps": 500,
    "warmup_steps": 5,
    "log_every": 1,
    "sample_every": 500,
    "checkpoint_every": STEPS,
    "device": "cpu",
}
VALUES = {"extractor": "values", "nfe": [2], "num_samples": 40, "batch_size": 40}
DISTANCES = [{"name": name} for name in ("sliced_wasserstein", "mmd", "energy", "c2st")]


Settings = dict[str, Any]


def scales(folder: Path) -> dict[str, RunConfig]:
    """Return 20 steps of every scale that trains on a CPU, and of weightings with a conversion.

    Writes the data files that they read to `folder`.
    """
    written = {**of_digits(), **of_points(), **of_cells(folder), **of_sequences(), **of_fashion(folder)}
    written |= of_weightings(written["points"])
    return {name: RunConfig.parse(config) for name, config in written.items()}


def of_digits() -> dict[str, Settings]:
    digits: Settings = {
        "dataset": {"name": "digits"},
        "backbone": {"name": "unet", "channels": 16, "multipliers": [1, 2], "blocks": 1, "groups": 4},
        "time_sampler": {"name": "stratified"},
        "train": {**TRAIN, "batch_size": 128, "learning_rate": 8e-3, "optimizer": {"name": "adamw", "beta2": 0.97}},
        "evaluate": {
            "num_samples": 200,
            "batch_size": 100,
            "extractor": "digits",
            "nfe": [4],
            "metrics": [{"name": "fid"}],
        },
        "reflow": {"number": 300, "nfe": 4, "batch_size": 100},
    }
    return {
        "digits": digits,
        "digits_dit": {
            **digits,
            "backbone": {"name": "dit", "width": 64, "depth": 4, "heads": 4, "patch": 2},
            "train": {**digits["train"], "learning_rate": 2e-3, "optimizer": {"name": "adamw", "beta2": 0.99}},
        },
        "digits_classes": {**digits, "objective": {"label_dropout": 0.1}},
    }


def of_points() -> dict[str, Settings]:
    return {
        "points": {
            "dataset": {"name": "eight_gaussians"},
            "backbone": {"name": "mlp", "width": 128, "blocks": 3},
            "time_sampler": {"name": "stratified"},
            "train": {**TRAIN, "batch_size": 256, "learning_rate": 2e-3, "ema_decay": 0.99},
            "evaluate": {**VALUES, "num_reference": 4000, "metrics": DISTANCES},
        },
    }


def of_weightings(points: Settings) -> dict[str, Settings]:
    return {
        "min_snr of the velocity": {**points, "weighting": {"name": "min_snr"}},
        "sigmoid of the data": {
            **points,
            "interpolant": {"name": "gvp"},
            "prediction": {"name": "data"},
            "weighting": {"name": "sigmoid"},
            "time_sampler": {"name": "u_shaped", "importance_correct": True},
        },
    }


def of_cells(folder: Path) -> dict[str, Settings]:
    cells = {"name": "cells", "path": str(write_cells(folder)), "condition": "donor", "genes": 100, "min_cells": 2}
    healthy = {**cells, "keep": ["donor 0", "donor 1"]}
    shared: Settings = {
        "backbone": {"name": "mlp", "width": 384, "blocks": 3},
        "time_sampler": {"name": "stratified"},
        "train": {**TRAIN, "batch_size": 64, "learning_rate": 2e-3, "ema_decay": 0.999},
        "evaluate": {**VALUES, "metrics": [*DISTANCES, {"name": "gene_mean"}]},
    }
    return {
        "cells": {**shared, "dataset": healthy},
        # separate: if noise contains one cell twice, two plans of exact transport cost the same up to rounding
        "population": {
            **shared,
            "dataset": {**cells, "keep": ["donor 2"]},
            "noise": {"name": "population", "dataset": healthy},
        },
        "transport": {**shared, "dataset": {**cells, "keep": ["donor 2"]}, "coupling": {"name": "exact_ot"}},
    }


def of_sequences() -> dict[str, Settings]:
    return {
        "sequences": {
            "dataset": {"name": "us_macro"},
            "backbone": {"name": "transformer", "width": 64, "depth": 3, "heads": 4},
            "time_sampler": {"name": "stratified"},
            "train": {**TRAIN, "batch_size": 64, "learning_rate": 1e-3, "ema_decay": 0.999},
            "evaluate": {**VALUES, "metrics": [*DISTANCES, {"name": "autocorrelation"}]},
        },
    }


def of_fashion(folder: Path) -> dict[str, Settings]:
    return {
        "fashion_small": {
            "dataset": {"name": "npz", "path": str(write_pictures(folder))},
            "backbone": {"name": "unet", "channels": 16, "multipliers": [1, 2, 2], "blocks": 1, "groups": 8},
            "time_sampler": {"name": "stratified"},
            "train": {**TRAIN, "batch_size": 64, "learning_rate": 2e-3, "optimizer": {"name": "adamw", "beta2": 0.99}},
            "evaluate": {**VALUES, "metrics": DISTANCES},
        },
    }


def write_cells(folder: Path) -> Path:
    """Write counts of 400 cells of three donors by 150 genes into an .h5ad."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    rng = np.random.RandomState(0)  # its draws are the same in every version of NumPy
    donors = np.arange(400) % 3
    counts = rng.poisson(rng.gamma(0.7, 3, 150) * np.where(donors[:, None], 1, rng.lognormal(0, 0.7, 150))) + np.eye(
        400, 150
    )
    names = (pd.Index([f"{what} {i % n}" for i in range(size)], dtype=object) for what, size, n in
             (("cell", 400, 400), ("donor", 400, 3), ("gene", 150, 150)))  # fmt: skip
    cell_names, conditions, genes = names
    cells = AnnData(
        csr_matrix(counts.astype(np.float32)),
        pd.DataFrame({"donor": conditions}, cell_names),
        pd.DataFrame(index=genes),
    )
    cells.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def write_pictures(folder: Path) -> Path:
    """Write 300 grey images of 28 x 28 in three classes into an .npz: the class decides where the bright square is."""
    rng = np.random.RandomState(1)
    classes = np.arange(300) % 3
    images = rng.randint(0, 60, (300, 28, 28, 1)).astype(np.uint8)
    for image, label in zip(images, classes, strict=True):
        image[4 + 6 * label : 14 + 6 * label, 5:20] += 150
    np.savez(folder / "pictures.npz", images=images, labels=classes)
    return folder / "pictures.npz"


def losses_of(config: RunConfig) -> list[float]:
    """Return the losses of the first 20 steps."""
    run = Run.of(config)
    with contextlib.suppress(Stopped):
        train(run, lambda text: None, lambda: run.steps_done >= STEPS)
    return [line["loss"] for line in run.metrics()]


def first_fid(config: RunConfig) -> float:
    """Return the FID of digits after 20 steps."""
    run = ensure(override(config, {"train.steps": STEPS}), lambda text: None, lambda: False)
    return run.evaluation(config.protocol())["values"]["fid"]["4"]


def named(folder: Path) -> dict[str, RunConfig]:
    """Return the configurations whose names are golden: the scales, and others with rounds and samplers in the name."""
    known = scales(folder)
    return known | of_rounds(known) | of_samplers(known)


def of_rounds(known: dict[str, RunConfig]) -> dict[str, RunConfig]:
    digits = known["digits"]
    points = known["points"]
    classes = known["digits_classes"]
    return {
        "one round": override(digits, {"reflow.rounds": 1}),
        "two rounds": override(digits, {"reflow.rounds": 2, "reflow.solver": "euler", "reflow.time_grid": "quadratic"}),
        "distilled": override(digits, {"reflow.rounds": 1, "reflow.distil": True, "evaluate.nfe": [1]}),
        "cold": override(
            digits,
            {
                "reflow.rounds": 1,
                "reflow.warm_start": False,
                "train.more_ema_decays": [0.9],
                "reflow.average.decay": 0.9,
            },
        ),
        "another teacher": override(
            points, {"reflow.rounds": 1, "reflow.teacher": override(points, {"train.steps": 30})}
        ),
        "guided rounds": override(
            classes,
            {"reflow.rounds": 2, "reflow.guidance.scale": 2.0, "reflow.later_guidance.scale": 1.5, "reflow.nfe": 8},
        ),
    }


def of_samplers(known: dict[str, RunConfig]) -> dict[str, RunConfig]:
    digits = known["digits"]
    points = known["points"]
    classes = known["digits_classes"]
    return {
        "guided": override(
            classes, {"evaluate.guidance": {"scale": 2.0, "low": 0.1, "high": 0.9}, "evaluate.solver": "heun"}
        ),
        "averages": override(
            points,
            {
                "train.snapshot_every": 5,
                "train.more_ema_decays": [0.9],
                "evaluate.average": {"name": "posthoc", "width": 0.1},
            },
        ),
        "best": override(
            digits,
            {"evaluate.checkpoint": "best", "evaluate.metrics": [{"name": "kid", "subsets": 5}, {"name": "fid"}]},
        ),
        "adaptive": override(points, {"evaluate.solver": "dopri5", "evaluate.nfe": [0]}),
        "of the flow": override(
            points, {"evaluate.metrics": [*DISTANCES, {"name": "straightness"}, {"name": "curvature"}]}
        ),
        "optimizer": override(digits, {"train.optimizer": "adam", "train.schedule": "constant", "train.accumulate": 2}),
        "batch OT": override(points, {"coupling": "sinkhorn", "noise": "student_t", "weighting": "min_snr"}),
    }


def names_of(config: RunConfig) -> dict[str, str]:
    """Return the names of a configuration's run, pairs and evaluation, with a fixed hash of the data.

    The fixed hash is necessary because drawn data differ between processors.
    """
    hashed = {"train": 1000, "held_out": 200, "sha256": "0123456789ab"}
    with patch.object(Data, "fingerprint", property(lambda data: hashed)):
        run = Run.of(config)
        pairs = {"pairs": run.pairs.name} if run.parent else {}
        return {"run": run.name, **pairs, "evaluation": config.protocol().digest}


def stored() -> RunConfig:
    """Return a small reflow round on digits: tests/golden/results has all its files."""
    return RunConfig.parse(
        {
            "dataset": {"name": "digits"},
            "backbone": {"name": "unet", "channels": 4, "multipliers": [1], "blocks": 1, "groups": 2},
            "train": {
                **TRAIN,
                "steps": 4,
                "sample_every": 4,
                "checkpoint_every": 4,
                "batch_size": 32,
                "warmup_steps": 1,
            },
            "evaluate": {**VALUES, "num_reference": 100, "metrics": DISTANCES[:1]},
            "reflow": {"rounds": 1, "number": 64, "nfe": 2, "batch_size": 32},
        }
    )


def _write(name: str, content: Any) -> None:
    (GOLDEN / name).write_text(json.dumps(content, indent=1) + "\n")


def _all(cases: dict[str, RunConfig], of: Callable[[RunConfig], Any]) -> dict[str, Any]:
    return {name: of(config) for name, config in cases.items()}


def main() -> None:
    """Write tests/golden."""
    GOLDEN.mkdir(exist_ok=True)
    versions = {"numerics_version": NUMERICS_VERSION, "evaluation_version": EVALUATION_VERSION}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HARNESS_RESULTS"] = str(folder / "results")
        losses = _all(scales(folder), losses_of)
        fid = first_fid(scales(folder)["digits"])
        _write("numbers.json", {**versions, "losses": losses, "fid": fid})
        _write("names.json", {**versions, "names": _all(named(folder), names_of)})
    shutil.rmtree(GOLDEN / "results", ignore_errors=True)
    os.environ["HARNESS_RESULTS"] = str(GOLDEN / "results")
    ensure(stored(), print, lambda: False)


if __name__ == "__main__":
    main()
