"""Pictures of Hugging Face data sets, read by the library datasets. Rows are decoded on demand.

No code of a data set is run, and nothing is unpickled. The network is used only where `online` permits it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.core.config import RUN_ONLY, Range
from harness.core.errors import ConfigError, UserError, did_you_mean, in_a_line, not_installed, shortage
from harness.core.files import results_folder
from harness.core.reading import Damaged, bytes_of
from harness.data.archive import LARGEST, Source, corrupt
from harness.data.base import data_folder, existing
from harness.data.decoding import Depth, first_sides
from harness.data.folders import PICTURES, ImageFolder, Pictures

KINDS = {"imagefolder": PICTURES, "parquet": (".parquet",), "arrow": (".arrow",)}
"""{reader of the library: endings of its files}; a folder is read by the first that fits."""
SAVED = ("state.json", "dataset_dict.json")
"""Files that mark a folder written by save_to_disk."""


@dataclass(frozen=True, kw_only=True)
class HuggingFace(ImageFolder, name="huggingface"):
    """Pictures of a Hugging Face data set: a folder, or a name in the library's cache; the extra `hub` installs it.

    One picture in ten of `split`, of each class, is held out.
    """

    source: ClassVar[str] = "Hugging Face datasets (Lhoest et al. 2021)"

    path: str = field(metadata=RUN_ONLY)
    """A folder that save_to_disk wrote, or with Parquet, Arrow or picture files; relative paths begin in HARNESS_DATA,
    or else in data/. Otherwise a name on the Hub, like ylecun/mnist."""
    split: str = "train"
    image: str = "image"
    """Column of the pictures."""
    label: str = "label"
    """Column of the classes; empty for none."""
    size: Annotated[int, Range(0, 16_384, why="a picture of that size takes 0.8 GB")] = 0
    """Height and width of the samples, in pixels, as in image_folder; 0 keeps the size that all pictures share."""
    online: bool = field(default=False, metadata=RUN_ONLY)
    """Whether a name may be downloaded; without it, only the library's cache is searched."""

    def gather(self) -> tuple[Source, list[str]]:
        place = data_folder() / self.path
        local = place.exists() and bool(self.path)
        if not local and not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", self.path):
            existing(self.path, "a folder, or a name like ylecun/mnist")
        splits = _local(existing(self.path, "a folder")) if local else _named(self.path, self.online)
        if self.split not in splits:
            raise ConfigError("dataset.split", f"there is no split '{self.split}'. {did_you_mean(self.split, splits)}")
        rows = Rows((place if local else Path(self.path)) / self.split, splits[self.split], self.image, self.label)
        return rows, [str(number) for number in range(len(rows.cells))]

    def classes_of(self, source: Source, names: list[str]) -> tuple[Tensor | None, tuple[str, ...]]:
        assert isinstance(source, Rows)
        if not self.label:
            return None, ()
        numbers, class_names = source.classes
        return numbers[torch.tensor([int(name) for name in names])], class_names

    def pictures(self, source: Source, names: list[str], workers: int, depth: Depth) -> Pictures:
        assert isinstance(source, Rows)
        if self.size:
            return super().pictures(source, names, workers, depth)
        return AsStored(source, names, source.sides, self.colour, workers, depth)


class AsStored(Pictures):
    """Pictures that all have the same size, which the samples keep."""

    def fitted(self, picture: Image.Image, name: str) -> Image.Image:
        if picture.size != self.sides[::-1]:
            sizes = " and ".join(f"{width}x{height}" for width, height in (picture.size, self.sides[::-1]))
            reason = f"the pictures differ in size ({sizes})"
            raise UserError(f"{self.source.where(name)}: {reason}. Resize them: set dataset.size, for example to 32.")
        return picture


class Rows:
    """The pictures of a table, by the number of their row."""

    def __init__(self, path: Path, table: Any, image: str, label: str):
        from datasets import Image as ImageFeature

        for name, column in (("image", image), ("label", label)):
            if column and column not in table.column_names:
                advice = " Leave it empty for pictures without classes." if name == "label" else ""
                reason = f"there is no column '{column}'. {did_you_mean(column, table.column_names)}{advice}"
                raise ConfigError(f"dataset.{name}", reason)
        if not image or not isinstance(table.features[image], ImageFeature):
            held = {name for name, kind in table.features.items() if isinstance(kind, ImageFeature)}
            advice = f"Columns of pictures: {', '.join(sorted(held)) or 'none'}."
            raise ConfigError("dataset.image", f"the column '{image}' does not hold pictures. {advice}")
        self.path = path
        self.image = image
        self.label = label
        self.table = table
        self.cells = table.select_columns([image]).cast_column(image, ImageFeature(decode=False))

    @functools.cached_property
    def sides(self) -> tuple[int, int]:
        """Height and width of the first readable picture."""
        return first_sides(self, map(str, range(len(self.cells))))

    @functools.cached_property
    def classes(self) -> tuple[Tensor, tuple[str, ...]]:
        """The class of each row, int64 [N], and the classes' names; `UserError` if a column does not hold classes."""
        from datasets import ClassLabel

        column = self.table.with_format("arrow")[:][self.label]
        if column.null_count:
            missing = f"{column.null_count} values of '{self.label}' are missing"
            raise UserError(f"{self.path}: {missing}. Remove these rows.")
        kind = self.table.features[self.label]
        if isinstance(kind, ClassLabel):
            return torch.from_numpy(column.to_numpy().astype(np.int64)), tuple(kind.names)
        if not re.fullmatch(r"u?int\d+|bool|(large_)?string", getattr(kind, "dtype", "")):
            raise ConfigError("dataset.label", f"the column '{self.label}' holds {kind}, not classes. Choose another.")
        names, numbers = np.unique(column.to_numpy(), return_inverse=True)
        return torch.from_numpy(numbers).long(), tuple(map(str, names))

    def where(self, name: str) -> Path:
        return self.path / f"row {name}"

    def open(self, name: str) -> IO[bytes]:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture, or of the file that the table names; `UserError` if they cannot be read."""
        cell = self.cells[int(name)][self.image] or {}
        try:
            if cell.get("bytes") is not None:
                return cell["bytes"]
            if cell.get("path") is None:
                raise Damaged("it is empty")
            return bytes_of(Path(cell["path"]), LARGEST)
        except (Damaged, OSError) as error:
            raise corrupt(self.where(name), error) from error

    def content(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield the SHA-256 of each picture."""
        for name in names:
            yield hashlib.sha256(self.read(name)).digest()

    def left_out(self) -> list[str]:
        others = [name for name in self.table.column_names if name not in (self.image, self.label)]
        return [f"left out: the columns {', '.join(others)}"] if others else []


def _local(place: Path) -> dict[str, Any]:
    """Return {split: table} of a folder or file; `UserError` if it cannot be read."""
    found = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    endings = {path.suffix.lower() for path in found}
    kind = next((kind for kind, own in KINDS.items() if endings & {*own}), None)
    with _reading(f"{place}: cannot be read", "Correct it, or give another."), _connected(False):
        from datasets import load_from_disk

        if any((place / name).is_file() for name in SAVED):
            loaded = load_from_disk(str(place))
            return dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
        if kind:
            return _read(kind, place)
    raise UserError(f"{place}: holds no picture, .parquet or .arrow file. Give another folder.")


def _read(kind: str, place: Path) -> dict[str, Any]:
    """Return {split: table} of files that one reader of the library reads; what it makes of them is kept."""
    from datasets import load_dataset
    from datasets.data_files import DataFilesDict, get_data_patterns

    kept = str(results_folder() / "local" / "huggingface")
    if place.is_file():
        return dict(load_dataset(kind, data_files=str(place.resolve()), cache_dir=kept))
    if kind == "imagefolder":
        return dict(load_dataset(kind, data_dir=str(place), cache_dir=kept))
    base = str(place.resolve())
    files = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base).filter(extensions=[*KINDS[kind]])
    chosen = {split: [*paths] for split, paths in files.items() if paths}
    return dict(load_dataset(kind, data_files=chosen, cache_dir=kept))


def _named(name: str, online: bool) -> dict[str, Any]:
    """Return {split: table} of a name on the Hub, from the library's cache or, if `online`, from the network."""
    missing = f"{name}: is not in {data_folder()}, and cannot be read from"
    told = (f"{missing} the Hub", "Correct the name, or give a folder.")
    if not online:
        told = (f"{missing} the cache of downloads", "Set dataset.online=true to download it, or give a folder.")
    with _reading(*told), _connected(online):
        from datasets import load_dataset

        return dict(load_dataset(f"hf://datasets/{name}"))


@contextlib.contextmanager
def _reading(failure: str, remedy: str) -> Iterator[None]:
    """Turn whatever the library raises into one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if shortage(error) is not None:
            raise
        if isinstance(error, ImportError):
            raise ConfigError("dataset", not_installed("datasets", error)) from None
        reason = in_a_line(error.__cause__ or error).rstrip(".")
        raise UserError(f"{failure} ({reason}). {remedy}") from error


@contextlib.contextmanager
def _connected(online: bool) -> Iterator[None]:
    """Keep the libraries off the network unless `online`; HF_HUB_OFFLINE and HF_DATASETS_OFFLINE hold all the same."""
    import datasets.config
    import huggingface_hub.constants

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE |= not online
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = was
