"""Checkpoints: safetensors files whose name carries the hash of their content, written to the side and renamed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from harness.core.errors import UserError
from harness.core.files import short_hash, write_atomic

_NAME = re.compile(r"(\d{9})-([0-9a-f]{12})\.safetensors")


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], keep: int | None = None) -> Path:
    """Store `tensors` as of `step`; the newest `keep` stay, or all.

    A kill at any moment leaves the earlier ones intact.

    Others as of this step or a later one go: training went back, and they are of the stretch that it gave up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, {"run": _run(folder)})
    path = folder / f"{step:09d}-{short_hash(content)}.safetensors"
    write_atomic(path, content)
    others = [other for other in checkpoints(folder) if other != path]
    earlier = [other for other in others if step_of(other) < step]
    for old in {*others} - {*earlier[: keep - 1 if keep else None]}:
        old.unlink()
    return path


def read_checkpoint(folder: Path, device: str) -> tuple[int, dict[str, Tensor], list[Path]]:
    """Step and tensors of the newest intact checkpoint, and the damaged ones passed over; step 0 when there is none."""
    damaged: list[Path] = []
    for path in checkpoints(folder):
        if (tensors := read_intact(path, device)) is not None:
            return step_of(path), tensors, damaged
        damaged.append(path)
    return 0, {}, damaged


def read_intact(path: Path, device: str) -> dict[str, Tensor] | None:
    """The tensors of a checkpoint.

    None when its content is not what its name says, `UserError` when it is another run's.
    """
    content = path.read_bytes()
    match = _NAME.fullmatch(path.name)
    if not match or short_hash(content) != match[2]:
        return None
    length = int.from_bytes(content[:8], "little")
    wrote = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get("run")
    reads = _run(path.parent)
    if wrote and reads and wrote != reads:
        raise UserError(
            f"{path}: was written by the run {wrote}. Remove it from {reads}, whose own weights are others."
        )
    return {name: tensor.to(device) for name, tensor in load(content).items()}


def _run(folder: Path) -> str:
    """The name of the run directory that a folder of checkpoints lies in; empty outside of one."""
    return next((above.name for above in folder.absolute().parents if (above / "config.json").is_file()), "")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        (p for p in found if _NAME.fullmatch(p.name)), key=lambda p: (p.name[:9], p.stat().st_mtime), reverse=True
    )


def step_of(path: Path) -> int:
    """The step that a checkpoint was written after."""
    return int(path.name[:9])


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, like `network` or `averages/ema-0.9999`, by the rest of their names."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + "/")}
