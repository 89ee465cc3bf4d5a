"""Checkpoints: safetensors files with the hash of their content in their name, replaced atomically."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from harness.core.errors import UserError
from harness.core.fence import require_held
from harness.core.files import short_hash, write_atomic
from harness.core.reading import Damaged, bytes_of, parse

Fault = Callable[[Mapping[str, Tensor]], str | None]
"""Returns why tensors are not the expected content of a checkpoint; None if they are."""
_NAME = re.compile(r"(\d{9})-([0-9a-f]{12})\.safetensors")


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], keep: int | None = None) -> Path:
    """Write `tensors` as the checkpoint of `step`, and return its path. Keep the newest `keep` checkpoints, or all.

    A kill at any moment leaves the earlier checkpoints intact.

    Other checkpoints of this step or of later steps are deleted: training went back and discarded those steps.
    """
    return _put(folder, step, _content(folder, tensors), keep)


class Writer:
    """Writes checkpoints as `write_checkpoint` does, in a thread, one after another.

    The caller waits until the file before is written and the tensors are copied. The context waits for the last file.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[Path] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:  # otherwise the first error is the one to raise
                raise
        finally:
            self._pool.shutdown()

    def write(self, folder: Path, step: int, tensors: Mapping[str, Tensor], keep: int | None = None) -> None:
        """Begin to write a checkpoint, once the one before it is written."""
        self.wait()
        self._last = self._pool.submit(_put, folder, step, _content(folder, tensors), keep)

    def wait(self) -> None:
        """Wait until every checkpoint is written; raise the error of one that could not be."""
        last = self._last
        self._last = None
        if last:
            last.result()


def _content(folder: Path, tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, {"run": _run(folder)})


def _put(folder: Path, step: int, content: bytes, keep: int | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step:09d}-{short_hash(content)}.safetensors"
    write_atomic(path, content)
    others = [other for other in checkpoints(folder) if other != path]
    earlier = [other for other in others if step_of(other) < step]
    for old in {*others} - {*earlier[: keep - 1 if keep else None]}:
        require_held()
        old.unlink(missing_ok=True)
    return path


def read_checkpoint(
    folder: Path, device: str, fault: Fault = lambda tensors: None
) -> tuple[int, dict[str, Tensor], list[Path]]:
    """Return step and tensors of the newest usable checkpoint, and the newer files that were passed over.

    A checkpoint is passed over if it is damaged or `fault` returns a reason. Step 0 and no tensors if none is usable.
    """
    damaged: list[Path] = []
    for path in checkpoints(folder):
        tensors = read_intact(path, device)
        if tensors is not None and fault(tensors) is None:
            return step_of(path), tensors, damaged
        damaged.append(path)
    return 0, {}, damaged


def read_intact(path: Path, device: str) -> dict[str, Tensor] | None:
    """Return the tensors of a checkpoint; None if it is damaged.

    It is damaged if its content does not match the hash in its name, or holds no tensors. `UserError` if another run
    wrote it.
    """
    try:
        content = bytes_of(path)
        match = _NAME.fullmatch(path.name)
        if not match or short_hash(content) != match[2]:
            return None
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        wrote = (parse(content[8 : 8 + length]).get("__metadata__") or {}).get("run")
    except (Damaged, SafetensorError, KeyError):  # KeyError: a dtype that torch does not have
        return None
    reads = _run(path.parent)
    if wrote and reads and wrote != reads:
        raise UserError(
            f"{path}: was written by the run {wrote}, but lies in the folder of the run {reads}. Remove it."
        )
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def set_aside(path: Path) -> str:
    """Delete a damaged checkpoint, or rename an intact one that does not fit. Return what is wrong with it."""
    require_held()
    if path.is_file() and short_hash(path.read_bytes()) != path.stem.partition("-")[2]:
        path.unlink()
        return "is damaged"
    path.rename(aside := path.with_name(f"{path.name}.unfit"))
    return f"does not fit the run, is kept as {aside.name}"


def _run(folder: Path) -> str:
    """Return the name of the run directory that contains a folder of checkpoints; empty if none does."""
    return next((above.name for above in folder.absolute().parents if (above / "config.json").is_file()), "")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        (p for p in found if _NAME.fullmatch(p.name)), key=lambda p: (p.name[:9], p.stat().st_mtime), reverse=True
    )


def step_of(path: Path) -> int:
    """The training step after which a checkpoint was written, from its name."""
    return int(path.name[:9])


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors named `prefix/...`, by the rest of their names. A prefix is like `averages/ema-0.9999`."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + "/")}


def differing(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Return the first difference of `found` from `wanted` in name, shape or dtype, as text; None if there is none."""
    kinds = [{name: (str(t.dtype), list(t.shape)) for name, t in tensors.items()} for tensors in (wanted, found)]
    if kinds[0] == kinds[1]:
        return None
    names = sorted(kinds[0].keys() | kinds[1].keys())
    name = next(name for name in names if kinds[0].get(name) != kinds[1].get(name))
    asked, held = (" ".join(map(str, kind[name])) if name in kind else "absent" for kind in kinds)
    return f"its tensor {name} is {held}, not {asked}"


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read {name: tensor} from a .safetensors file, or from a torch file without executing what is pickled in it."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
