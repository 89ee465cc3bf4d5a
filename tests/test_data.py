"""Data sets: shapes, splits, fingerprints, and messages about missing or damaged files."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from typed import tensor

from harness.core.errors import ConfigError, UserError
from harness.core.registry import build
from harness.data import pictures
from harness.data.base import Data, held_out, load, spaced
from harness.data.images import CIFAR10, MNIST, Digits, FashionMNIST, Torchvision, decode, digits, encode
from harness.evaluation.extractors import features, load_extractor
from harness.evaluation.fidelity import FID


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    return tmp_path


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write the format of MNIST's files: magic number with the number of axes, their lengths, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_digits_are_parted_by_class() -> None:
    images, labels = digits()
    data = load(Digits())
    assert data.shape == (1, 8, 8)
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert isinstance(data.train, Tensor)
    assert isinstance(data.held_out, Tensor)
    assert (len(data.train), len(data.held_out)) == (1438, 359)
    together = torch.cat([data.train, data.held_out]).flatten(1)
    assert sorted(together.tolist()) == sorted(images.flatten(1).tolist())
    assert labels.bincount(minlength=10).min() > 150
    assert data.classes is not None
    assert data.held_out_classes is not None
    assert torch.equal(data.classes.bincount() + data.held_out_classes.bincount(), labels.bincount())
    of = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    assert [of[image.numpy().tobytes()] for image in data.held_out] == data.held_out_classes.tolist()
    assert (data.kind, data.num_classes, data.class_names) == ("image", 10, tuple("0123456789"))


def random_classes(seed: int) -> Tensor:
    """Return up to thirty classes of 1 to 200 samples, sometimes one class only, in random order."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, rng.choice([3, 12, 200]), rng.integers(1, 30), endpoint=True)
    return torch.from_numpy(rng.permutation(np.repeat(np.arange(len(counts)), counts)))


def test_every_class_is_held_out_in_the_same_share_and_none_is_lost_to_training() -> None:
    parted = 0
    for seed in range(200):
        classes = random_classes(seed)
        every = (5, 10)[seed % 2]
        said = f"seed {seed}: one in {every} of {classes.bincount().tolist()}"
        if len(classes) < every or classes.bincount().max() == 1:
            continue
        try:
            apart = held_out(len(classes), every, classes)
        except UserError:
            continue
        parted += 1
        counts = classes.bincount().double()
        held = torch.bincount(classes[apart], minlength=int(classes.max()) + 1)
        assert (held >= torch.floor(counts / every)).all(), said
        assert (held <= torch.ceil(counts / every)).all(), said
        assert (held < counts).all(), said
        assert torch.equal(apart, held_out(len(classes), every, classes)), said
    assert parted > 150


def test_a_split_does_not_follow_positions() -> None:
    """Periodic classes or donors of any period: every class is in both parts, and every remainder of a
    position occurs.
    """
    for period in (2, 5, 9, 10, 20):
        for strata in (None, torch.arange(2000) % period):
            apart = held_out(2000, 10, strata)
            assert int(apart.sum()) == 200
            held = torch.bincount(torch.arange(2000)[apart] % period, minlength=period)
            assert stats.chisquare(held.numpy()).pvalue > 1e-3, f"period {period}, strata {strata is not None}"


def test_a_split_without_either_part_is_refused() -> None:
    for number, every in ((0, 5), (1, 5), (4, 5), (9, 10), (1, 1), (3, 1)):
        with pytest.raises(UserError, match=f"^dataset: {number} samples? cannot be split"):
            held_out(number, every)
    with pytest.raises(UserError, match=r"^dataset: 30 samples cannot be split"):
        held_out(30, 10, torch.arange(30))


def test_digits_have_the_same_classes_in_both_parts() -> None:
    data = load(Digits())
    assert data.classes is not None
    assert data.held_out_classes is not None
    table = np.stack([data.classes.bincount().numpy(), data.held_out_classes.bincount().numpy()])
    assert stats.chi2_contingency(table).pvalue > 0.99
    shares = table[1] / table.sum(0)
    assert (np.abs(table[1] - table.sum(0) / 5) <= 1).all(), shares


def test_held_out_digits_are_as_near_to_the_others_as_random_parts() -> None:
    """FID by the committed classifier, compared with twenty stratified splits of scikit-learn."""
    from sklearn.model_selection import StratifiedShuffleSplit

    images, labels = digits()
    found = features(load_extractor("digits", "cpu"), images, "cpu")[0].double()
    metric = FID()

    def fid(apart: np.ndarray) -> float:
        rows = torch.from_numpy(apart)
        return metric.compare(metric.summarise(found[rows], None), metric.summarise(found[~rows], None))

    others = []
    for _, chosen in StratifiedShuffleSplit(20, test_size=359, random_state=0).split(images, labels):
        others.append(fid(np.isin(np.arange(len(images)), chosen)))
    ours = fid(held_out(len(images), 5, labels).numpy())
    assert np.mean(others) - 4 * np.std(others) < ours < np.mean(others) + 4 * np.std(others)
    assert ours < 1


@pytest.mark.parametrize("zeroth", [0, 3])
def test_a_class_without_a_training_sample_is_refused(zeroth: int, folder: Path) -> None:
    said = "has no training sample. Add training samples of it, take more samples, or leave the class out."
    images = torch.from_numpy(pixels(6, 1, 2, 2))
    classes = torch.tensor([0, 1, 3, 3, 0, 1])
    with pytest.raises(UserError, match=r"^dataset: the class '2' has no training sample\. Add training samples of it"):
        Data(images, images[:1], encode, decode, "image", classes, torch.tensor([2]))
    with pytest.raises(UserError, match=r"^dataset: the class 'emu' has no training sample"):
        Data(images, images[:1], encode, decode, "image", classes, classes[:1], ("cat", "dog", "emu", "fox"))
    with pytest.raises(UserError, match=r"^dataset: the class 'gnu' has no training sample"):
        Data(
            images,
            images[:1],
            encode,
            decode,
            "image",
            classes - (classes > 1).long(),
            classes[:1],
            ("cat", "dog", "emu", "gnu"),
        )
    train = np.arange(40) % 10
    np.savez(folder / "cifar10.npz", x_train=pixels(36, 32, 32, 3), y_train=train[train != zeroth],
     x_test=pixels(2, 32, 32, 3),
             y_test=[zeroth, 1])  # fmt: skip
    refused(CIFAR10(), f"dataset: the class '{('airplane', 'automobile', 'bird', 'cat')[zeroth]}' ", said)
    refused(build("dataset", {"name": "gaussian_mixture", "number": 5, "components": 50}), "dataset: the class '", said)


@pytest.mark.parametrize("wrong", [-1, 10, 255])
def test_classes_beyond_their_names_are_refused(wrong: int, folder: Path) -> None:
    classes = np.append(np.arange(19) % 10, wrong)
    for part in ("train", "test"):
        given: Any = {"y_train": np.arange(20) % 10, "y_test": np.arange(20) % 10, f"y_{part}": classes}
        np.savez(folder / "cifar10.npz", x_train=pixels(20, 32, 32, 3), x_test=pixels(20, 32, 32, 3), **given)
        refused(
            CIFAR10(),
            f"dataset: the classes are numbers from {min(wrong, 0)} to {max(wrong, 9)}, not from 0 to 9. ",
            "Renumber them.",
        )


def test_npz_classes_are_parted_by_class_and_the_rare_are_kept(folder: Path) -> None:
    labels = np.array(["common"] * 60 + ["rare"] + ["seldom"] * 3)
    np.savez(folder / "x.npz", images=pixels(64, 4, 4, 1), labels=np.random.default_rng(0).permutation(labels))
    data = build("dataset", {"name": "npz", "path": "x.npz"}).load()
    assert data.num_classes == 3
    assert data.classes.bincount().tolist()[1] == 1
    assert 5 <= data.held_out_classes.bincount(minlength=3).tolist()[0] <= 7
    np.savez(folder / "x.npz", images=pixels(20, 4, 4, 1), labels=np.append(np.arange(18.0) % 2, [np.nan, np.nan]))
    refused(
        build("dataset", {"name": "npz", "path": "x.npz"}),
        f"{folder}/x.npz: 2 of 20 `labels` are NaN.",
        "Give each picture a label",
    )


def test_evenly_spaced_indices_are_exact() -> None:
    """Compared with exact integers of any size: float32 is exact only up to 2^24, float64 up to 2^53."""
    for total in (1, 2, 7, 100, 2**24 + 3, 10**8, 10**10, 2**53 + 1):
        for number in (1, 2, 3, 64, 1000):
            found = spaced(number, total)
            shown = min(number, total)
            expected = [i * (total - 1) // max(1, shown - 1) for i in range(shown)]
            assert found.dtype == torch.int64
            assert found.tolist() == expected, f"{number} of {total}"
            assert shown == 1 or found[-1] == total - 1, f"the last of {total}"
    assert spaced(5, 0).tolist() == []


def test_samples_are_drawn_from_all_of_very_many() -> None:
    """The samples that training inspects and draws, where positions exceed float32."""

    class Many:
        workers = 0

        def __len__(self) -> int:
            return 10**10

        def __getitem__(self, indices: Tensor) -> Tensor:
            assert int(indices.max()) < 10**10
            return indices[:, None].double()

        def content(self) -> Iterator[bytes]:
            yield b""

    data = Data(Many(), Many(), Tensor.double, Tensor.double, "points")
    assert data.some(5).flatten().tolist() == [0, 2499999999, 4999999999, 7499999999, 9999999999]
    assert pictures._real(data, 3).flatten().tolist() == [0, 4999999999, 9999999999]


def test_every_byte_survives_encoding() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    encoded = encode(values)
    assert encoded.dtype == torch.float32
    assert (encoded.min(), encoded.max()) == (-1, 1)
    assert torch.equal(decode(encoded), values)
    assert torch.equal(decode(torch.tensor([-7.0, 7.0])), torch.tensor([0, 255], dtype=torch.uint8))


@pytest.mark.parametrize("ends", [(-1, 1), (0, 1), (-10, 10), (0, 255), (3, 4.5), (-1e18, 1e18), (1e-6, 2e-6)])
def test_digits_are_encoded_to_the_two_values_and_back(ends: tuple[float, float]) -> None:
    data = load(Digits(encoded=ends))
    low, high = ends
    size = max(map(abs, ends))
    for samples in (tensor(data.train), tensor(data.held_out)):
        seen = data.encode(samples)
        assert seen.dtype == torch.float32
        assert torch.equal(data.decode(seen), samples)
        wanted = np.interp(samples.numpy(), [0, 255], ends)
        torch.testing.assert_close(seen.double(), torch.from_numpy(wanted), rtol=0, atol=1e-6 * size)
    below, above = data.decode(torch.tensor([low - size, high + size])).tolist()
    assert (below, above) == (0, 255)


def test_digits_are_encoded_like_other_images_by_default() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(load(Digits()).encode(values), encode(values))
    assert load(Digits()).fingerprint == load(Digits(encoded=(0, 1))).fingerprint, "of what is stored"


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([1, 1], r"encoded: \[1.0, 1.0\] is not a lower and a higher value\. Give two numbers, like \[0,1\]\."),
        ([1, 0], r"encoded: \[1.0, 0.0\] is not a lower"),
        ([0, 1, 2], r"encoded: \[0.0, 1.0, 2.0\] is not a lower"),
        ([], r"encoded: \[\] is not a lower"),
        ([0, float("inf")], r"encoded\[1\]: expected a finite number, got inf"),
        ([float("nan"), 1], r"encoded\[0\]: expected a finite number, got nan"),
        ([0, 1e19], r"encoded\[1\]: 1e\+19 is outside \[-1e\+18, 1e\+18\]"),
        ([1e9, 1e9 + 1], r"encoded: .* are too close to each other for float32"),
        ([0, 1e-320], r"encoded: .* are too close to each other"),
    ],
)
def test_values_that_no_digit_can_be_encoded_to_are_refused(ends: list[float], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        Digits(encoded=tuple(ends))


def test_a_fingerprint_is_of_the_content() -> None:
    assert Digits().load().fingerprint == Digits().load().fingerprint
    train = torch.from_numpy(pixels(4, 1, 2, 2))
    held_out = torch.from_numpy(pixels(2, 1, 2, 2, seed=1))
    touched = train.clone()
    touched_held_out = held_out.clone()
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
    held = [torch.tensor(values) for values in ([0, 1], [1, 1])]
    prints += [Data(train, held_out, encode, decode, "image", each, held[0]).fingerprint for each in classes]
    prints.append(Data(train, held_out, encode, decode, "image", classes[0], held[1]).fingerprint)
    variants += [(train, held_out)] * 3
    assert (prints[0]["train"], prints[0]["held_out"]) == (4, 2)
    assert len({fingerprint["sha256"] for fingerprint in prints}) == len(variants)


def test_cifar10_is_read_from_one_file(folder: Path) -> None:
    train = pixels(10, 32, 32, 3)
    test = pixels(2, 32, 32, 3, seed=1)
    np.savez(
        folder / "cifar10.npz",
        x_train=train,
        x_test=test,
        y_train=np.arange(10, dtype=np.uint8)[:, None],
        y_test=np.arange(2),
    )
    data = CIFAR10().load()
    assert data.shape == (3, 32, 32)
    assert np.array_equal(tensor(data.train).numpy(), train.transpose(0, 3, 1, 2))
    assert np.array_equal(tensor(data.held_out).numpy(), test.transpose(0, 3, 1, 2))
    assert data.classes is not None
    assert (data.classes.dtype, data.classes.tolist()) == (torch.int64, list(range(10)))
    assert data.held_out_classes is not None
    assert data.held_out_classes.tolist() == [0, 1]


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
    ids=[
        "missing part",
        "no classes",
        "no test classes",
        "channels first",
        "floats",
        "pickled",
        "a class too few",
        "named classes",
    ],
)
def test_a_cifar10_file_of_another_shape_is_refused(
    folder: Path, arrays: dict[str, np.ndarray | None], said: str
) -> None:
    whole = {
        "x_train": pixels(5, 32, 32, 3),
        "y_train": np.arange(5),
        "x_test": pixels(2, 32, 32, 3),
        "y_test": np.arange(2),
    }
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
def test_a_file_missing_from_the_given_folder_is_not_downloaded(folder: Path, name: str) -> None:
    refused(build("dataset", name), f"HARNESS_DATA={folder}: ", "cannot be read")
    assert list(folder.iterdir()) == []


def test_without_a_given_folder_a_failed_download_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(root: Path, train: bool, download: bool) -> None:
        raise RuntimeError(f"{root} train={train} download={download}\nTried a mirror")

    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", unreachable)
    remedy = "Or set HARNESS_DATA to a folder that holds it."
    refused(FashionMNIST(), "data: ", f"FashionMNIST cannot be read (data train=True download=True). {remedy}")


@pytest.mark.parametrize(
    ("dataset", "ninth"), [(FashionMNIST(), "ankle boot"), (MNIST(), "9")], ids=["fashion_mnist", "mnist"]
)
def test_mnists_are_read_in_torchvisions_layout(folder: Path, dataset: Torchvision, ninth: str) -> None:
    parts = {"train": pixels(10, 28, 28), "t10k": pixels(3, 28, 28, seed=1)}
    for part, images in parts.items():
        write_idx(folder / f"{dataset.class_name}/raw/{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{dataset.class_name}/raw/{part}-labels-idx1-ubyte", np.arange(len(images), dtype=np.uint8))
    data = dataset.load()
    assert data.shape == (1, 28, 28)
    assert np.array_equal(tensor(data.train)[:, 0].numpy(), parts["train"])
    assert np.array_equal(tensor(data.held_out)[:, 0].numpy(), parts["t10k"])
    assert data.classes is not None
    assert (data.classes.dtype, data.classes.tolist()) == (torch.int64, list(range(10)))
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
    """Check that loading raises one line that begins with the place and contains the message."""
    with pytest.raises(UserError) as caught:
        dataset.load()  # type: ignore[attr-defined]
    message = str(caught.value)
    assert message.startswith(start)
    assert said in message
    assert "\n" not in message


def test_classes_that_do_not_fit_their_samples_are_refused() -> None:
    train = torch.zeros(6, 2)
    held = torch.zeros(3, 2)
    some = torch.tensor([0, 1, 1])
    for classes, held_classes, said in (
        (some.repeat(2), None, "one of classes and held_out_classes is missing"),
        (None, some, "one of classes and held_out_classes is missing"),
        (some, some, "3 classes are given for 6 training samples"),
        (some.repeat(2), some[:2], "2 classes are given for 3 held-out samples"),
    ):
        with pytest.raises(UserError, match=f"^dataset: {said}"):
            Data(train, held, torch.Tensor.float, torch.Tensor.float, "points", classes, held_classes)


def test_arrays_of_an_npz_that_are_not_read_are_named(tmp_path: Path) -> None:
    images = np.zeros((20, 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, y=np.arange(20), classes=np.arange(20) % 2)
    data = build("dataset", {"name": "npz", "path": str(tmp_path / "x.npz")}).load()
    assert data.notes == ("left out, as neither `images` nor `labels`: y [20], classes [20]",)
    assert data.classes is None
