"""The index gives a report what the files of the runs would give, and only as long as they are the same files."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from three_arms import planned

from harness.ablation.design.plan import Plan
from harness.ablation.report.outcomes import collect
from harness.ablation.report.records import Records, records
from harness.core import files
from harness.core.appending import Lines
from harness.core.files import write_json
from harness.core.reading import say_once
from harness.runs import index
from harness.runs.config import RunConfig

SEEDS = 3
LOSS = "loss_by_log_snr/below_-6"


@pytest.fixture
def plan(tiny: RunConfig, score: Callable[..., None], isolated: None) -> Plan:
    """A study whose runs are trained and evaluated; their files are an hour old."""
    plan = planned(tiny, seeds=SEEDS)
    for i, (arm, seed) in enumerate(plan.trials()):
        run = plan.run(arm, seed)
        score(run, plan.protocol(arm), {1: 1 / (3 + i), 2: 0.1 + i})
        with Lines(run.folder / "metrics.jsonl") as lines:
            step = run.config.train.steps
            lines.add({"step": step, "time": 1.0, "samples_per_second": 7.0 + i, LOSS: 0.1 * i})
        about = {"commits": ["abc"], "parameters": 1, "weight_mean": 0.0, "machine": {"processor": f"processor {i}"}}
        write_json(run.folder / "environment.json", about)
        for path in run.folder.rglob("*.json*"):
            aged(path)
    return plan


def aged(path: Path) -> None:
    """Make a file an hour old."""
    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))


def found(plan: Plan) -> tuple[pd.DataFrame, Records]:
    return collect(plan), records(plan)


def at_the_next_command() -> None:
    """Store the index, and forget what this process knows of it."""
    index.store()
    index._OPEN.clear()
    index.index_of.cache_clear()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of runs that are opened from now on."""
    paths = list[Path]()
    real = Path.read_bytes

    def noted(path: Path) -> bytes:
        if path.is_relative_to(files.runs_folder()):
            paths.append(path)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    return paths


def test_the_next_command_opens_no_file_and_finds_the_same(plan: Plan, opened: list[Path]) -> None:
    cells, facts = found(plan)
    assert len({*opened}) == 3 * SEEDS * len(plan.arms)
    at_the_next_command()
    opened.clear()
    again, same = found(plan)
    assert opened == []
    pd.testing.assert_frame_equal(again, cells, check_exact=True)
    assert same == facts
    assert set(facts.losses) == set(plan.arms)


@pytest.mark.parametrize("name", ["metrics.jsonl", "environment.json", "evaluation"])
def test_a_file_that_was_written_again_is_read_again(name: str, plan: Plan, opened: list[Path]) -> None:
    """Even if the new file has the time and the size of the old one."""
    found(plan)
    at_the_next_command()
    arm, seed = plan.trials()[-1]
    run = plan.run(arm, seed)
    path = run.evaluation_file(plan.protocol(arm)) if name == "evaluation" else run.folder / name
    before = path.stat()
    beside = path.with_suffix(".new")
    beside.write_bytes(path.read_bytes())
    os.utime(beside, ns=(before.st_atime_ns, before.st_mtime_ns))
    beside.replace(path)
    opened.clear()
    found(plan)
    assert path in opened
    assert {each.relative_to(run.folder.parent).parts[0] for each in opened} == {run.name}


def test_a_changed_value_reaches_the_table(plan: Plan, score: Callable[..., None]) -> None:
    cells, _ = found(plan)
    at_the_next_command()
    arm, seed = plan.trials()[0]
    score(plan.run(arm, seed), plan.protocol(arm), {1: 5.0, 2: 4.0})
    changed, _ = found(plan)
    assert [*changed.value[changed.value != cells.value]] == [5.0, 4.0]


def test_other_settings_of_the_evaluation_have_entries_of_their_own(
    plan: Plan, tiny: RunConfig, score: Callable[..., None]
) -> None:
    """The protocol does not name the NFEs: a study that asks for one more must not get the numbers of the first."""
    found(plan)
    at_the_next_command()
    more = planned(tiny, seeds=SEEDS, changes={"evaluate.nfe": [1, 2, 4]})
    assert more.protocol("a").digest == plan.protocol("a").digest
    cells, _ = found(more)
    assert [*cells.nfe[cells.value.isna()]] == [4] * SEEDS * len(plan.arms)


def test_a_file_that_was_written_just_now_gets_no_stored_entry(plan: Plan, opened: list[Path]) -> None:
    arm, seed = plan.trials()[0]
    path = plan.run(arm, seed).evaluation_file(plan.protocol(arm))
    os.utime(path)
    found(plan)
    at_the_next_command()
    opened.clear()
    found(plan)
    assert opened == [path]


def test_an_entry_is_stored_once_its_file_is_old_enough(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command asks about a trial right after its end; it must not read the file again and again after that."""
    arm, seed = plan.trials()[0]
    run, protocol = plan.run(arm, seed), plan.protocol(arm)
    os.utime(run.evaluation_file(protocol))
    own = index.index_of(run.folder)
    run.numbers(protocol)
    (key,) = own.content.judged
    assert key in own.recent
    monkeypatch.setattr(index, "RECENT_S", 0.0)
    run.numbers(protocol)
    assert key not in own.recent


def test_the_index_forgets_runs_that_were_removed(plan: Plan) -> None:
    found(plan)
    arm, seed = plan.trials()[0]
    run = plan.run(arm, seed)
    shutil.rmtree(run.folder)
    own = index.index_of(run.folder)
    at_the_next_command()
    _, *kinds = json.loads(own.place.read_text())
    assert [len(kind) for kind in kinds] == [SEEDS - 1, SEEDS - 1]
    assert not any(key.startswith(run.name) for kind in kinds for key in kind)


def test_what_is_not_complete_gets_no_entry(plan: Plan, opened: list[Path]) -> None:
    arm, seed = plan.trials()[0]
    run, protocol = plan.run(arm, seed), plan.protocol(arm)
    known = run.evaluation(protocol)
    for by_nfe in known["values"].values():
        del by_nfe["2"]
    run.write_evaluation(protocol, known)
    aged(run.evaluation_file(protocol))
    (run.folder / "metrics.jsonl").write_bytes(b"")
    aged(run.folder / "metrics.jsonl")
    found(plan)
    at_the_next_command()
    opened.clear()
    found(plan)
    assert {path.relative_to(run.folder).parts[0] for path in opened} == {
        "evaluations",
        "metrics.jsonl",
        "environment.json",
    }


def test_every_command_reports_a_damaged_line(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    arm, seed = plan.trials()[0]
    path = plan.run(arm, seed).folder / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "time"\n' + path.read_bytes())
    aged(path)
    for _ in range(2):
        say_once.cache_clear()
        found(plan)
        assert capsys.readouterr().err.startswith(f"{path}: line 1 is damaged")
        at_the_next_command()


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x00 no JSON")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _no_numbers(path: Path) -> None:
    code, judged, trained = json.loads(path.read_text())
    path.write_text(json.dumps([code, {key: [marks, ["?"]] for key, (marks, _) in judged.items()}, trained]))


def _other_code(path: Path) -> None:
    """Claim values that no file has."""
    text = path.read_text()
    path.write_text(text.replace(json.loads(text)[0], "0123456789ab").replace("0.1", "0.9"))


@pytest.mark.parametrize("spoil", [_garbage, _cut, _no_numbers, _other_code, Path.unlink])
def test_without_a_good_index_the_files_are_read(
    spoil: Callable[[Path], None], plan: Plan, opened: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cells, facts = found(plan)
    at_the_next_command()
    places = [*files.runs_folder().with_name("index").iterdir()]
    assert len(places) == len(plan.arms)
    for place in places:
        spoil(place)
    opened.clear()
    again, same = found(plan)
    assert len({*opened}) == 3 * SEEDS * len(plan.arms)
    pd.testing.assert_frame_equal(again, cells, check_exact=True)
    assert same == facts
    assert capsys.readouterr() == ("", "")


def test_an_index_that_cannot_be_written_stops_nothing(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    place = files.runs_folder().with_name("index")
    place.write_bytes(b"a file where the folder should be")
    cells, _ = found(plan)
    at_the_next_command()
    pd.testing.assert_frame_equal(found(plan)[0], cells)
    assert f"{place}/" in (said := capsys.readouterr().err)
    assert "cannot be written (File exists). Reports read the runs' files again." in said
