"""Checkpoints: safetensors files whose name carries the hash of their content, written to the side and renamed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from harness.core.errors import UserError
from harness.core.files import short_hash, write_atomic
from harness.core.reading import Damaged, bytes_of, parse

Fault = Callable[[Mapping[str, Tensor]], str | None]
"""Says why tensors are not those that a checkpoint should hold; None where they are."""
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


def read_checkpoint(
    folder: Path, device: str, fault: Fault = lambda tensors: None
) -> tuple[int, dict[str, Tensor], list[Path]]:
    """Step and tensors of the newest intact checkpoint, and those passed over, which are damaged or in which `fault`
    finds something; step 0 when there is none."""
    damaged: list[Path] = []
    for path in checkpoints(folder):
        tensors = read_intact(path, device)
        if tensors is not None and fault(tensors) is None:
            return step_of(path), tensors, damaged
        damaged.append(path)
    return 0, {}, damaged


def read_intact(path: Path, device: str) -> dict[str, Tensor] | None:
    """The tensors of a checkpoint.

    None when its content is not what its name says, or no tensors; `UserError` when it is another run's.
    """
    try:
        content = bytes_of(path)
        match = _NAME.fullmatch(path.name)
        if not match or short_hash(content) != match[2]:
            return None
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        wrote = (parse(content[8 : 8 + length]).get("__metadata__") or {}).get("run")
    except (Damaged, SafetensorError, KeyError):  # the last of a type of numbers that torch has not
        return None
    reads = _run(path.parent)
    if wrote and reads and wrote != reads:
        raise UserError(
            f"{path}: was written by the run {wrote}. Remove it from {reads}, whose own weights are others."
        )
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def set_aside(path: Path) -> str:
    """Delete a checkpoint whose content is not what its name says, and rename another; what it was and became."""
    if path.is_file() and short_hash(path.read_bytes()) != path.stem.partition("-")[2]:
        path.unlink()
        return "is damaged"
    path.rename(aside := path.with_name(f"{path.name}.unfit"))
    return f"does not fit the run, is kept as {aside.name}"


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


def differing(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Why tensors are not `wanted` by name, shape and type, in words that follow a name; None where they are."""
    kinds = [{name: (str(t.dtype), list(t.shape)) for name, t in tensors.items()} for tensors in (wanted, found)]
    if kinds[0] == kinds[1]:
        return None
    names = sorted(kinds[0].keys() | kinds[1].keys())
    name = next(name for name in names if kinds[0].get(name) != kinds[1].get(name))
    asked, held = (" ".join(map(str, kind[name])) if name in kind else "absent" for kind in kinds)
    return f"its tensor {name} is {held}, not {asked}"
