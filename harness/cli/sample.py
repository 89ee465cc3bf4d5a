"""`harness sample`: draws samples from a finished run into a picture or arrays."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from harness.ablation.design.addresses import find_run
from harness.cli.shared import opened
from harness.core.config import Count
from harness.core.errors import UserError, did_you_mean
from harness.core.fields import convert
from harness.core.files import npz, write_atomic
from harness.core.memory import Need, require
from harness.core.progress import shown
from harness.data.base import Data, load
from harness.data.pictures import require_drawable
from harness.flow.sampling import Generated
from harness.runs.folder import Run
from harness.runs.sample import picture, restore, samples


def run(options: argparse.Namespace) -> None:
    """Draw and write the samples; print how they were drawn."""
    if options.number < 1:
        raise UserError(f"--number: {options.number} is less than 1. Draw one or more.")
    convert(Count, options.number, "--number")
    if options.out.suffix not in (".png", ".npz"):
        raise UserError(f"--out: {options.out} must end in .png or .npz.")
    nfe = options.nfe if options.nfe is not None else 1 if find_run(options.run).config.reflow.distil else 32
    run = opened(options.run, [*options.changes, f"evaluate.nfe=[{nfe}]"])
    if options.seed is not None:
        run = dataclasses.replace(run, config=dataclasses.replace(run.config, seed=options.seed))
    data = load(run.config.dataset)
    label = None if options.label is None else class_number(run, data, options.label)
    if options.out.suffix == ".png":
        require_drawable(data.kind, options.number)
        picture(run, restore(run), nfe, options.number, options.out, label)
    else:
        size = 2 * options.number * math.prod(data.shape)  # bytes: batches and the joined array, 1 byte a value or more
        require([Need("--number", f"{options.number} samples", size)], "the file")
        drawing = samples(run, restore(run), nfe, options.number, label=label)
        number = -(-options.number // run.config.evaluate.batch_size)
        _write(list(shown(drawing, "samples", number)), data.class_names, options.out)
    drawn = f"{options.number} samples at NFE {nfe} by {run.config.evaluate.solver.name}, seed {run.config.seed}"
    print(f"wrote {options.out}: {drawn}")


def class_number(run: Run, data: Data, given: str) -> int:
    """Return the index of a class from its name, or from its number if classes have no names."""
    if not run.config.conditional:
        reason = f"{run.name} was trained without classes"
        raise UserError(f"--label: {reason}. Leave it out, or train with objective.label_dropout=0.1.")
    known = data.class_names or tuple(map(str, range(data.num_classes)))
    if given not in known:
        raise UserError(f"--label: '{given}' is not a class. {did_you_mean(given, known)}")
    return known.index(given)


def _write(batches: Sequence[Generated], class_names: Sequence[str], path: Path) -> None:
    """Write an .npz with `samples` and, if there are classes, `classes` and the `class_names` that these index."""
    arrays = {"samples": torch.cat([batch.x for batch in batches]).cpu().numpy()}
    if batches[0].y is not None:
        arrays["classes"] = torch.cat([batch.y for batch in batches if batch.y is not None]).cpu().numpy()
        if class_names:
            arrays["class_names"] = np.array(class_names)
    write_atomic(path, npz(arrays))
