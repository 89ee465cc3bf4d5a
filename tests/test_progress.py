"""The progress of long work: a bar on a terminal, a line now and then in a log, and nothing for quick work."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterable
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from harness.core import progress
from harness.core.config import override, to_dict
from harness.core.files import results_folder, write_json
from harness.core.progress import shown, told
from harness.evaluation.judge import Judge, SampleBatch
from harness.evaluation.yardsticks import judge_references
from harness.runs import progress as watch_module
from harness.runs import train
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.progress import Followed, Watch


def test_a_log_gets_lines_while_a_single_item_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share is of the work: the first item counts 1 of 4, the second 2."""
    monkeypatch.setattr(progress, "TELL_EVERY_S", 0.001)
    said: list[str] = []
    heard = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        heard.set()

    for item in told([1, 2, 1], "work", 4, say, weigh=lambda n: n):
        heard.clear()
        assert heard.wait(10), item
    assert said[0] == "work: 0%, time left unknown"
    shares = list(dict.fromkeys(line.partition(",")[0] for line in said))
    assert shares == ["work: 0%", "work: 25%", "work: 75%"]
    assert said[-1].startswith("work: 75%, about 0.0 min left")


def test_the_first_percent_tell_no_time_left() -> None:
    """Start-up counts in them like work."""
    assert progress.ahead("work", 0.04, 600) == "work: 4%, time left unknown"
    assert progress.ahead("work", 0.05, 600) == "work: 5%, about 10.0 min left"


def test_quick_work_prints_nothing_in_a_log() -> None:
    log = io.StringIO()
    assert list(shown([1, 2], "work", 2, Console(file=log))) == [1, 2]
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar_whose_title_is_text_as_it_is() -> None:
    """The cursor comes back if the work fails."""
    screen = io.StringIO()
    drawing = shown([1, 2], "work [/b] on [red]", 2, Console(file=screen, force_terminal=True, width=120))
    next(drawing)
    drawing.close()
    assert "work [/b] on [red]" in screen.getvalue()
    hidden, back = "\x1b[?25l", "\x1b[?25h"
    assert screen.getvalue().rindex(back) > screen.getvalue().rindex(hidden)


def test_printed_text_is_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    progress.terminal().print("an arm [/b], a place [red]x")
    assert capsys.readouterr().out == "an arm [/b], a place [red]x\n"


def test_the_making_of_the_reference_shows_its_progress(tiny: RunConfig) -> None:
    """512 training samples in batches of 32, then 64 samples of three kinds; only once, since all is kept on disk."""
    passed: list[tuple[str, int, int]] = []

    def show(items: Iterable[SampleBatch], title: str, total: int) -> Generator[SampleBatch, None, None]:
        number = 0
        for item in items:
            number += 1
            yield item
        passed.append((title, total, number))

    for _ in range(2):
        judge_references(Judge(tiny.evaluate, Run.of(tiny).data, "cpu", show))
    scores = [(f"score of {kind} samples", 2, 2) for kind in ("resampled", "held out", "gaussian")]
    assert passed == [("features of the reference", 16, 16), *scores]


def test_a_worker_that_makes_the_reference_reports_its_progress(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[tuple[str, int, object]] = []

    def told(items: Iterable[SampleBatch], title: str, total: int, say: object) -> Generator[SampleBatch, None, None]:
        passed.append((title, total, say))
        yield from items

    monkeypatch.setattr(train, "told", told)
    for name in ("train", "restore", "evaluate"):
        monkeypatch.setattr(train, name, lambda *_, **__: None)
    for _ in range(2):
        train.ensure(tiny, print, lambda: False)
    assert passed == [("features of the reference", 16, print)]


PAIRS = {
    "teacher": "0123456789ab-s0",
    "made": {"solver": {"name": "heun"}},
    "number": 1, "calls": 1.0, "pairs_per_second": 1.0, "commit": "abc", "files": {},
}  # fmt: skip


class _Nothing:
    """A store that accepts everything."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: _Nothing()


def test_progress_is_sent_and_printed_now_and_then(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has ended is not sent again."""
    for name in ("LOOK_EVERY_S", "SEND_EVERY_S", "TELL_EVERY_S"):
        monkeypatch.setattr(watch_module, name, 0.001)
    run = Run.of(tiny)
    write_json(run.folder / "config.json", to_dict(tiny))
    log = io.StringIO()
    heard = threading.Semaphore(0)
    sent: list[str] = []

    def send(watch: Watch, one: Followed, final: bool) -> None:
        sent.append(f"{one.title} {final}")
        one.closed = one.title == "ended"
        heard.release()

    monkeypatch.setattr(Watch, "_send_one", send)
    followed = [Followed(title, run, tiny.protocol(), {}) for title in ("ended", "going on")]
    mirror: Any = _Nothing()
    with Watch("study", followed, mirror, Console(file=log, width=500), total=2):
        assert all(heard.acquire(timeout=10) for _ in range(4))
    assert (sent[:3], sent[-1]) == (["ended False", "going on False", "going on False"], "going on True")
    assert "study 1/2: 50%, " in log.getvalue()


def test_pairs_that_were_removed_when_they_were_learned_are_not_sent(tiny: RunConfig) -> None:
    run = Run.of(override(tiny, {"reflow.rounds": 1}))
    about = {"commits": ["abc"], "parameters": 1, "weight_mean": 0.5, "machine": {}}
    write_json(run.folder / "environment.json", about)
    followed = Followed("one", run, run.config.protocol(), {})
    mirror = Mock()
    watch = Watch("study", [followed], mirror, Console(file=io.StringIO()))
    assert followed.pairs
    watch._record(followed)
    assert not mirror.send_pairs.called
    assert mirror.record.call_args.args[3]["pairs"] == followed.pairs.name
    write_json(followed.pairs.folder / "pairs.json", PAIRS)
    watch._record(followed)
    mirror.send_pairs.assert_called_once_with(followed.pairs, {}, "")


def test_a_damaged_file_of_a_run_stops_no_other_work(tiny: RunConfig) -> None:
    """The damage is reported once; the other runs continue."""
    run = Run.of(tiny)
    write_json(run.folder / "config.json", to_dict(tiny))
    log = io.StringIO()
    followed = Followed("one", run, tiny.protocol(), {})
    mirror: Any = _Nothing()
    with Watch("study", [followed], mirror, Console(file=log, width=500)) as watch:
        (run.folder / "pruned.json").write_bytes(b"\xff")
        for _ in range(2):
            watch._look()
    assert log.getvalue().count("pruned.json: cannot be read") == 1
    assert str(results_folder()) in log.getvalue()
