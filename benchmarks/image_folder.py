"""A folder of 20,000 small images: the time to the first step and the memory of training.

    python benchmarks/image_folder.py [PICTURES]

Writes images of noise into a temporary folder, then trains a small U-Net on them twice, each time in a separate
process: two workers stream the images, or one tensor in memory holds them all. Prints the seconds from the start of
loading to the first step, the memory after that step and about 200 steps later (workers included), and the time per
step.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.components.backbones.unet import UNet
from harness.data.base import Data
from harness.data.folders import ImageFolder
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective
from harness.training.config import TrainConfig
from harness.training.trainer import Callbacks, fit

STEPS = 200
SIZE = 32


def write_pictures(folder: Path, number: int) -> None:
    """Write PNGs of 40x36 pixels into ten folders."""

    def write(i: int) -> None:
        pixels = np.random.default_rng(i).integers(0, 256, (9, 10, 3), dtype=np.uint8)
        place = folder / f"class{i % 10}"
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((40, 36), Image.Resampling.BICUBIC).save(place / f"{i:06d}.png")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(number)))


def memory_mb() -> float:
    """Return the proportional set size (PSS) of this process and its children, in MB."""
    total = 0.0
    waiting = [Path("/proc/self")]
    while waiting:
        process = waiting.pop()
        try:
            for line in (process / "smaps_rollup").read_text().splitlines():
                total += int(line.split()[1]) / 1024 if line.startswith("Pss:") else 0
            for task in (process / "task").iterdir():
                waiting += [Path("/proc") / child for child in (task / "children").read_text().split()]
        except OSError:  # the process has ended
            continue
    return total


def measure(folder: Path, resident: bool) -> None:
    """Load, train and print one line."""
    torch.set_num_threads(1)
    before = memory_mb()
    started = time.perf_counter()
    data: Data = ImageFolder(path=str(folder), size=SIZE).load()
    fingerprint = data.fingerprint
    loaded = time.perf_counter() - started
    if resident:
        data = dataclasses.replace(data, train=data.train[torch.arange(len(data.train))])
    seen: list[tuple[float, float]] = []

    def stop() -> bool:
        seen.append((time.perf_counter() - started, memory_mb() - before if len(seen) in (1, STEPS - 1) else 0))
        return False

    config = TrainConfig(
        steps=STEPS, batch_size=64, device="cpu", log_every=1000, sample_every=1000, checkpoint_every=1000
    )
    with tempfile.TemporaryDirectory() as checkpoints:
        callbacks = Callbacks(log=lambda line: None, look=lambda network, step: {}, say=print, stop=stop)
        network = UNet(channels=8, multipliers=(1, 2), groups=4).build(data.shape)
        fit(config, 0, network, Objective(Formulation(), {}), data, Path(checkpoints), callbacks)
    step = (seen[-1][0] - seen[1][0]) / (len(seen) - 2)
    kind = "one tensor" if resident else "streamed"
    print(
        f"{kind:>10}: listed and hashed in {loaded:.1f} s, first step done after {seen[1][0]:.1f} s; "
        f"memory +{seen[1][1]:.0f} MB then, +{seen[-1][1]:.0f} MB {STEPS - 2} steps later; "
        f"{1000 * step:.0f} ms per step; fingerprint {fingerprint['sha256']}"
    )


def main(number: int) -> None:
    """Measure both kinds, each in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), number)
        for kind in ("streamed", "resident"):
            subprocess.run([sys.executable, __file__, kind, folder], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(Path(sys.argv[2]), resident=sys.argv[1] == "resident")
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
