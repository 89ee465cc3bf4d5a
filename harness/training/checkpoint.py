"""Checkpoints: safetensors files whose name carries the hash of their content, written to the side and renamed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from harness.files import write_atomic

KEEP = 2
_NAME = re.compile(r"(\d{9})-([0-9a-f]{12})\.safetensors")


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> Path:
    """Store `tensors` as of `step`; the newest two stay. A kill at any moment leaves the earlier ones intact."""
    folder.mkdir(parents=True, exist_ok=True)
    content = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    path = folder / f"{step:09d}-{hashlib.sha256(content).hexdigest()[:12]}.safetensors"
    write_atomic(path, content)
    for old in list(_newest_first(folder))[KEEP:]:
        old.unlink()
    return path


def read_checkpoint(folder: Path, device: str) -> tuple[int, dict[str, Tensor], list[Path]]:
    """Step and tensors of the newest intact checkpoint, and the damaged ones passed over; step 0 when there is none."""
    damaged: list[Path] = []
    for path in _newest_first(folder):
        content, match = path.read_bytes(), _NAME.fullmatch(path.name)
        assert match
        if hashlib.sha256(content).hexdigest()[:12] == match[2]:
            return int(match[1]), {name: tensor.to(device) for name, tensor in load(content).items()}, damaged
        damaged.append(path)
    return 0, {}, damaged


def _newest_first(folder: Path) -> Iterator[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return iter(sorted((p for p in found if _NAME.fullmatch(p.name)), key=lambda p: (p.name[:9], p.stat().st_mtime), reverse=True))
