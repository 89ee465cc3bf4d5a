"""Data that would hang, crash or fill the memory of a reader: one line with the path, before they are read."""

import contextlib
import gzip
import os
import shutil
import signal
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import FILES
from PIL import Image
from scipy import sparse
from test_cells import COUNTS, load_cells, write_10x, write_h5ad

from harness.components.couplings import Pairs
from harness.core.errors import UserError
from harness.core.registry import build
from harness.data import archive, counts
from harness.data.base import Data, load
from harness.data.folders import ImageFolder
from harness.evaluation.reference import read_reference


def one_line(said: str, dataset: str, **fields: Any) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_all(load(build("dataset", {"name": dataset, **fields})))
    assert "\n" not in str(caught.value)


def read_all(data: Data) -> None:
    for rows in (data.train, data.held_out):
        for i in range(len(rows)):
            rows[torch.tensor([i])]


def test_a_pipe_or_a_device_is_refused_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a pipe to read would wait forever."""
    for place in (tmp_path / "pipe.npz", tmp_path / "pipe.csv", tmp_path / "pipe.h5ad", tmp_path / "mu.npz"):
        os.mkfifo(place)
    csvs = (("time_series", "csv"), ("table", "csv"))
    for name, path in (("npz", "npz"), *csvs, ("time_series", "npz"), ("cells", "h5ad")):
        place = tmp_path / f"pipe.{path}"
        one_line(rf"^dataset\.path: {place} is a named pipe\. Give an? \.", name, path=str(place))
        one_line(r"^dataset\.path: /dev/zero is a device\. Give", name, path="/dev/zero")
    for name in ("image_folder", "latents"):
        fields = {"size": 8} if name == "image_folder" else {}
        one_line("is a named pipe. Give a folder or zip", name, path=str(tmp_path / "pipe.npz"), **fields)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    (tmp_path / "pipe.npz").rename(tmp_path / "cifar10.npz")
    one_line(r"cifar10\.npz: cannot be read \(it is a named pipe", "cifar10")
    with pytest.raises(UserError, match=r"mu\.npz cannot be read \(it is a named pipe"):
        read_reference(str(tmp_path / "mu.npz"), 3)
    (tmp_path / "pairs").mkdir()
    os.mkfifo(tmp_path / "pairs" / "x0.npy")
    with pytest.raises(UserError, match=r"pairs cannot be read \(it is a named pipe"):
        Pairs(path=str(tmp_path / "pairs")).check((2,), 0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes = b"\0" * 9) -> bytes:
    """Return a grey picture with this size in its header, for any rows."""
    about = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + about + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_pictures_are_refused_by_their_headers(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / f"{i:02d}.png")
    wrong = {
        png(13_000, 13_000): "it has 13000 x 13000 pixels: 1 to 89,478,485 are allowed",
        png(40_000, 40_000): "exceeds limit",
        png(2**31 - 1, 2**31 - 1): "",
        png(0, 8): "",
        png(8, 0): "",
        png(800, 800): "truncated",
        png(8, 8)[:40]: "",
        b"GIF89a" + bytes(40): "",
        b"": "Pillow does not know its format",
    }
    for content, said in wrong.items():
        place = folder / "07.png"
        place.write_bytes(content)
        one_line(rf"^{place}: cannot be read \(.*{said}.*\)\. Remove it", "image_folder", path=str(folder), size=8)
        assert len(ImageFolder(path=str(folder), size=8, skip_corrupt=True).load().notes) == 1


def test_a_file_too_large_to_be_held_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    large = tmp_path / "07.png"
    large.write_bytes(large.read_bytes() + bytes(3000))  # Pillow would accept this
    assert len(ImageFolder(path=str(tmp_path), size=8).load().train) == 18
    monkeypatch.setattr(archive, "LARGEST", 2000)
    one_line(
        rf"^{large}: cannot be read \(it has 3,\d\d\d bytes, more than 2,000\)",
        "image_folder",
        path=str(tmp_path),
        size=8,
    )


def test_a_broken_gif_and_others_name_the_file(tmp_path: Path) -> None:
    """Random bytes change: Pillow raises various errors."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    for name in ("a.gif", "b.jpg", "c.webp", "d.bmp", "e.png", "f.ppm"):
        picture.save(folder / name)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for _ in range(40):
        for path, content in whole.items():
            broken = bytearray(content)
            for place in rng.integers(0, min(len(broken), 200), 4):
                broken[place] = (0, 255, 127, rng.integers(256))[rng.integers(4)]
            path.write_bytes(broken)
        with contextlib.suppress(UserError):  # too few pictures remain
            ImageFolder(path=str(folder), size=8, skip_corrupt=True).load()


def test_names_in_no_encoding_are_read(tmp_path: Path) -> None:
    """Names are bytes: other bytes than UTF-8 become lone surrogates, which cannot be encoded."""
    folder = tmp_path / os.fsdecode(b"pict\xff\xfeures")
    for kind in (b"caf\xe9", b"th\xe9"):
        (folder / os.fsdecode(kind)).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / os.fsdecode(kind) / f"{i}.png")
    data = ImageFolder(path=str(folder), size=8).load()
    assert (len(data.class_names), data.fingerprint["train"]) == (2, 18)
    table = tmp_path / os.fsdecode(b"s\xe9rie.csv")
    table.write_text("a,b\n" + "".join(f"{i % 7},{i % 5}\n" for i in range(200)))
    assert load(build("dataset", {"name": "time_series", "path": str(table)})).names == ("a", "b")


def test_a_field_that_no_reader_accepts_ends_in_one_line(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    for text in (
        'a,b\n"' + "x" * 200_000 + '",1\n1,2,3\n',
        "a,b\n" + "9" * 5000 + ",1\n",
        'a,b\n"1,2\n',
        "\n\n",
        "a\rb\r",
    ):
        table.write_text(text)
        one_line(r".", "time_series", path=str(table))
        one_line(r".", "table", path=str(table))
        one_line(r".", "table", path=str(table), label="b")


def test_a_matrix_smaller_than_its_announced_size_is_refused(tmp_path: Path) -> None:
    """A reader would allocate memory for the announced size."""
    for gz in (False, True):
        folder = write_10x(tmp_path / str(gz), gz=gz)
        assert len(load_cells(folder, genes=0).train)
        matrix = next(folder.glob("matrix.mtx*"))
        lines = (gzip.decompress(matrix.read_bytes()) if gz else matrix.read_bytes()).decode().splitlines(True)
        place = next(i for i, line in enumerate(lines) if not line.startswith("%"))
        rows, columns, _ = lines[place].split()
        wrong = {
            f"{rows} {columns} 1000000000000": "announces 1,000,000,000,000 counts, more than it can hold",
            f"1000000000000 {columns} 5": "",
            f"{rows} 1000000000000 5": "",
            "x": "",
        }
        for sizes, said in wrong.items():
            lines[place] = sizes + "\n"
            matrix.write_bytes(gzip.compress("".join(lines).encode()) if gz else "".join(lines).encode())
            with pytest.raises(UserError, match=rf"^{folder}: cannot be read as cells .*{said}") as caught:
                load_cells(folder, genes=0)
            assert "\n" not in str(caught.value)
        beside = next(folder.glob("barcodes*"))
        beside.unlink()
        os.mkfifo(beside)
        with pytest.raises(UserError, match=r"it is a named pipe"):
            load_cells(folder, genes=0)


def test_a_sparse_matrix_whose_indices_lie_outside(tmp_path: Path) -> None:
    """Compiled code would read and write outside the arrays."""
    place = write_h5ad(tmp_path / "x.h5ad", sparse.csr_matrix(COUNTS))
    for part, value in (("X/indices", 10**6), ("X/indices", -5), ("X/indptr", 10**6)):
        broken = tmp_path / "broken.h5ad"
        shutil.copy(place, broken)
        with h5py.File(broken, "a") as file:
            file[part][3] = value
        with pytest.raises(UserError, match=rf"^{broken}: cannot be read as cells"):
            load_cells(broken, genes=0)
    with h5py.File(broken, "w") as file:
        file.create_dataset("X", (10**6, 10**5), "f4", chunks=(100, 100))
    with pytest.raises(UserError, match=r"X announces float32 \[1000000, 100000\], more than it can hold"):
        load_cells(broken, genes=0)


def test_a_file_on_which_hdf5_crashes_takes_nothing_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes 6489, 37577 and 38758 of this file made HDF5 crash when this test was written."""
    place = tmp_path / "x.h5ad"
    made = FILES["cells"](tmp_path, np.random.default_rng(0))
    content = bytearray(Path(made["path"]).read_bytes())
    for at, byte in ((6489, 105), (37577, 221), (38758, 99)):
        content[at] = byte
    place.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{place}: cannot be read as cells"):
        load_cells(place, genes=0)
    good = write_h5ad(tmp_path / "good.h5ad", COUNTS)
    monkeypatch.setattr(counts, "WALK", tmp_path / "walk.py")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        counts.WALK.write_text(f"import os; os.kill(os.getpid(), {number:d})")
        counts._refuse_crashing(good)
    counts.WALK.write_text("import os; os.abort()")
    with pytest.raises(
        UserError, match=rf"^{good}: cannot be read as cells \(Damaged: the HDF5 library crashes on it\)"
    ):
        load_cells(good, genes=0)


def test_an_array_of_many_equal_counts_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters other than gzip compress equal numbers to almost nothing; an unwritten part is different."""
    monkeypatch.setattr(counts, "LARGE", 0)
    monkeypatch.setattr(counts, "PACKED", 1)
    place = write_h5ad(tmp_path / "x.h5ad", COUNTS.astype(np.int64))
    for written in (True, False):
        with h5py.File(place, "a") as file:
            kept = dict(file["X"].attrs)
            del file["X"]
            made = file.create_dataset("X", COUNTS.shape, "i8", chunks=COUNTS.shape, scaleoffset=0, fillvalue=1)
            made.attrs.update(kept)
            if written:
                made[:] = 1
                assert made.id.get_storage_size() < made.nbytes / 10
        with pytest.raises(UserError, match="genes never vary" if written else "X announces .*, more than it can hold"):
            load_cells(place, genes=0)


def idx(kind: int, *shape: int, content: bytes = b"") -> bytes:
    """Return a file in MNIST's format."""
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


def test_files_of_mnist_with_false_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = idx(8, 20, 4, 4, content=bytes(320))
    labels = idx(8, 20, content=bytes(i % 10 for i in range(20)))
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    assert load(build("dataset", "mnist")).train.shape == (20, 1, 4, 4)  # type: ignore[union-attr]
    place = raw / "train-images-idx3-ubyte"
    wrong = (
        b"", b"\0\0", idx(8, 4_000_000_000, 28, 28), idx(99, 20, 4, 4, content=bytes(320)), images[:-5],
        idx(14, 20, 4, 4, content=bytes(2560)), idx(8, 10, 4, 4, content=bytes(160)), idx(8, 320, content=bytes(320)),
        idx(8, 0, 4, 4), idx(8, 0, 4, 4, content=bytes(320)),
    )  # fmt: skip
    for content in wrong:
        place.write_bytes(content)
        load.cache_clear()
        one_line(rf"^HARNESS_DATA={tmp_path}: MNIST cannot be read \(.*\)\. Put torchvision's MNIST files", "mnist")
