"""Trials of a search in a database: each slot draws one trial and keeps it, and a database may be away for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from harness.ablation.design.search import Search
from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.design.space import log, one_of, settings
from harness.ablation.execute import slots, tuner
from harness.ablation.execute.slots import Slots, opened, store_of
from harness.ablation.execute.tuner import SearchBoard
from harness.core import signals
from harness.core.errors import Diverged, Stopped, Superseded, UserError
from harness.core.fence import hold
from harness.runs.config import RunConfig
from harness.runs.folder import Run

SPACE = {"train.learning_rate": log(1e-4, 1e-1), "train.batch_size": one_of(16, 32)}


@pytest.fixture
def search(tiny: RunConfig) -> SearchPlan:
    asked = Search(question="Which?", spaces={"digits": SPACE}, nfe=2, trials=4, name="toy", pruner=None)
    return SearchPlan.of(asked, "digits", tiny, None, [])


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A database that one machine can use."""
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, score: Any) -> list[float]:
    """Trials end without training, with a value that follows from the rate; returns the rates that were tried."""
    rates: list[float] = []

    def ensure(config: RunConfig, *_: Any, **__: Any) -> Run:
        rates.append(config.train.learning_rate)
        run = Run.of(config)
        if config.train.learning_rate > 0.05:
            raise Diverged("a loss was not finite.")
        score(run, config.protocol(), {2: 1 + config.train.learning_rate})
        return run

    monkeypatch.setattr(tuner, "ensure", ensure)
    return rates


def go(slots: Slots, *numbers: int) -> None:
    for number in numbers:
        slots.carry_out(number, lambda: False)


def drawn(slots: Slots) -> dict[int, dict[str, Any]]:
    return {trial.user_attrs["slot"]: trial.params for trial in slots.trials() if "slot" in trial.user_attrs}


def test_each_slot_draws_one_trial_and_keeps_its_value(search: SearchPlan, store: str, trained: list[float]) -> None:
    board = Slots(search, store)
    board.begin()
    board.begin()
    assert board.unended(range(4)) == {0, 1, 2, 3}
    go(board, 0, 1)
    assert board.unended(range(4)) == {2, 3}
    go(board, 0, 1)
    go(Slots(search, store), 2, 3)
    assert len(trained) == len({*trained}) == 4
    assert drawn(board)[0] == search.own(), "the scale's own settings come first, and once"
    values = {settings(t.params)["train.learning_rate"]: t.value for t in board.trials(TrialState.COMPLETE)}
    assert values == {rate: pytest.approx(1 + rate) for rate in trained if rate <= 0.05}
    assert board.unended(range(6)) == {4, 5}, "more trials continue the search"


def test_a_draw_depends_on_the_seed_and_the_number(search: SearchPlan, tmp_path: Path, trained: list[float]) -> None:
    """Not on the node, nor on the time of other nodes' draws; two numbers never draw with the same stream."""
    found = []
    for turn in range(2):
        board = Slots(search, f"sqlite:///{tmp_path}/{turn}.db")
        go(board, *(range(4) if turn else reversed(range(4))))
        found.append([trial.params for trial in board.trials()])
    assert found[0] == found[1]
    assert len({draw["train.learning_rate"] for draw in found[0]}) == 4


def test_a_lost_trial_goes_on_in_its_slot(
    search: SearchPlan, store: str, trained: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Slots(search, store)

    def dies(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(tuner, "ensure", dies)
        with pytest.raises(MemoryError):
            go(board, 2)
    (lost,) = board.trials()
    assert (lost.state, lost.user_attrs["slot"]) == (TrialState.RUNNING, 2)
    go(Slots(search, store), 2)
    (ended,) = board.trials()
    assert ended.params == lost.params
    assert ended.state == TrialState.COMPLETE or ended.params["train.learning_rate"] > 0.05
    assert trained == [settings(lost.params)["train.learning_rate"]]


def test_a_trial_that_was_lost_before_it_had_a_slot_is_put_in_again(
    search: SearchPlan, store: str, trained: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Slots(search, store)
    board.begin()
    board.study.ask()
    now = [1000.0]
    monkeypatch.setattr(slots.time, "monotonic", lambda: now[0])
    for _ in range(3):
        board.unended(range(4))
        assert [trial.state for trial in board.trials()] == [TrialState.RUNNING], "it may be drawing just now"
        now[0] += slots.LOST_S / 2
    board.unended(range(4))
    assert [trial.state for trial in board.trials()] == [TrialState.FAIL, TrialState.WAITING]
    go(board, *range(4))
    assert not board.unended(range(4))
    assert drawn(board)[0] == search.own()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[float]]:
    """`away(n)` lets the next n acts on the database fail; returns the pauses between attempts."""

    def start(times: int) -> list[float]:
        pauses: list[float] = []
        left = [times]
        tell = optuna.Study.tell

        def failing(self: optuna.Study, *given: Any, **named: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise StorageInternalError("away")
            return tell(self, *given, **named)

        monkeypatch.setattr(optuna.Study, "tell", failing)
        monkeypatch.setattr(slots.time, "sleep", pauses.append)
        return pauses

    return start


def test_a_value_waits_for_the_database(search: SearchPlan, store: str, trained: list[float], away: Any) -> None:
    board = Slots(search, store)
    pauses = away(3)
    go(board, 0)
    assert pauses == [slots.RETRY_S] * 3
    (trial,) = board.trials()
    assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    assert len(trained) == 1


def test_a_stop_ends_the_wait_and_the_value_comes_later(
    search: SearchPlan, store: str, trained: list[float], away: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Slots(search, store)
    away(2)
    with monkeypatch.context() as patch:
        patch.setattr(slots, "asked_to_stop", lambda: True)
        with pytest.raises(Stopped, match="while the database of the search"):
            go(board, 0)
    assert board.unended([0]) == {0}
    go(board, 0)
    assert board.unended([0]) == set()
    assert len(board.trials()) == 1


def test_a_trial_waits_for_a_database_that_is_away_at_its_start(
    search: SearchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "later"
    monkeypatch.setattr(slots.time, "sleep", lambda _: place.mkdir())
    assert opened(search, f"sqlite:///{place}/store.db").trials() == []
    monkeypatch.setattr(slots, "asked_to_stop", lambda: True)
    with pytest.raises(Stopped):
        opened(search, f"sqlite:///{tmp_path}/never/store.db")
    with pytest.raises(UserError, match=r"postgres-typo:.*: Optuna cannot use it .* correct --store"):
        opened(search, "postgres-typo://me:secret@host/name")


def test_the_trials_are_copied_to_the_folder_of_the_search(
    search: SearchPlan, store: str, trained: list[float]
) -> None:
    board = Slots(search, store)
    go(board, *range(4))
    for _ in range(2):
        copied = board.kept()
    assert type(copied) is SearchBoard
    assert copied.finished()
    found = [(t.number, t.state, t.params, t.values, t.user_attrs) for t in SearchBoard(search).trials()]
    assert found == [(t.number, t.state, t.params, t.values, t.user_attrs) for t in board.trials()]


def test_the_trials_of_a_search_of_this_machine_are_not_replaced(
    search: SearchPlan, store: str, trained: list[float]
) -> None:
    SearchBoard(search).refill()
    board = Slots(search, store)
    go(board, 0)
    with pytest.raises(UserError, match=r"journal\.log: has the trials of a search on this machine"):
        board.kept()


def test_another_results_folder_is_another_search(
    search: SearchPlan, store: str, trained: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(Slots(search, store), 0)
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "other"))
    assert Slots(search, store).trials() == []


def test_of_two_attempts_at_a_slot_the_newer_draws(search: SearchPlan, store: str, trained: list[float]) -> None:
    """The older one has claimed the slot, but not drawn yet."""
    older, newer = Slots(search, store), Slots(search, store)
    place = older.folder / "slots" / "0.json"
    with contextlib.suppress(Superseded), hold(place, {"job": "1"}):
        with hold(place, {"job": "1 again"}):
            newer.run(newer._trial(0), lambda: False)
        with pytest.raises(Superseded):
            older._trial(0)
    assert len(older.trials()) == 1


@pytest.mark.parametrize(
    "said", ["password authentication failed", "no pg_hba.conf entry", "database x does not exist"]
)
def test_a_server_that_refuses_is_not_waited_for(
    search: SearchPlan, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise UserError(f"postgresql://me@host: Optuna cannot use it ({said}).") from StorageInternalError(said)

    monkeypatch.setattr(slots, "Slots", refuse)
    monkeypatch.setattr(slots.time, "sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(UserError, match="Optuna cannot use it"):
        opened(search, "postgresql://me@host")


def test_the_address_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(slots.STORE, "postgresql+psycopg://me@host/one")
    assert store_of() == "postgresql+psycopg://me@host/one"
    assert store_of("postgresql+psycopg://me@host/two") == "postgresql+psycopg://me@host/two"
    assert signals.asked_to_stop() is False
