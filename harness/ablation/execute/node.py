"""The type of an engine's nodes: the first trial that begins there fixes it, and the driver names runs by it.

    results/local/studies/<plan>/node.json

A run's name depends on the device. The driver may be on a login node without a GPU, so it takes the device from this
file. A node of another type refuses the trial: the arms of a study are compared on one type of hardware.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

from typing_extensions import TypedDict

from harness.ablation.design.shared import SharedPlan
from harness.core.errors import UserError
from harness.core.fence import node_name
from harness.core.files import read_json_if_there, write_json
from harness.core.provenance import machine
from harness.runs.threads import usable_cores
from harness.training.config import TrainConfig

FILE = "node.json"
P = TypeVar("P", bound=SharedPlan)


class Node(TypedDict):
    """Content of node.json."""

    device: Literal["cpu", "cuda"]
    hardware: str
    """Name of the GPU, or of the processor if the trials run on the CPU."""
    host: str
    """Name of the first node."""


def placed(plan: P) -> P | None:
    """Return the plan with the device of the engine's nodes; None if no trial has begun there."""
    found = _read(plan.folder)
    return plan.on(found["device"]) if found else None


def on_nodes(plan: P) -> P:
    """Return the plan with the device of the engine's nodes, if it is known."""
    return placed(plan) or plan


def settle(plan: P, folder: Path) -> P:
    """Return the plan with this node's device; `UserError` if the first node was of another type."""
    trains = plan.trains
    here = _here(trains)
    _write_first(folder / FILE, here)
    first = _read(folder)
    if (first["device"], first["hardware"]) != (here["device"], here["hardware"]):
        raise UserError(
            f"{here['host']} has {here['hardware']}, but the study began on {first['hardware']} ({first['host']}), and "
            "its arms are compared on one type. Ask for such nodes with --on, or use another results folder "
            f"(HARNESS_RESULTS). If nothing has ended there yet, you may remove {folder / FILE}."
        )
    if trains.threads > (cores := usable_cores()):
        raise UserError(
            f"train.threads: {trains.threads} is more than the {cores} cores that the engine gives this trial on "
            f"{here['host']}. Ask for more with --on (slurm: --cpus-per-task={trains.threads}), or set fewer threads."
        )
    return plan.on(here["device"])


def _here(trains: TrainConfig) -> Node:
    device: Any = trains.resolved_device()
    facts = machine()
    return {
        "device": device,
        "hardware": str(facts["accelerator" if device == "cuda" else "processor"]),
        "host": node_name(),
    }


def _write_first(path: Path, found: Node) -> None:
    """Write the file unless it exists, in one step: of several nodes that begin at once, one is the first."""
    if path.exists():
        return
    own = path.with_name(f"node-{node_name()[:16]}-{os.urandom(4).hex()}.json")
    write_json(own, found)
    with contextlib.suppress(FileExistsError):
        os.link(own, path)
    own.unlink()


def _read(folder: Path) -> Any:
    remedy = "Remove it: the next trial that begins writes it again."
    return read_json_if_there(folder / FILE, Node, remedy)
