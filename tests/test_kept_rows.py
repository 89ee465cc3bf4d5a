"""An interrupted extraction of features continues: the same rows, bit for bit, and no batch twice."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typed import tensor

from harness.core.config import override
from harness.core.errors import Stopped
from harness.data.base import load
from harness.data.images import Digits
from harness.evaluation import kept as module
from harness.evaluation.extractors import features, load_extractor
from harness.evaluation.judge import Judge, SampleBatch
from harness.evaluation.kept import KeptRows
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import evaluate
from harness.runs.sample import restore
from harness.runs.train import ensure

CONFIG = EvaluateConfig(num_samples=300, batch_size=50, extractor="digits")


def cut(images: Tensor, first: int, after: int, asked: list[int]) -> Iterator[SampleBatch]:
    """Yield batches from `first` on; stop before batch `after`."""
    for i, part in list(enumerate(images.split(50)))[first:]:
        if i == after:
            raise Stopped("stopped")
        asked.append(i)
        yield SampleBatch(part)


def test_rows_are_those_of_an_unbroken_extraction(tmp_path: Path) -> None:
    data = load(Digits())
    judge = Judge(CONFIG, data, "cpu")
    images = tensor(data.held_out)[:300]
    expected, rows = judge.estimates(cut(images, 0, 99, []), KeptRows(), show=70)
    assert torch.equal(rows["shown"], images[:70]), "of the first batch all, of the second some"
    asked: list[int] = []
    for after in (2, 3, 3, 5):
        kept = KeptRows(tmp_path)
        with pytest.raises(Stopped):
            judge.estimates(cut(images, kept.batches, after, asked), kept, show=70)
    kept = KeptRows(tmp_path)
    assert kept.batches == 5
    found, again = judge.estimates(cut(images, kept.batches, 99, asked), kept, show=70)
    assert found == expected
    assert asked == [0, 1, 2, 3, 4, 5]
    assert again.keys() == rows.keys()
    for name in ("read", "shown", "calls"):
        assert torch.equal(again[name][: len(rows[name])], rows[name])
    kept.write()
    whole = KeptRows(tmp_path)
    assert whole.batches == 6, "and was cut short before its score was written"
    assert judge.estimates(cut(images, whole.batches, 99, asked), whole, show=70)[0] == expected


def test_rows_in_a_damaged_file_are_made_again(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path)
    for i in range(3):
        kept.add({"read": torch.full((2,), float(i))})
        kept.write()
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 3
    paths[1].write_bytes(paths[1].read_bytes()[:-1])  # the third file's start no longer follows an end
    again = KeptRows(tmp_path)
    assert again.batches == 1
    again.add({"read": torch.full((2,), 7.0)})
    assert again.all()["read"].tolist() == [0, 0, 7, 7]


def test_rows_of_one_sample_each_are_found_again(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path)
    for i in range(3):
        kept.add({"read": torch.full((1,), float(i))})
        kept.write()
    again = KeptRows(tmp_path)
    assert again.batches == 3
    assert again.all()["read"].tolist() == [0, 1, 2]


def test_rows_are_written_now_and_then_and_removed_when_all_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP_EVERY_S", 0)
    kept = KeptRows(tmp_path / "x")
    kept.add({"read": torch.ones(2)})
    assert KeptRows(tmp_path / "x").batches == 1
    kept.clear()
    assert not (tmp_path / "x").exists()


def test_an_evaluation_that_was_stopped_ends_as_if_it_had_not_been(tiny: RunConfig) -> None:
    config = override(tiny, {"evaluate.nfe": [2], "evaluate.num_samples": 96, "evaluate.batch_size": 32})
    run = ensure(config, print, lambda: False)
    data = load(config.dataset)
    protocol = Protocol.of(config.evaluate, data)
    place = run.folder / "evaluations" / f"{protocol.digest}.json"
    picture = run.folder / "samples" / f"{protocol.digest}-nfe-0002.png"
    expected = run.evaluation(protocol)["values"]
    drawn = picture.read_bytes()
    place.unlink()
    picture.unlink()
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 3

    judge = Judge(config.evaluate, data, "cpu")
    with pytest.raises(Stopped):
        evaluate(run, restore(run), judge, stop)
    kept = KeptRows(run.kept_rows(protocol, 2))
    assert kept.batches == 2
    assert run.judged(protocol) == pytest.approx(2 / 3)
    rows = {name: values.chunk(2) for name, values in kept.all().items() if name != "batch"}
    kept.clear()
    slow = KeptRows(run.kept_rows(protocol, 2))
    for i in range(2):
        slow.add({name: pieces[i] + (name == "seconds") for name, pieces in rows.items()})  # one more second per sample
    slow.write()
    started = time.perf_counter()
    evaluate(run, restore(run), judge, lambda: False)
    assert 64 < run.evaluation(protocol)["seconds"]["2"] < 100 + time.perf_counter() - started
    assert Run.of(config).evaluation(protocol)["values"] == expected
    assert picture.read_bytes() == drawn
    assert run.judged(protocol) == 1
    assert [path.name for path in (run.folder / "evaluations").iterdir()] == [place.name]


def test_an_interrupt_keeps_only_rows_in_order(tmp_path: Path) -> None:
    """Ctrl-C can come while a batch is awaited: the rows on disk are then a beginning without a gap."""
    data = load(Digits())
    judge = Judge(CONFIG, data, "cpu")
    images = tensor(data.held_out)[:300]
    expected, _ = judge.estimates(cut(images, 0, 99, []), KeptRows(), show=0)

    def interrupted() -> Iterator[SampleBatch]:
        for i, batch in enumerate(cut(images, 0, 99, [])):
            if i == 3:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        judge.estimates(interrupted(), KeptRows(tmp_path))
    kept = KeptRows(tmp_path)
    assert judge.estimates(cut(images, kept.batches, 99, []), kept)[0] == expected


def test_an_interrupted_reference_is_not_continued_in_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(Digits())
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] == 4

    with pytest.raises(Stopped):
        Judge(CONFIG, data, "cpu", stop=stop)
    other = Judge(override(CONFIG, {"batch_size": 70}), data, "cpu").reference["fid"]
    whole = torch.cat(
        [features(load_extractor("digits", "cpu"), part, "cpu")[0] for part in tensor(data.train).split(100)]
    )
    torch.testing.assert_close(torch.from_numpy(other["mu"]), whole.double().mean(0), rtol=1e-5, atol=1e-6)


def test_logits_are_not_taken_from_rows_without_logits(tiny: RunConfig) -> None:
    protocol = tiny.protocol()
    run = Run.of(tiny)
    with_logits = Run.of(override(tiny, {"evaluate.metrics": ["fid", "isc"]}))
    assert run.kept_rows(protocol, 2) != with_logits.kept_rows(protocol, 2)
