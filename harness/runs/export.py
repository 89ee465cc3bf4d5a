"""A finished run's network in a folder: its averaged weights, its configuration, and how to load it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from harness.components.backbones.base import Network
from harness.components.backbones.diffusers import DiffusersModule
from harness.core.checkpoint import differing
from harness.core.config import to_dict
from harness.core.errors import UserError
from harness.core.files import placed, read_json, write_atomic, write_json
from harness.core.reading import Damaged, bytes_of
from harness.core.registry import build
from harness.runs.folder import Run
from harness.runs.sample import averaged

WEIGHTS = "model.safetensors"
REMEDY = "Export the run again."
DESCRIBED = """# {run}

{parameters:,} parameters, trained by the harness for {steps:,} steps: the average `{average}` of its weights.

```python
{lines}
```

`x` {shape} is encoded data with noise; `t` [B] is the time, 0 at the data and 1 at the noise{classes}.
The network estimates what the prediction `{prediction}` names, on the path `{interpolant}`: {formula}.
"""
OURS = """from harness import load_network
network = load_network("{place}")
estimate = network(x, t{told})"""
THEIRS = """from diffusers import {model}
network = {model}.from_pretrained("{place}")
estimate = network(x, {time_scale:g} * t{told}).sample"""


def export(run: Run, folder: Path) -> None:
    """Write the network of a finished run, with the weights that its `evaluate` names, to a new folder.

    A network of diffusers is written as `from_pretrained` reads it; `load_network` reads any other. `UserError` if the
    folder exists. A kill leaves no part of the export there.
    """
    if folder.exists() or folder.is_symlink():
        raise UserError(f"--out: {folder} is there already. Choose another folder.")
    network: Any = averaged(run).network.cpu().eval()
    with placed(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
            written = Path(made) / "whole"
            written.mkdir()
            if isinstance(network, DiffusersModule):
                model: Any = network.model
                model.save_pretrained(written)
            else:
                _write(run, network, written)
            write_atomic(written / "README.md", _described(run, network, folder))
            written.rename(folder)


def load_network(folder: str | Path) -> Network:
    """Return the network that `harness export` wrote, on the CPU and in evaluation mode.

    `UserError` if a file is missing or damaged. A backbone of yours must be declared before.
    """
    place = Path(folder) / "config.json"
    said = read_json(place, dict[str, Any], REMEDY)
    try:
        network = build("backbone", said["configuration"]["backbone"]).build(said["data_shape"], said["num_classes"])
    except (KeyError, TypeError):
        reason = "does not describe a network of the harness. The README.md beside it says how to load it"
        raise UserError(f"{place}: {reason}.") from None
    place = Path(folder) / WEIGHTS
    try:
        weights = load(bytes_of(place))
    except (Damaged, OSError, SafetensorError) as error:
        raise UserError(f"{place}: cannot be read ({error}). {REMEDY}") from None
    if differs := differing(weights, network.state_dict()):
        raise UserError(f"{place}: does not fit its config.json ({differs}). {REMEDY}")
    network.load_state_dict(weights)
    return network.eval()


def _write(run: Run, network: Network, folder: Path) -> None:
    classes = run.data.num_classes if run.config.conditional else 0
    said = {"run": run.name, "data_shape": [*run.data.shape], "num_classes": classes}
    write_json(folder / "config.json", said | {"configuration": to_dict(run.config)})
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(tensors, {"run": run.name}))


def _described(run: Run, network: Network, folder: Path) -> str:
    """Return the folder's README.md."""
    config = run.config
    number = run.data.num_classes if config.conditional else 0
    told = classes = ""
    if isinstance(network, DiffusersModule):
        if network.told:
            told = ", class_labels=y"
            classes = f"; `y` [B] is the class, {number} for none"
        lines = THEIRS.format(**vars(config.backbone), place=folder, told=told)
    else:
        if number:
            told = ", y"
            classes = f"; `y` [B] is the class, 0 to {number - 1}, or -1 for none"
        lines = OURS.format(place=folder, told=told)
    return DESCRIBED.format(
        run=run.name, parameters=sum(p.numel() for p in network.parameters()), steps=config.train.steps,
        average=config.evaluate.average.name, lines=lines, shape=f"[B, {str([*run.data.shape])[1:]}", classes=classes,
        prediction=config.prediction.name, interpolant=config.interpolant.name,
        formula=config.interpolant.written_out(),
    )  # fmt: skip
