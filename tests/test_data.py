"""Data sets: shapes, splits, fingerprints, and what is said of files that are missing or damaged."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.base import Data, load
from harness.data.images import CIFAR10, MNIST, Digits, FashionMNIST, Torchvision, decode, digits, encode
from harness.errors import UserError
from harness.registry import build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    return tmp_path


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST's files: magic number with the number of axes, their lengths, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_digits_hold_out_every_fifth() -> None:
    images, labels = digits()
    data = load(Digits())
    assert data.shape == (1, 8, 8)
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert torch.equal(data.held_out, images[4::5])
    assert torch.equal(torch.cat([data.train[:4], data.held_out[:1], data.train[4:8]]), images[:9])
    assert len(data.train) + len(data.held_out) == 1797
    assert labels.bincount(minlength=10).min() > 150
    assert data.classes is not None
    assert torch.equal(data.classes, labels[torch.arange(1797) % 5 != 4])
    assert (data.kind, data.num_classes, data.class_names) == ("image", 10, tuple("0123456789"))


def test_every_byte_survives_encoding() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    encoded = encode(values)
    assert encoded.dtype == torch.float32
    assert (encoded.min(), encoded.max()) == (-1, 1)
    assert torch.equal(decode(encoded), values)
    assert torch.equal(decode(torch.tensor([-7.0, 7.0])), torch.tensor([0, 255], dtype=torch.uint8))


def test_a_fingerprint_is_of_the_content() -> None:
    assert Digits().load().fingerprint == Digits().load().fingerprint
    train, held_out = torch.from_numpy(pixels(4, 1, 2, 2)), torch.from_numpy(pixels(2, 1, 2, 2, seed=1))
    touched, touched_held_out = train.clone(), held_out.clone()
    touched[3, 0, 1, 1] ^= 1
    touched_held_out[0] ^= 1
    variants = [
        (train, held_out),
        (touched, held_out),
        (train, touched_held_out),
        (train.view(4, 1, 4, 1), held_out),
        (train[:3], held_out),
    ]
    prints = [Data(*parts, encode, decode, "image").fingerprint for parts in variants]
    assert prints[0] == Data(train.clone(), held_out.clone(), encode, decode, "image").fingerprint
    classes = [torch.tensor(values) for values in ([0, 1, 2, 3], [0, 1, 2, 2])]
    prints += [Data(train, held_out, encode, decode, "image", each).fingerprint for each in classes]
    variants += [(train, held_out)] * 2
    assert (prints[0]["train"], prints[0]["held_out"]) == (4, 2)
    assert len({fingerprint["sha256"] for fingerprint in prints}) == len(variants)


def test_cifar10_is_read_from_one_file(folder: Path) -> None:
    train, test = pixels(5, 32, 32, 3), pixels(2, 32, 32, 3, seed=1)
    np.savez(folder / "cifar10.npz", x_train=train, x_test=test, y_train=np.arange(5, dtype=np.uint8)[:, None], y_test=np.arange(2))
    data = CIFAR10().load()
    assert data.shape == (3, 32, 32)
    assert np.array_equal(data.train.numpy(), train.transpose(0, 3, 1, 2))
    assert np.array_equal(data.held_out.numpy(), test.transpose(0, 3, 1, 2))
    assert data.classes is not None
    assert (data.classes.dtype, data.classes.tolist()) == (torch.int64, [0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x_test": None, "y_test": None}, "has no x_test. Make it again, with x_train, y_train, x_test, y_test."),
        ({"y_train": None}, "has no y_train. Make it again, with x_train, y_train, x_test, y_test."),
        ({"y_test": None}, "has no y_test. Make it again, with x_train, y_train, x_test, y_test."),
        ({"x_train": pixels(5, 3, 32, 32)}, "holds uint8 [5, 3, 32, 32], not uint8 [N, 32, 32, 3]"),
        ({"x_test": np.zeros((2, 32, 32, 3))}, "holds float64 [2, 32, 32, 3], not uint8"),
        ({"x_train": np.array([{}])}, "cannot be read"),
        ({"y_train": np.arange(4)}, "holds 5 images and 4 classes. Make it again."),
        ({"y_train": np.array(["a"] * 5)}, "Make it again"),
    ],
    ids=["missing part", "no classes", "no test classes", "channels first", "floats", "pickled", "a class too few", "named classes"],
)
def test_a_cifar10_file_of_another_shape_is_refused(folder: Path, arrays: dict[str, np.ndarray | None], said: str) -> None:
    whole = {"x_train": pixels(5, 32, 32, 3), "y_train": np.arange(5), "x_test": pixels(2, 32, 32, 3), "y_test": np.arange(2)}
    given = {name: array for name, array in {**whole, **arrays}.items() if array is not None}
    np.savez(folder / "cifar10.npz", **given)  # type: ignore[arg-type]
    refused(CIFAR10(), f"{folder / 'cifar10.npz'}: ", said)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_torn_cifar10_file_is_refused(folder: Path, keep: int) -> None:
    path = folder / "cifar10.npz"
    np.savez(path, x_train=pixels(5, 32, 32, 3), y_train=np.arange(5), x_test=pixels(2, 32, 32, 3), y_test=np.arange(2))
    path.write_bytes(path.read_bytes()[:keep])
    refused(CIFAR10(), f"{path}: ", "cannot be read")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_what_is_not_in_the_given_folder_is_not_downloaded(folder: Path, name: str) -> None:
    refused(build("dataset", name), f"HARNESS_DATA={folder}: ", "cannot be read")
    assert list(folder.iterdir()) == []


def test_without_a_given_folder_a_failed_download_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(root: Path, train: bool, download: bool) -> None:
        raise RuntimeError(f"{root} train={train} download={download}\nTried a mirror")

    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", unreachable)
    remedy = "Or set HARNESS_DATA to a folder that holds it."
    refused(FashionMNIST(), "data: ", f"FashionMNIST cannot be read (data train=True download=True). {remedy}")


@pytest.mark.parametrize(("dataset", "ninth"), [(FashionMNIST(), "ankle boot"), (MNIST(), "9")], ids=["fashion_mnist", "mnist"])
def test_mnists_are_read_in_torchvisions_layout(folder: Path, dataset: Torchvision, ninth: str) -> None:
    parts = {"train": pixels(6, 28, 28), "t10k": pixels(3, 28, 28, seed=1)}
    for part, images in parts.items():
        write_idx(folder / f"{dataset.class_name}/raw/{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{dataset.class_name}/raw/{part}-labels-idx1-ubyte", np.arange(len(images), dtype=np.uint8))
    data = dataset.load()
    assert data.shape == (1, 28, 28)
    assert np.array_equal(data.train[:, 0].numpy(), parts["train"])
    assert np.array_equal(data.held_out[:, 0].numpy(), parts["t10k"])
    assert data.classes is not None
    assert (data.classes.dtype, data.classes.tolist()) == (torch.int64, [0, 1, 2, 3, 4, 5])
    assert (data.kind, len(data.class_names), data.class_names[9]) == ("image", 10, ninth)


@pytest.mark.parametrize(("number", "rows"), [(10_000, range(7)), (7, range(7)), (4, [0, 2, 4, 6]), (1, [0])])
def test_some_samples_are_spread_evenly_where_they_are_fetched(number: int, rows: Iterable[int]) -> None:
    stored = torch.arange(7.0)[:, None]

    class Fetched:
        workers = 0

        def __len__(self) -> int:
            return len(stored)

        def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
            return stored[indices]

        def content(self) -> Iterator[bytes]:
            yield stored.numpy().tobytes()

    fetched, whole = (Data(train, train, lambda x: 10 * x, lambda x: x / 10, "points") for train in (Fetched(), stored))
    assert fetched.some(number).flatten().tolist() == [10.0 * row for row in rows]
    assert torch.equal(whole.some(number), 10 * stored)
    assert fetched.shape == whole.shape == (1,)


def refused(dataset: object, start: str, said: str) -> None:
    """Loading raises one line that begins with the place and says what is wrong."""
    with pytest.raises(UserError) as caught:
        dataset.load()  # type: ignore[attr-defined]
    message = str(caught.value)
    assert message.startswith(start)
    assert said in message
    assert "\n" not in message
