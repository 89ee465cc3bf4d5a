"""Messages and decisions about workers that are killed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from matplotlib.figure import Figure
from optuna.trial import TrialState
from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.design.search import Search
from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.design.space import log
from harness.ablation.design.study import Study
from harness.ablation.execute import forks, launch, local, worker
from harness.ablation.execute.board import DEATHS, Board
from harness.ablation.execute.local import Deaths, Local, Worker
from harness.ablation.execute.placement import Placement
from harness.ablation.execute.tuner import RANDOM_TRIALS, SearchBoard
from harness.ablation.report import history
from harness.core.errors import Stopped, UserError
from harness.core.files import locked
from harness.runs.config import RunConfig
from harness.runs.mlflow_pages import Told


@pytest.fixture
def plan(tiny: RunConfig) -> Plan:
    arms = {"a": {"weighting": "uniform"}, "b": {"weighting": "data_end"}}
    study = Study(name="toy", question="Which?", baseline="a", arms=arms, looks=(3,), nfe=2)
    return Plan.of(study, "digits", tiny, {}, 1, [])


@pytest.fixture
def search(tiny: RunConfig) -> SearchPlan:
    spaces = {"digits": {"train.learning_rate": log(1e-4, 1e-1)}}
    return SearchPlan.of(
        Search(question="Which?", spaces=spaces, nfe=2, trials=12, name="toy"), "digits", tiny, None, []
    )


FORK = multiprocessing.get_context("fork")


def sleeping() -> BaseProcess:
    """Return a process that waits to be killed."""
    process = FORK.Process(target=time.sleep, args=(60,))
    process.start()
    return process


def ended() -> BaseProcess:
    """Return a process that has ended."""
    process = FORK.Process()
    process.start()
    process.join()
    return process


class Crew(Deaths):
    """Workers that only wait to be killed, and the messages about them."""

    def __init__(self, board: Board):
        self.said = io.StringIO()
        self.started: list[dict[str, Any]] = []
        super().__init__(board, Console(file=self.said, width=300), self.begin)

    def begin(self, **given: Any) -> Any:
        self.started.append(given)
        return "another"

    def kill(self, within: bool = True) -> str:
        """Kill a worker during its next trial, or outside of any trial; return the message."""
        process = sleeping()
        if within:
            begin_and_die(self.board, process.pid)
        process.kill()
        process.join()
        self.said.truncate(self.said.seek(0))
        self.replaced(Worker(process, 1, Path("worker-1.log"), 0))
        return self.said.getvalue()


def begin_and_die(board: Board, process: int | None) -> None:
    """Claim the next trial for a process whose lease the kernel then releases."""
    claimed = board.next()
    assert claimed
    trial, lease = claimed
    trial.set_user_attr("worker", process)
    lease.close()


def told(board: Board) -> None:
    """Finish the next trial."""
    claimed = board.next()
    assert claimed
    trial, lease = claimed
    with lease:
        trial.set_user_attr("run", "none")
        board.study.tell(trial, 1.0)


def test_a_killed_worker_is_reported_and_replaced(plan: Plan) -> None:
    board = worker.PlanBoard(plan)
    board.begin()
    crew = Crew(board)
    name = plan.run("a", 0).name
    assert crew.kill() == (
        f"worker 1 was killed by SIGKILL (did memory run out?) in a seed 0, run {name}. "
        "Another takes its place, and the run goes on from its last checkpoint.\n"
    )
    assert crew.kill(within=False) == (
        "worker 1 was killed by SIGKILL (did memory run out?) outside of a trial. Another takes its place.\n"
    )
    assert crew.started == [{"number": 1, "again": True}] * 2
    asked: Any = SimpleNamespace(exitcode=local.STOPPED, pid=0)
    crew.replaced(Worker(asked, 1, Path("worker-1.log"), 0))
    assert "worker 1 was asked to stop outside of a trial." in crew.said.getvalue()


def test_others_join_the_crew_in_the_places_of_killed_ones(plan: Plan, tmp_path: Path) -> None:
    """Killed by a signal, by a fault in compiled code, or by a stop that nobody here requested; ended workers are not
    replaced. A worker that failed by itself would fail again.
    """
    log = tmp_path / "worker.log"
    log.touch()

    def ended(code: int) -> Worker:
        process: Any = SimpleNamespace(is_alive=lambda: False, exitcode=code)
        return Worker(process, 0, log, 0)

    for code in (-signal.SIGKILL, -signal.SIGSEGV, local.STOPPED):
        crew = [ended(0), ended(code)]
        first, killed = crew
        another = ended(0)
        places = {id(killed): another}
        deaths: Any = SimpleNamespace(replaced=lambda worker, places=places: places.pop(id(worker)))
        follow(plan, crew, deaths)
        assert not places
        assert crew[0] is first, code
        assert crew[1] is another, code
    with pytest.raises(UserError, match=f"^a worker failed with exit code 1; the end of {log} says why"):
        follow(plan, [ended(1)], deaths)
    with pytest.raises(UserError, match=r"^the process from which workers fork was killed"):
        follow(plan, [ended(forks.LOST)], deaths)


def follow(plan: Plan, crew: list[Worker], deaths: Any) -> None:
    """Look at the workers until all have ended."""
    finished: Any = SimpleNamespace(finished=lambda: True)
    launcher = Local(finished, (), plan.folder / Plan.FILE, Placement(1, 1), Console(file=io.StringIO()), lambda: False)
    launcher.crew = crew
    launcher._at_work = [*crew]
    launcher._submitted = {0}
    launcher._deaths = deaths
    while launcher.alive():
        pass


def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PATIENCE_S", 0)
    log = tmp_path / "worker.log"
    log.write_text("deaf\n")
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the process begins with this setting
    process = sleeping()
    signal.signal(signal.SIGTERM, before)
    said = io.StringIO()
    local._end([Worker(process, 0, log, 0)], Console(file=said))
    assert process.exitcode == -signal.SIGKILL
    assert said.getvalue() == "deaf\n"


def test_no_report_is_written_while_another_runs_the_plan_or_before_all_has_ended(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = worker.PlanBoard(plan)
    with locked(plan.folder / "lock"), pytest.raises(UserError, match=r"^toy-digits: another process runs it now\."):
        launch.launch(board, Placement(1, 1), Console(), lambda: False, lambda: pytest.fail("it reports"))

    def idle(*_: Any, **__: Any) -> Worker:
        (log := plan.folder / "worker-0.log").touch()
        return Worker(ended(), 0, log, 0)

    monkeypatch.setattr(local, "_start", idle)
    monkeypatch.setattr(launch, "_connect", lambda *_: (None, None))
    monkeypatch.setattr(launch, "_follower", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(launch, "_close", lambda *_: None)
    with pytest.raises(UserError, match=r"^a worker was lost before every trial ended\. .* has the logs; "):
        launch.launch(board, Placement(1, 1), Console(), lambda: False, lambda: pytest.fail("it reports"))


def test_a_study_that_has_ended_is_reported_without_a_journal(
    plan: Plan, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arm, seed in plan.trials():
        score(plan.run(arm, seed), plan.protocol(arm), {1: 1.0, 2: 1.0})
    assert not plan.unfinished()
    told = list[Told]()

    def silent() -> NoReturn:
        raise ConnectionError("no answer")

    def report() -> Told:
        told.append(Told([]))
        return told[0]

    store = SimpleNamespace(open=False, forget=lambda: None)
    monkeypatch.setattr(launch, "_connect", lambda *_: (store, silent))
    console = Console(file=io.StringIO())
    assert launch.launch(worker.PlanBoard(plan), Placement(1, 1), console, lambda: False, report)
    assert len(told) == 1
    assert not (plan.folder / "journal.log").exists()


def test_a_trial_that_kills_several_workers_is_left_out_until_the_next_command(plan: Plan, score: Any) -> None:
    board = worker.PlanBoard(plan)
    board.refill()
    Crew(board).kill()  # from an earlier command
    board.begin()
    crew = Crew(board)
    for arm in ("b", "a"):
        claimed = board.next()
        assert claimed
        trial, lease = claimed
        assert trial.params["arm"] == arm
        with lease:
            if arm == "b":
                score(plan.run("b", 0), plan.protocol("b"), {1: 9.0, 2: 7.0})
                board.tell(trial, plan.run("b", 0))
    board.refill()
    assert not board.left_out()
    assert not board.finished()
    assert "goes on from its last checkpoint" in crew.kill()
    assert f"{DEATHS} workers have been killed in it: it is left out, and the rest goes on." in crew.kill()
    assert len(crew.started) == 1
    assert board.left_out() == ["a seed 0"]
    assert board.finished()
    assert board.next() is None
    board.begin()
    assert not board.finished()
    assert board.next()


def test_a_search_avoids_settings_that_kill_several_workers(search: SearchPlan) -> None:
    board = SearchBoard(search)
    board.begin()
    crew = Crew(board)
    for _ in range(DEATHS):
        said = crew.kill()
    assert f"in trial 0, run {board.run_of(board.trials()[0]).name}. {DEATHS} workers have been killed in it" in said
    (settled,) = board.settled()
    assert settled.state == TrialState.PRUNED
    told(board)
    table = history.frame(board)
    assert list(table.state) == ["failed", "finished"]
    assert list(table.trial) == [0, DEATHS + 1]
    assert table.reason[0] == f"{DEATHS} workers were killed in it, perhaps for want of memory."


def test_a_search_gets_no_trial_whose_settings_were_never_drawn(
    search: SearchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = SearchBoard(search)
    board.begin()
    monkeypatch.setattr(board, "_ask", lambda: board.study.ask())  # killed before the first draw
    crew = Crew(board)
    for _ in range(DEATHS):
        crew.kill()
    assert board.left_out() == ["trial 0"]
    assert SearchBoard(search).settled() == []


def test_workers_that_die_outside_of_trials_are_not_replaced_forever(search: SearchPlan) -> None:
    board = SearchBoard(search)
    board.begin()
    crew = Crew(board)
    for _ in range(DEATHS - 1):
        crew.kill(within=False)
    told(board)
    for _ in range(DEATHS - 1):
        crew.kill(within=False)
    with pytest.raises(
        UserError, match=r"^worker 1 was killed by SIGKILL .* outside of a trial, like 2 workers before it\."
    ):
        crew.kill(within=False)


def test_random_draws_are_counted_for_any_deaths_and_any_number_of_workers(
    search: SearchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The band in the search's picture has the same width."""
    drawn: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        drawn.append(figure)
        return b""

    monkeypatch.setattr(history, "png", keep)
    for beside in (0, 1):
        board = SearchBoard(dataclasses.replace(search, nfe=search.nfe - beside))  # another board
        running = [board.next() for _ in range(beside)]
        Crew(board).kill()
        for _ in range(RANDOM_TRIALS + 2):
            told(board)
        for claimed in running:
            assert claimed
            trial, lease = claimed
            with lease:
                trial.set_user_attr("run", "none")
                board.study.tell(trial, 1.0)
        died = beside
        numbers = [n for n in range(RANDOM_TRIALS + beside + 1) if n != died + 1]
        assert board.blind() == numbers, beside
        history.draw_history(board)
        axes = drawn.pop().axes[0]
        (band,) = [patch for patch in axes.patches if patch.get_label() == "drawn at random first"]
        ends = axes.transData.inverted().transform(band.get_window_extent())[:, 0]
        assert ends.tolist() == pytest.approx([-0.5, max(numbers) + 0.5]), beside


def test_the_seconds_of_all_attempts_at_a_trial_count(search: SearchPlan) -> None:
    """They include the time of a death under an earlier command, up to the last write to its run."""
    board = SearchBoard(search)
    for _ in range(2):
        begin_and_die(board, 0)
        begun = board.trials(TrialState.RUNNING)[0]
        kept = board.run_of(begun).folder / "checkpoints" / "step-1.safetensors"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.touch()
        assert begun.datetime_start
        os.utime(kept, (0, begun.datetime_start.timestamp() + 100))
        board.refill()
    told(board)
    board.begin()
    Crew(board).kill()
    told(board)
    seconds = history.frame(board).seconds
    assert seconds[0] == pytest.approx(200, abs=20)
    assert seconds[1] < 20


def test_a_stop_while_another_process_holds_the_journal_is_a_stop(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(**_: Any) -> NoReturn:
        raise Stopped("stopped while it waited")

    monkeypatch.setattr("optuna.create_study", stopped)
    with pytest.raises(Stopped):
        worker.PlanBoard(plan).trials()


def test_a_workers_whole_lines_are_shown_once_except_those_that_the_launcher_prints(tmp_path: Path) -> None:
    """Its error comes at the end; a requested stop is not repeated."""
    said = io.StringIO()
    log = tmp_path / "worker-0.log"
    log.write_bytes(b"of an earlier worker\n")
    shown = Worker(ended(), 0, log, log.stat().st_size)
    console = Console(file=said, width=40, markup=False)
    lines = b"a [/b]: \xff, " + b"long " * 20 + b"end\nerror: no room\nstopped at step 3. What was done is kept.\nb: ha"
    for _ in range(2):
        log.write_bytes(log.read_bytes() + lines)
        lines = b"lf\n"
        shown.show(console)
        shown.show(console)
    assert said.getvalue() == f"a [/b]: \ufffd, {'long ' * 20}end\nb: half\n"
    assert shown.error == "no room"


def test_another_worker_goes_on_with_the_log_of_the_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "start", lambda *_: None)
    log = tmp_path / "worker-0.log"
    for again, kept in ((True, b"died\n"), (False, b"")):
        log.write_bytes(b"died\n")
        begun = local._start(tmp_path / "plan.json", 0, Placement(1, 1), again)
        assert (begun.log, begun.shown, log.read_bytes()) == (log, len(kept), kept)


def test_the_report_is_written_before_the_left_out_trials_are_reported(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = worker.PlanBoard(plan)
    board.begin()
    crew = Crew(board)
    for _ in range(DEATHS * len(plan.trials())):
        crew.kill()
    written: list[Path] = []

    def report() -> Told:
        written.append(Path("table.md"))
        return Told(written)

    def silent() -> NoReturn:
        raise ConnectionError("no answer")

    monkeypatch.setattr(board, "begin", lambda: None)
    store = SimpleNamespace(open=False, forget=lambda: None)
    monkeypatch.setattr(launch, "_connect", lambda *_: (store, silent))
    with pytest.raises(UserError, match="no value of a seed 0, b seed 0: 3 workers were killed in each"):
        launch.launch(board, Placement(1, 1), crew.console, lambda: False, report)
    assert written
