import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.core.checkpoint import below, read_checkpoint, write_checkpoint


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
