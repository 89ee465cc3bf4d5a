"""Fetched batches equal those of a tensor on the device, for every way of fetching."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.core.config import override
from harness.core.errors import Stopped, UserError, guarded
from harness.core.registry import build
from harness.core.rng import Streams, stream
from harness.data.base import Data, load
from harness.data.images import decode, encode
from harness.flow.objective import Objective, Task
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.train import train as train_run
from harness.training import batches as module
from harness.training.batches import DataOrder, StoredBatch, batches
from harness.training.trainer import Callbacks, fit

pytestmark = pytest.mark.usefixtures("unmeasured")
SIZE = 20
BATCH = 7


class Stored:
    """Samples that are fetched; a bad sample is a user's mistake."""

    def __init__(self, images: Tensor, workers: int, bad: int = -1):
        self.images = images
        self.workers = workers
        self.bad = bad

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor) -> Tensor:
        if self.bad in indices.tolist():
            raise UserError(f"pictures/{self.bad}.png: cannot be read. Remove it.")
        return self.images[indices]

    def content(self) -> Iterator[bytes]:
        yield self.images.numpy().tobytes()


class Processes(Stored):
    """Samples that contain the process that fetched them."""

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.full((len(indices), 1, 1, 1), os.getpid(), dtype=torch.int64)


IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (SIZE, 1, 4, 4), dtype=np.uint8))
CLASSES = torch.arange(SIZE) % 3


def data_of(train: Any, classes: Tensor | None = CLASSES) -> Data:
    return Data(train, IMAGES[:2], encode, decode, "image", classes, None if classes is None else classes[:2])


def drawn(data: Data, start: int, end: int) -> list[StoredBatch]:
    return list(batches(data, BATCH, 3, start, end, "cpu"))


def same(a: list[StoredBatch], b: list[StoredBatch]) -> bool:
    pairs: Any = zip(a, b, strict=True)
    return all(torch.equal(x, y) and (p is q is None or torch.equal(p, q)) for (x, p), (y, q) in pairs)


@pytest.mark.parametrize("start", [0, 1, 5, 11])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_fetched_batches_are_those_of_a_tensor_wherever_training_begins(workers: int, start: int) -> None:
    whole = drawn(data_of(IMAGES), 0, 12)
    assert len(whole) == 12
    assert same(drawn(data_of(Stored(IMAGES, workers)), start, 12), whole[start:])
    assert same(drawn(data_of(IMAGES), start, 12), whole[start:])


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_classes_follow_their_rows(workers: int | None) -> None:
    data = data_of(IMAGES if workers is None else Stored(IMAGES, workers))
    order = DataOrder(SIZE, BATCH, seed=3)
    for step, (samples, classes) in enumerate(drawn(data, 0, 6)):
        rows = order.indices(step)
        assert torch.equal(samples, IMAGES[rows])
        assert classes is not None
        assert torch.equal(classes, rows % 3)
    assert all(
        classes is None for _, classes in drawn(dataclasses.replace(data, classes=None, held_out_classes=None), 0, 6)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_no_step_left_gives_no_batch(workers: int) -> None:
    assert drawn(data_of(Stored(IMAGES, workers)), 4, 4) == drawn(data_of(IMAGES), 4, 4) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_as_many_processes_fetch_as_the_samples_ask_for(workers: int) -> None:
    fetched_by = {int(samples.flatten()[0]) for samples, _ in drawn(data_of(Processes(IMAGES, workers)), 0, 8)}
    assert len(fetched_by) == max(workers, 1)
    assert (os.getpid() in fetched_by) == (workers == 0)


def test_a_large_tensor_is_fetched_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor one byte above the limit for the device; it is never moved there as a whole."""
    sent: list[int] = []
    original = Tensor.to

    def to(self: Tensor, *given: Any, **more: Any) -> Tensor:
        if self.dtype == torch.uint8:  # not the indices
            sent.append(len(self))
        return original(self, *given, **more)

    monkeypatch.setattr(Tensor, "to", to)
    whole = drawn(data_of(IMAGES), 0, 12)
    assert SIZE in sent
    sent.clear()
    monkeypatch.setattr(module, "RESIDENT_BYTES", IMAGES.nbytes)
    assert same(drawn(data_of(IMAGES, None), 2, 12), [each._replace(classes=None) for each in whole[2:]])
    assert SIZE in sent
    sent.clear()
    monkeypatch.setattr(module, "RESIDENT_BYTES", IMAGES.nbytes - 1)
    assert same(drawn(data_of(IMAGES, None), 2, 12), [each._replace(classes=None) for each in whole[2:]])
    assert sent == [BATCH] * 10
    assert same(drawn(data_of(IMAGES), 2, 12), whole[2:])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_users_mistake_in_a_worker_is_one_clear_line(workers: int, capfd: pytest.CaptureFixture[str]) -> None:
    order = DataOrder(SIZE, BATCH, seed=3)
    bad = int(order.indices(2)[4])

    def command() -> None:
        list(batches(data_of(Stored(IMAGES, workers, bad)), BATCH, 3, 0, 12, "cpu"))

    assert guarded(command) == 2
    said = capfd.readouterr()
    assert said.err == f"error: pictures/{bad}.png: cannot be read. Remove it.\n"
    assert said.out == ""


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_before_a_mistake_are_given(workers: int) -> None:
    order = DataOrder(SIZE, BATCH, seed=3)
    bad = int(order.indices(2)[0])
    assert all(bad not in order.indices(step).tolist() for step in (0, 1)), "batches 0 to 2 are of the first epoch"
    given = batches(data_of(Stored(IMAGES, workers, bad)), BATCH, 3, 0, 12, "cpu")
    assert same([next(given), next(given)], drawn(data_of(IMAGES), 0, 2))
    with pytest.raises(UserError) as caught:
        next(given)
    assert str(caught.value) == f"pictures/{bad}.png: cannot be read. Remove it."
    assert "Traceback" not in str(caught.value)


def test_another_error_in_a_worker_is_not_hidden() -> None:
    class Broken(Stored):
        def __getitem__(self, indices: Tensor) -> Tensor:
            raise ZeroDivisionError

    for workers in (0, 1):
        with pytest.raises(ZeroDivisionError):
            drawn(data_of(Broken(IMAGES, workers)), 0, 3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of two classes, larger than the training size."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(40):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(place / f"{number:02d}.png")
    return folder


@pytest.fixture
def on_pictures(tiny: RunConfig, pictures: Path) -> RunConfig:
    dataset = {"name": "image_folder", "path": str(pictures), "size": 8, "colour": "grey", "flip": True, "workers": 2}
    return override(tiny, {"dataset": dataset, "train.batch_size": 8, "objective.label_dropout": 0.2})


def trained(
    config: RunConfig, folder: Path, data: Data | None = None, stop_after: int | None = None, initial: int = 0
) -> Tensor:
    """Return the weights of both networks after training to the end or to a stop."""
    data = data or load(config.dataset)
    calls = itertools.count()
    torch.manual_seed(initial)
    network = config.build(data)
    callbacks = Callbacks(lambda _: None, lambda *_: {}, lambda _: None, lambda: next(calls) == stop_after)
    ema = fit(config.train, config.seed, network, Objective(config, {}), data, folder, callbacks)
    return torch.cat([p.flatten() for n in (network, ema.network) for p in n.state_dict().values()])


def resident(data: Data) -> Data:
    """Return the same data with all pictures in memory."""
    return dataclasses.replace(data, train=data.train[torch.arange(len(data.train))])


@pytest.mark.parametrize(("workers", "stops"), [(0, (5,)), (2, (1, 7))], ids=str)
def test_an_interrupted_run_on_pictures_ends_as_an_unbroken_one(
    on_pictures: RunConfig, tmp_path: Path, workers: int, stops: tuple[int, ...]
) -> None:
    config = override(on_pictures, {"dataset.workers": workers})
    expected = trained(config, tmp_path / "whole")
    for i, (start, end) in enumerate(itertools.pairwise([0, *stops])):
        with pytest.raises(Stopped, match=f"step {end}$"):
            trained(config, tmp_path / "broken", stop_after=end - start, initial=i)
    assert torch.equal(trained(config, tmp_path / "broken", initial=9), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_train_as_if_they_lay_in_memory(on_pictures: RunConfig, tmp_path: Path, workers: int) -> None:
    config = override(on_pictures, {"dataset.workers": workers})
    data = load(config.dataset)
    assert torch.equal(trained(config, tmp_path / "fetched"), trained(config, tmp_path / "memory", resident(data)))


def test_workers_read_a_zip_that_is_open_already(tmp_path: Path) -> None:
    """Each worker opens the file again: otherwise they would change each other's position in it."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(60):
            content = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(content, "bmp")
            archive.writestr(f"{number:02d}.bmp", content.getvalue())
    fields = {"name": "image_folder", "path": str(tmp_path / "x.zip"), "size": 96, "workers": 2}
    data = build("dataset", fields).load()
    memory = resident(data)
    assert same(list(batches(data, 9, 0, 0, 30, "cpu")), list(batches(memory, 9, 0, 0, 30, "cpu")))


REASON = "the loader draws its seed from the stream of the first step's dropout"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_with_dropout_ends_as_an_unbroken_one(
    on_pictures: RunConfig, tmp_path: Path, workers: int
) -> None:
    config = override(on_pictures, {"backbone.dropout": 0.3, "dataset.workers": workers})
    expected = trained(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(config, tmp_path / "broken", stop_after=5)
    assert torch.equal(trained(config, tmp_path / "broken", initial=9), expected)


def test_fetching_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn(data_of(Stored(IMAGES, 0)), 0, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_sees_the_pictures_that_its_steps_name_flipped_by_its_seed(
    on_pictures: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(on_pictures.dataset)
    seen = list[Tensor]()
    original = Objective.task

    def spy(
        self: Objective,
        x0: Tensor,
        streams: Streams,
        y: Tensor | None = None,
        t: Tensor | None = None,
        **look: Any,
    ) -> Task:
        if t is not None or streams.step < 0:
            return original(self, x0, streams, y, t, **look)
        assert y is not None
        rows = DataOrder(36, 8, on_pictures.seed).indices(streams.step)
        assert torch.equal(y, data.classes[rows])  # type: ignore[index]
        stored = data.train[rows]
        generator = stream(on_pictures.seed, "augment", streams.step)
        turned = torch.rand(8, 1, 1, 1, generator=generator) < 0.5
        assert torch.equal(x0, data.encode(torch.where(turned, stored.flip(-1), stored)))
        seen.append(turned)
        return original(self, x0, streams, y)

    monkeypatch.setattr(Objective, "task", spy)
    trained(on_pictures, tmp_path)
    assert len(seen) == on_pictures.train.steps
    assert 0 < torch.cat(seen).float().mean() < 1


def test_a_corrupt_picture_ends_a_run_with_its_name(
    on_pictures: RunConfig, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in pictures.rglob("*.png"):
        copy = tmp_path / "x" / path.relative_to(pictures)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    name = load(on_pictures.dataset).train.names[20]  # type: ignore[union-attr]
    (tmp_path / "x" / name).write_bytes(b"torn")
    config = override(on_pictures, {"dataset.path": str(tmp_path / "x"), "dataset.workers": 2})
    assert guarded(lambda: train_run(Run.of(config), lambda _: None, lambda: False)) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {tmp_path}/x/{name}: cannot be read (")
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_how_pictures_are_fetched_names_no_other_run(on_pictures: RunConfig) -> None:
    assert Run.of(override(on_pictures, {"dataset.workers": 0})).name == Run.of(on_pictures).name
    assert Run.of(override(on_pictures, {"dataset.flip": False})).name != Run.of(on_pictures).name
    assert Run.of(override(on_pictures, {"dataset.size": 9})).name != Run.of(on_pictures).name
