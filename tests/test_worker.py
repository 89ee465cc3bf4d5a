import dataclasses
import shutil
from collections import Counter
from typing import Any

import pytest
from optuna.trial import TrialState

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.execute.worker import PlanBoard as Board
from harness.core.config import override
from harness.core.errors import UserError
from harness.core.files import write_json
from harness.runs.config import RunConfig

ALL = {("a", 0), ("b", 0), ("a", 1), ("b", 1)}


@pytest.fixture
def plan(tiny: RunConfig) -> Plan:
    arms = {"a": {"weighting": "uniform"}, "b": {"weighting": "data_end"}}
    return Plan.of(
        Study(name="toy", question="Which?", baseline="a", arms=arms, looks=(3,), nfe=2), "digits", tiny, {}, 2, []
    )


def states(board: Board) -> Counter[tuple[str, int, str]]:
    """Count the trials in the journal by arm, seed and state."""
    return Counter((t.user_attrs["arm"], t.user_attrs["seed"], t.state.name) for t in board.study.get_trials())


def take(board: Board) -> tuple[Any, Any]:
    claimed = board.next()
    assert claimed
    return claimed


def key(trial: Any) -> tuple[str, int]:
    return trial.params["arm"], trial.user_attrs["seed"]


def failures(board: Board) -> dict[tuple[str, int], str]:
    """Return {(arm, seed): reason} of the trials that ended without a value."""
    return {key(trial): trial.user_attrs["reason"] for trial in board.settled() if trial.state == TrialState.FAIL}


def fail(board: Board, trial: Any) -> None:
    """Fail as a worker does whose training diverges."""
    write_json(board.plan.run(*key(trial)).folder / "diverged.json", {"reason": "it diverged"})
    board.tell_failure(trial, "it diverged")


def test_each_trial_is_queued_once(plan: Plan) -> None:
    boards = Board(plan), Board(plan)
    for board in (*boards, *boards):
        board.refill()
        assert states(board) == Counter((arm, seed, "WAITING") for arm, seed in ALL)


def test_trials_come_in_the_order_of_the_plan_and_one_to_a_worker(plan: Plan) -> None:
    boards = Board(plan), Board(plan)
    claimed = [take(boards[i % 2]) for i in range(4)]
    assert [key(trial) for trial, _ in claimed] == plan.trials()
    assert boards[0].next() is boards[1].next() is None
    assert not boards[0].finished()
    for _, lease in claimed:
        lease.close()


@pytest.mark.parametrize("refills", [1, 3])
def test_the_trial_of_a_dead_worker_is_queued_again_once(plan: Plan, refills: int) -> None:
    board = Board(plan)
    trial, lease = take(board)
    lease.close()  # the kernel does this at a worker's death
    for _ in range(refills):
        Board(plan).refill()
    assert states(board) == Counter({(*key(trial), "FAIL"): 1} | {(arm, seed, "WAITING"): 1 for arm, seed in ALL})
    assert failures(board) == {}
    leases = [take(board) for _ in ALL]
    assert {key(again) for again, _ in leases} == ALL
    assert board.next() is None
    for _, lease in leases:
        lease.close()


def test_the_trial_of_a_living_worker_is_left_alone(plan: Plan) -> None:
    board = Board(plan)
    trial, lease = take(board)
    with lease:
        Board(plan).refill()
        assert states(board)[*key(trial), "RUNNING"] == 1
        assert sum(states(board).values()) == len(ALL)


def test_a_line_torn_by_a_kill_costs_nothing(plan: Plan) -> None:
    board = Board(plan)
    board.refill()
    before = states(board)
    with open(board.folder / "journal.log", "a") as journal:
        journal.write('{"op_code": 5, "wor')
    mended = Board(plan)
    assert states(mended) == before
    trial, lease = take(mended)
    with lease:
        assert states(Board(plan))[*key(trial), "RUNNING"] == 1


def test_a_file_that_is_not_a_journal_is_reported(plan: Plan) -> None:
    plan.folder.mkdir(parents=True)
    (plan.folder / "journal.log").write_text("what is this\nthis is not a journal\n")
    with pytest.raises(UserError, match=r"journal\.log: Optuna cannot use it .* Remove it"):
        Board(plan).trials()


def test_a_trial_that_failed_for_a_reason_is_not_repeated(plan: Plan) -> None:
    board = Board(plan)
    trial, lease = take(board)
    with lease:
        fail(board, trial)
    board = Board(plan)
    board.refill()
    assert states(board) == Counter(
        {(*key(trial), "FAIL"): 1} | {(*other, "WAITING"): 1 for other in ALL - {key(trial)}}
    )
    assert failures(board) == {key(trial): "it diverged"}


@pytest.mark.parametrize("failed", [True, False])
def test_a_trial_whose_run_is_gone_is_put_in_again(plan: Plan, score: Any, failed: bool) -> None:
    """Removed by hand, or named differently by newer code: the run directory is the truth, whatever the journal
    contains.
    """
    board = Board(plan)
    trial, lease = take(board)
    run = plan.run(*key(trial))
    with lease:
        if failed:
            fail(board, trial)
        else:
            score(run, plan.protocol(key(trial)[0]), {1: 9.0, 2: 7.0})
            board.tell(trial, run)
    board.refill()
    assert states(board)[*key(trial), "WAITING"] == 0
    shutil.rmtree(run.folder)
    board.refill()
    assert states(board)[*key(trial), "WAITING"] == 1


@pytest.mark.parametrize(("measured", "value"), [({1: 9.0, 2: 7.0}, 7.0), ({1: 9.0, 4: 5.0}, 5.0)])
def test_a_plan_is_finished_when_every_trial_has_ended(
    plan: Plan, score: Any, measured: dict[int, float], value: float
) -> None:
    arms = {name: override(config, {"evaluate.nfe": list(measured)}) for name, config in plan.arms.items()}
    plan = dataclasses.replace(plan, arms=arms)
    board = Board(plan)
    for i in range(len(ALL)):
        assert not board.finished()
        trial, lease = take(board)
        with lease:
            if i == 0:
                fail(board, trial)
                continue
            run = plan.run(*key(trial))
            score(run, plan.protocol(key(trial)[0]), measured)
            board.tell(trial, run)
    assert board.finished()
    assert board.next() is None
    told = [t for t in Board(plan).study.get_trials() if t.state == TrialState.COMPLETE]
    assert [t.value for t in told] == [value] * 3
    assert {t.user_attrs["run"] for t in told} == {plan.run(*k).name for k in ALL - {("a", 0)}}


def test_a_changed_plan_starts_a_new_board(plan: Plan, tiny: RunConfig) -> None:
    board = Board(plan)
    board.refill()
    study = Study(
        name="toy", question="Which?", baseline="a", arms={"a": {}, "b": {"weighting": "min_snr"}}, looks=(3,), nfe=2
    )
    other = Board(Plan.of(study, "digits", tiny, {}, 2, []))
    assert (states(other), other.folder == board.folder) == (Counter(), False)
