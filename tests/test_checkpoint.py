import os
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.core import checkpoint
from harness.core.checkpoint import Writer, below, checkpoints, read_checkpoint, step_of, write_checkpoint
from harness.core.errors import UserError


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(5, 3, generator=generator)
    extreme = torch.tensor([float("nan"), -0.0, 1e-45, float("inf")])
    return {
        "network/weight": values,
        "transposed": values.T,
        "bf16": values.bfloat16(),
        "totals": values.double().sum(0),
        "step": torch.tensor(seed),
        "extreme": extreme,
        "empty": torch.empty(0, 4),
    }


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        (a[k].dtype, a[k].shape, bits(a[k])) == (b[k].dtype, b[k].shape, bits(b[k])) for k in a
    )


def test_every_bit_comes_back(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 7, tensors(7))
    step, saved, damaged = read_checkpoint(tmp_path, "cpu")
    assert (step, damaged) == (7, [])
    assert same(saved, tensors(7))


def test_the_newest_two_stay(tmp_path: Path) -> None:
    paths = [write_checkpoint(tmp_path, step, tensors(step), keep=2) for step in (1, 20, 300, 1000)]
    assert sorted(tmp_path.iterdir()) == paths[-2:]
    assert read_checkpoint(tmp_path, "cpu")[0] == 1000


@pytest.mark.parametrize(("keep", "left"), [(None, [1, 2, 3]), (1, [3]), (2, [2, 3])])
def test_checkpoints_after_the_restored_step_are_removed(tmp_path: Path, keep: int | None, left: list[int]) -> None:
    for step in (1, 2, 3, 4, 5):
        write_checkpoint(tmp_path, step, tensors(step))
    again = write_checkpoint(tmp_path, 3, tensors(30), keep)
    kept = sorted(tmp_path.iterdir())
    assert [int(path.name[:9]) for path in kept] == left
    assert kept[-1] == again


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_one_is_passed_over_and_named(tmp_path: Path, harm: str) -> None:
    write_checkpoint(tmp_path, 1, tensors(1))
    newest = write_checkpoint(tmp_path, 2, tensors(2))
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes({"cut": bytes(content[:-10]), "flip": bytes(content), "empty": b""}[harm])
    step, saved, damaged = read_checkpoint(tmp_path, "cpu")
    assert (step, damaged) == (1, [newest])
    assert same(saved, tensors(1))


def test_without_an_intact_checkpoint_training_starts_from_step_zero(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "absent", "cpu") == (0, {}, [])
    paths = [write_checkpoint(tmp_path, step, tensors(step)) for step in (1, 2)]
    for path in paths:
        os.truncate(path, 50)
    assert read_checkpoint(tmp_path, "cpu") == (0, {}, paths[::-1])


def test_a_write_cut_short_is_not_seen(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, tensors(1))
    (tmp_path / f".{path.name.replace('1-', '2-')}.123").write_bytes(path.read_bytes()[:50])
    assert read_checkpoint(tmp_path, "cpu")[::2] == (1, [])


def test_a_part_is_named_from_its_prefix_on() -> None:
    one = torch.ones(1)
    two = torch.ones(2)
    other = torch.ones(3)
    whole = {"network/weight": one, "network/blocks/0": two, "networks/weight": other, "averages/network/weight": other}
    found = below(whole, "network")
    assert found.keys() == {"weight", "blocks/0"}
    assert found["weight"] is one
    assert found["blocks/0"] is two


def test_a_writer_goes_on_at_once_and_writes_the_values_of_its_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and its name are those that `write_checkpoint` writes; the next call waits for the file."""
    free = threading.Event()
    put = checkpoint._put

    def late(folder: Path, step: int, content: bytes, keep: int | None) -> Path:
        assert free.wait(10)
        return put(folder, step, content, keep)

    expected = write_checkpoint(tmp_path / "other", 1, tensors(1))
    monkeypatch.setattr(checkpoint, "_put", late)
    held = tensors(1)
    with Writer() as writer:
        writer.write(tmp_path, 1, held)
        for tensor in held.values():
            tensor.zero_()
        assert checkpoints(tmp_path) == []
        free.set()
        writer.write(tmp_path, 2, tensors(2), keep=2)
        assert (tmp_path / expected.name).read_bytes() == expected.read_bytes()
    assert [step_of(path) for path in checkpoints(tmp_path)] == [2, 1]


@pytest.mark.parametrize("when", ["write", "wait", "end"])
def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_next_call(tmp_path: Path, when: str) -> None:
    (tmp_path / "file").write_text("")

    def session() -> None:
        with Writer() as writer:
            writer.write(tmp_path / "file", 1, tensors(1))
            if when == "write":
                writer.write(tmp_path / "fine", 2, tensors(2))
            elif when == "wait":
                writer.wait()
            assert when == "end"

    with pytest.raises(FileExistsError):
        session()


def test_another_error_is_not_replaced_by_that_of_a_writer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def session() -> None:
        with Writer() as writer:
            writer.write(tmp_path / "file", 1, tensors(1))
            raise UserError("the first")

    with pytest.raises(UserError, match="the first"):
        session()
