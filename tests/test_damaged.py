"""Damaged result files: a file that is not needed gives one message; others end with one line whose advice is right."""

import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from optuna.storages.journal import JournalFileBackend
from safetensors.torch import save
from test_trainer import Session, equal

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.execute.worker import PlanBoard
from harness.ablation.report.committed import RESTORED, published_folder
from harness.ablation.report.published import readme, section
from harness.core.checkpoint import differing, read_checkpoint, write_checkpoint
from harness.core.config import override
from harness.core.errors import Stopped, UserError
from harness.core.files import short_hash, write_json
from harness.evaluation.floor import Scored
from harness.evaluation.protocol import Protocol
from harness.evaluation.yardsticks import kept
from harness.runs import mlflow_mirror
from harness.runs.config import RunConfig
from harness.runs.contents import EVALUATED, TRAINED, WRITTEN_AGAIN
from harness.runs.folder import Run
from harness.runs.judge import known_rungs
from harness.runs.lineage import _intact
from harness.runs.pairs import PairSet
from harness.training.optimizers import Optimizer

Score = Callable[..., None]
CONTENTS = (b"", b"0", b"[]", b'"x"', b"null", b"\xff\xfe", b"NaN", b"[" * 100_000, b"9" * 5000, b'{"x": 1, "x": 1}')


def one_line(said: str, look: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=said) as caught:
        look()
    assert "\n" not in str(caught.value)


def harmed(path: Path, look: Callable[[], Any], remedy: str, *more: bytes) -> None:
    """Every damaged content of a file, and other things in its place, end in a line with its path and the remedy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    for content in (*CONTENTS, *more):
        path.write_bytes(content)
        one_line(rf"^{re.escape(str(path))}: .*{re.escape(remedy)}$", look)
    path.unlink()
    for make in (os.mkfifo, os.mkdir):
        make(path)
        one_line(rf"^{re.escape(str(path))}: cannot be read \(it is a .*{re.escape(remedy)}$", look)
        path.rmdir() if path.is_dir() else path.unlink()
    if before is not None:
        path.write_bytes(before)
    look()


def test_files_of_a_run_that_are_needed_end_in_one_line(tiny: RunConfig, score: Score) -> None:
    run = Run.of(tiny)
    protocol = tiny.protocol()
    run.describe(lambda line: None)
    score(run, protocol, {1: 2.0, 2: 1.0})
    harmed(run.folder / "diverged.json", lambda: run.gave_up, TRAINED, b"{}", b'{"reason": 3}')
    harmed(run.folder / "pruned.json", lambda: run.pruned, TRAINED, b'{"reason": []}')
    harmed(run.folder / "environment.json", lambda: run.environment, WRITTEN_AGAIN, b"{}", b'{"commits": "abc"}')
    place = run.evaluation_file(protocol)
    text = place.read_text()
    others = {
        '"fid": {': '"fid": {"x": 1.0, ',
        '"1": 2.0': '"1": [[]]',
        '"2": 1.0': '"2": 1.0, "3": 1.0',
        '"values": {': '"intervals": {"fid": {"1": [1.0]}}, "values": {',
        '"failures": {}': '"failures": {"1": {"kind": "Other", "reason": ""}}',
        '"time": {': '"time": {"7": 1.0, "x": ',
    }
    text = re.sub(r'\s*"intervals": \{\},', "", text, count=1)
    wrong = [text.replace(old, new, 1) for old, new in others.items()]
    assert all(old in text for old in others)
    harmed(
        place, lambda: run.evaluation(protocol), EVALUATED, *(each.encode() for each in wrong), b'{"run": "another"}'
    )


def test_the_advice_for_a_damaged_config_is_true(tiny: RunConfig) -> None:
    run = Run.of(tiny)
    said: list[str] = []
    run.describe(said.append)
    write_json(run.folder / "environment.json", {"commits": [], "parameters": 1, "weight_mean": 1.0})
    place = run.folder / "config.json"
    intact = place.read_bytes()
    assert said == []
    assert run.described
    for content in (*CONTENTS, b"{}", intact.replace(b'"digits"', b'"digit"')):
        place.write_bytes(content)
        one_line(rf"^{place}: .* {re.escape(WRITTEN_AGAIN)}$", lambda: Run.find(run.name))
        assert not run.described
        run.describe(said.append)
        assert said.pop() == f"{place}: is damaged; it is written again."
        place.unlink()
        run.describe(said.append)
        assert (place.read_bytes(), said) == (intact, [])
    assert Run.find(run.name).config == tiny
    # A metric of a plugin that is not loaded: the run is healthy, and its record stays.
    of_plugin = intact.replace(b'"fid"', b'"ink"')
    assert of_plugin != intact
    place.write_bytes(of_plugin)
    run.describe(said.append)
    assert (place.read_bytes(), said, run.described) == (of_plugin, [], True)


def test_a_damaged_tracking_file_stops_no_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = Path(os.environ["HARNESS_RESULTS"]) / "local" / "runs"
    sent = {"run_id": "1", "uri": "u", "status": "RUNNING", "lines": 0, "values": [], "files": []}
    wrong = [{**sent, "lines": "0"}, {"run_id": "1"}, {**sent, "values": {"fid": 1}}]
    contents = [*CONTENTS, *(str(value).replace("'", '"').encode() for value in wrong)]
    for i, content in enumerate(contents):
        path = local / str(i) / "tracking" / "x.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    os.mkfifo(local / "0" / "tracking" / "pipe.json")
    write_json(local / "last" / "tracking" / "x.json", sent)
    record = Mock()
    monkeypatch.setattr(mlflow_mirror, "Record", record)
    client = Mock()
    client.get_run.return_value.info.lifecycle_stage = "active"
    for _ in range(2):
        mlflow_mirror.close_dead(client)
    assert [call.args[1] for call in record.call_args_list] == [local / "last" / "tracking" / "x.json"] * 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(contents) + 1
    assert all(line.endswith("It is skipped; remove it to stop this message.") for line in said)


def test_a_file_that_is_not_needed_is_reported_once(tiny: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.of(tiny)
    run.folder.mkdir(parents=True)
    look = '{"step": 4, "time": 1.0, "protocol": "p", "nfe": 2, "values": {"fid": 1.0}}\n'
    (run.folder / "rungs.jsonl").write_text("[]\n" + look + look.replace("1.0}", "null}"))
    (run.folder / "metrics.jsonl").write_text('{"step": 2, "time": 1.0, "loss": NaN}\n{"step": 4}\n[1]\n')
    protocol = Mock(spec=Protocol, digest="p")
    for _ in range(2):
        assert known_rungs(run, protocol, 2) == {4: {"fid": 1.0}}
        assert (run.steps_done, len(run.metrics())) == (2, 1)
    assert len(capsys.readouterr().err.splitlines()) == 4
    place = run.folder / "x.json"
    for content in CONTENTS:
        place.write_bytes(content)
        assert [*_intact([place])] == []
        assert kept(place, dict[str, dict[str, float]]) == {}
        assert kept(place, dict[str, Scored]) == {}
    said = capsys.readouterr().err.splitlines()
    assert len({*said}) == len(said) > len(CONTENTS)


def test_damaged_pairs_end_in_one_line_or_are_made_again(tmp_path: Path) -> None:
    pairs = PairSet(tmp_path / "pairs", 4, (2,), labelled=False)
    again = f"Remove {pairs.folder}, and the same command makes its pairs again."
    harmed(pairs.folder / "pairs.json", lambda: pairs.about, again, b"{}", b'{"teacher": 1}')
    harmed(pairs.folder / "failed.json", lambda: pairs.failed, again, b'{"kind": "Other", "reason": "x"}')
    x0 = pairs.arrays["x0"]
    x0.path.write_bytes(b"\x93NUMPY" + bytes(len(x0.header) + 3 * x0.row))
    assert x0.rows == 0, "behind another header lie no pairs"
    with pairs.writer(2) as writer:
        assert writer.done == 0
    assert x0.path.read_bytes() == x0.header
    x0.path.unlink()
    os.mkfifo(x0.path)
    one_line(f"{x0.path}: is a named pipe, not a file", lambda: pairs.done)


def test_a_checkpoint_of_other_tensors_is_passed_over_and_kept(tiny: RunConfig, tmp_path: Path) -> None:
    expected = Session(tiny, tmp_path / "whole").fit()
    broken = Session(tiny, tmp_path / "broken")
    with pytest.raises(Stopped):
        broken.fit(8)
    step, saved, _ = read_checkpoint(broken.folder, "cpu")
    name = next(name for name in saved if name.startswith("network/"))
    scalars = saved["trainer/scalars"]
    others = [
        {**saved, name: saved[name][..., None]},
        {key: value for key, value in saved.items() if key != name},
        {**saved, "trainer/scalars": scalars.float()},
        {**saved, "optimizer/9999/step": torch.ones(())},
        {key: value for key, value in saved.items() if not key.startswith("optimizer/0/exp_avg")},
        {"network/x": torch.ones(1)},
    ]
    paths = [write_checkpoint(broken.folder, step + 1 + i, tensors) for i, tensors in enumerate(others)]
    assert equal(broken.fit(initial=1), expected)
    said = [f"{path} does not fit the run, is kept as {path.name}.unfit and was passed over." for path in paths[::-1]]
    assert broken.said == [*said, f"continues from step {step} of 12."]
    assert len([*broken.folder.glob("*.unfit")]) == len(paths)


class Halves(torch.optim.Optimizer):
    """An optimizer that stores every weight's last gradient, and for the second half of the weights the sign too."""

    def __init__(self, weights: Iterable[torch.nn.Parameter]):
        every = [*weights]
        middle = len(every) // 2
        groups: list[dict[str, Any]] = [{"params": every[:middle]}, {"params": every[middle:], "signed": True}]
        super().__init__(groups, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                assert weight.grad is not None
                self.state[weight]["last"] = weight.grad.clone()
                if group.get("signed"):
                    self.state[weight]["sign"] = weight.grad.sign()
                weight.sub_(weight.grad, alpha=group["lr"])


@dataclass(frozen=True, kw_only=True)
class OfHalves(Optimizer):
    def build(self, weights: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return Halves(weights)


def test_an_optimizer_with_two_rules_resumes_from_its_checkpoint(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"train.optimizer": OfHalves()})
    broken = Session(config, tmp_path)
    with pytest.raises(Stopped):
        broken.fit(8)
    broken.fit()
    assert broken.said == ["continues from step 8 of 12."]


def test_a_checkpoint_with_a_false_header_is_damaged(tmp_path: Path) -> None:
    intact = write_checkpoint(tmp_path, 1, {"x": torch.ones(2)})
    whole = save({"x": torch.ones(2)}, {"run": "r"})
    length = int.from_bytes(whole[:8], "little")
    headers = [b"[]", b"{", b'{"__metadata__":{"run":1}}', b'{"__metadata__":[]}', b'{"x":{"dtype":"F4"}}', b"\xff"]
    contents = [len(text).to_bytes(8, "little") + text + whole[8 + length :] for text in headers]
    for content in (b"", b"\xff" * 8, (1 << 60).to_bytes(8, "little") + b"{}", whole[:-1], *contents):
        path = tmp_path / f"000000002-{short_hash(content)}.safetensors"
        path.write_bytes(content)
        assert read_checkpoint(tmp_path, "cpu")[::2] == (1, [path])
        path.unlink()
    path.mkdir()
    assert read_checkpoint(tmp_path, "cpu")[::2] == (1, [path])
    one = {"x": torch.ones(2)}
    assert differing(one, {"x": torch.ones(2)}) is None
    assert differing(one, {"x": torch.ones(3)}) == "its tensor x is torch.float32 [2], not torch.float32 [3]"
    assert intact.exists()


def test_a_damaged_journal_ends_in_one_line(tiny: RunConfig) -> None:
    arms = {"a": {"weighting": "uniform"}, "b": {"weighting": "data_end"}}
    study = Study(name="toy", question="Which?", baseline="a", arms=arms, looks=(3,), nfe=2)
    plan = Plan.of(study, "digits", tiny, {}, 2, [])
    board = PlanBoard(plan)
    board.refill()
    journal = board.folder / "journal.log"
    whole = journal.read_bytes()
    assert JournalFileBackend(str(journal)).read_logs(0)
    wrong = [
        b"[]\n", b"{}\n", b"\xff\xff\n", b'{"op_code": 99, "worker_id": "x"}\n', b"[" * 100_000 + b"\n",
        whole.replace(b'"arm"', b'"leg"'), whole.replace(b'"seed"', b'"speed"'), whole[len(whole) // 2 :],
    ]  # fmt: skip
    for content in wrong:
        journal.write_bytes(content)
        one_line(rf"^{journal}: Optuna cannot use it .* Remove it: finished runs are kept", PlanBoard(plan).trials)
    journal.unlink()
    os.mkfifo(journal)
    one_line(rf"^{journal}: cannot be read \(it is a named pipe", PlanBoard(plan).trials)
    journal.unlink()
    PlanBoard(plan).refill()
    assert len(PlanBoard(plan).trials()) == board.total
    shutil.rmtree(board.folder)
    board.folder.touch()
    one_line(f"^{board.folder}: is not a folder, but a study needs one there. Move it away.$", lambda: PlanBoard(plan))


def test_a_damaged_committed_table_ends_in_one_line(tmp_path: Path) -> None:
    tables = published_folder() / "tables"
    for ending in ("csv", "json"):
        (tmp_path / f"ema-digits.{ending}").write_bytes((tables / f"ema-digits.{ending}").read_bytes())
    csv = tmp_path / "ema-digits.csv"
    assert section(csv) in readme("# Head", tmp_path)
    harmed(csv.with_suffix(".json"), lambda: section(csv), RESTORED, b"{}", b'{"question": 1}')
    text = csv.read_bytes()
    wrong = (text.replace(b"primary", b"first"), text.replace(b"True", b"maybe"), text.replace(b"baseline", b"base"))
    for content in (b"", b"\xff\xfe\x00", b"\0", b"a,b\n1,2,3\n1\n", *wrong):
        csv.write_bytes(content)
        one_line(rf"^{csv}: cannot be read \(.*\)\. {RESTORED}$", lambda: section(csv))
