"""Inception features and FID of CIFAR-10's real images, compared with published numbers.

    export HARNESS_DATA=data HARNESS_INCEPTION=...
    python -m benchmarks.cifar10_fid STATISTICS [--features FEATURES] [--images 10000]

STATISTICS is an .npz with mu and sigma of the features of the 50,000 training images. FEATURES is an .npy with the
features of the first training images. Prints the largest deviation from FEATURES; the FID of the held-out images
against STATISTICS, plain and extrapolated to infinitely many images, with its interval; and images per second. 10,000
images take about ten minutes on two cores, and seconds on a GPU.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from benchmarks.report import Row, publish
from harness.core.config import override
from harness.data.base import load
from harness.data.images import CIFAR10
from harness.evaluation.extractors import features, load_extractor
from harness.evaluation.fidelity import FID, ExtrapolatedFID
from harness.evaluation.judge import Judge
from harness.evaluation.kept import KeptRows
from harness.evaluation.protocol import EvaluateConfig
from harness.training.hardware import matmul_precision


def main() -> None:
    """Compare the features, then the FID."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("statistics", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count() or 1)
    with matmul_precision("fp32"):
        rows = [deviation(options.features, device)] if options.features else []
        rows += distances(options, device)
    publish("cifar10_fid", "Inception features and FID of CIFAR-10's real images", rows)


def deviation(path: Path, device: str) -> Row:
    """Compare the features of the first training images with those in a file."""
    expected = np.load(path)
    data = load(CIFAR10())
    images = data.train[torch.arange(len(expected))]
    found = torch.cat(
        [features(load_extractor("inception", device), part, device)[0].cpu() for part in images.split(50)]
    ).numpy()
    value = float(np.abs(found - expected).max() / np.abs(expected).max())
    return {
        "what": f"features of {len(expected)} images, largest deviation relative to the largest feature",
        "value": value,
        "interval": "",
    }


def distances(options: argparse.Namespace, device: str) -> list[Row]:
    """Measure the FID of the held-out images against the statistics, and the speed."""
    config = EvaluateConfig(num_samples=options.images, batch_size=100, reference=str(options.statistics))
    judge = Judge(override(config, {"metrics": [FID(), ExtrapolatedFID()]}), load(CIFAR10()), device)
    held_out = judge.held_out()
    started = time.perf_counter()
    assert held_out is not None
    found, _ = judge.estimates(track(held_out, "features", -(-options.images // 100)), KeptRows())
    rows: list[Row] = [
        {
            "what": f"{name} of {options.images} held-out images against the statistics",
            "value": estimate.value,
            "interval": "{:.3f} to {:.3f}".format(*estimate.interval) if estimate.interval else "",
        }
        for name, estimate in found.items()
    ]
    return [
        *rows,
        {
            "what": "images per second, FID included",
            "value": options.images / (time.perf_counter() - started),
            "interval": "",
        },
    ]


if __name__ == "__main__":
    main()
