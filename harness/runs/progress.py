"""Follow run directories while other processes work in them: progress on the terminal, records in MLflow."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from harness.core.errors import UserError
from harness.core.progress import TELL_EVERY_S, ahead, bar
from harness.core.provenance import is_commit
from harness.evaluation.protocol import Protocol
from harness.runs.folder import Run
from harness.runs.mlflow_mirror import Mirror, Record
from harness.runs.mlflow_points import trained_between
from harness.runs.mlflow_record import marks
from harness.runs.mlflow_store import is_lost, reason
from harness.runs.pairs import PairSet

TRAINING_SHARE = 0.85
"""Share of training in a run's progress; the rest is evaluation."""
PAIRS_SHARE = 0.5
"""Share of making pairs in the progress of training, if the run learns pairs."""
LOOK_EVERY_S = 1.0
SEND_EVERY_S = 30.0


@dataclass
class Followed:
    """A run that is followed."""

    title: str
    run: Run
    protocol: Protocol
    tags: dict[str, str]
    evaluated: bool = True
    """Whether the run is also evaluated."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """{configuration path: value} in which it differs from the other runs."""
    primary: tuple[str, int] | None = None
    """Metric and NFE of the comparison with the other runs."""
    record: Record | None = None
    closed: bool = field(default=False, init=False)
    whole: bool = field(default=False, init=False)

    @functools.cached_property
    def pairs(self) -> PairSet | None:
        """The pairs that the run learns, if it has a parent."""
        return self.run.pairs if self.run.parent else None

    def progress(self) -> float:
        """Return the progress, from 0 to 1; it stays 1."""
        done = 1.0 if self.whole else self._progress()
        self.whole = done == 1
        return done

    def _progress(self) -> float:
        if self.run.pruned:
            return 1.0
        trained = self.run.steps_done / self.run.config.train.steps
        if self.pairs:
            made = 1.0 if trained else self.pairs.done / self.pairs.number
            trained = PAIRS_SHARE * made + (1 - PAIRS_SHARE) * trained
        if not self.evaluated:
            return trained
        return TRAINING_SHARE * trained + (1 - TRAINING_SHARE) * self.run.judged(self.protocol)

    def status(self) -> str:
        """Return MLflow's name for the run's status."""
        if self.run.ended(self.protocol) and self.run.failure(self.protocol):
            return "FAILED"
        if self.run.pruned:
            return "KILLED"
        return "FINISHED" if self.progress() == 1 else "RUNNING"


class Watch:
    """`with Watch(...) as watch:` follows runs in a separate thread until the block ends.

    `more` takes the known titles and returns runs that have started since; `total` is the final number of runs.
    `above` finds or creates the record under which MLflow shows the records of the runs.
    """

    def __init__(
        self, title: str, followed: Sequence[Followed], mirror: Mirror, console: Console,
        total: int | None = None, more: Callable[[Container[str]], Sequence[Followed]] = lambda known: (),
        above: Callable[[], Record] | None = None,
    ):  # fmt: skip
        self.title = title
        self.followed = list(followed)
        self.mirror = mirror
        self.console = console
        self.total = total or len(followed)
        self.more = more
        self.above = above
        self._parent: Record | None = None
        self.bar = bar(console, by_itself=False)  # rich's thread would interrupt training ten times a second
        self.task = self.bar.add_task(title, total=self.total)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._sent = self._told = time.monotonic()
        self._silent = not mirror.open
        self._noted: set[str] = set()

    def __enter__(self) -> Self:
        if self.above and self.mirror.open:
            self._send([])
        done: Any = sum(self._done())  # a float; rich accepts it
        self.bar.update(self.task, completed=done)
        self.bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end.set()
            self._thread.join()
            self._look()
        finally:
            self.bar.stop()
        self._send(self.followed, final=True)

    def _follow(self) -> None:
        while not self._end.wait(LOOK_EVERY_S):
            self._look()
            if time.monotonic() - self._sent > SEND_EVERY_S:
                self._send(self.followed)
                self._sent = time.monotonic()

    def _look(self) -> None:
        """Show the progress; a file that cannot be read is reported once and does not stop the work."""
        try:
            self._show()
        except (UserError, OSError) as error:
            if str(error) not in self._noted:
                self._noted.add(str(error))
                self.console.print(f"progress is not known: {error}", soft_wrap=True)

    def _done(self) -> list[float]:
        return [1.0 if one.closed else one.progress() for one in self.followed]

    def _show(self) -> None:
        self.followed += self.more({one.title for one in self.followed})
        done = self._done()
        finished = sum(value == 1 for value in done)
        at_work = [one.title for one, value in zip(self.followed, done, strict=True) if 0 < value < 1]
        count = f" {finished}/{self.total}" if self.total > 1 else ""
        self.bar.update(
            self.task, completed=sum(done), description=f"{self.title}{count} {', '.join(at_work[:3])}", refresh=True
        )
        if not self.console.is_terminal and time.monotonic() - self._told > TELL_EVERY_S:
            self._told = time.monotonic()
            left = self.bar.tasks[0].time_remaining
            self.console.print(ahead(f"{self.title}{count}", sum(done) / self.total, left), soft_wrap=True)

    def _send(self, followed: Sequence[Followed], final: bool = False) -> None:
        """Bring MLflow up to date; records that it does not accept now are sent the next time."""
        error = self._try_to_send(followed, final)
        if error and is_lost(error):
            error = self._try_to_send(followed, final)
        if error and (final or not self._silent):
            said = f"MLflow does not accept records now ({reason(error)}); they wait on disk."
            if isinstance(error, UserError):  # such as a damaged file of a run, which `_look` may have named
                said = f"{'' if str(error) in self._noted else f'{error} '}MLflow's records wait on disk."
            self.console.print(said, soft_wrap=True)
        self._silent = error is not None

    def _try_to_send(self, followed: Sequence[Followed], final: bool) -> Exception | None:
        """Return the store's error, if any; after an error, all records are looked up again: some may be lost."""
        try:
            if self.above and not self._parent:
                self._parent = self.above()
                self.mirror.list_active()
                for one in self.followed:
                    one.closed = one.closed or self._was_closed(one)
            for one in followed:
                if not one.closed:
                    self._send_one(one, final)
        except Exception as error:  # each store raises its own
            self.mirror.forget()
            self._parent = None
            for one in self.followed:
                one.record = None
            return error
        return None

    def _was_closed(self, one: Followed) -> bool:
        """Whether an earlier command sent all of a run, and nothing has changed since."""
        if one.run.parent:
            return False
        state = self.mirror.noted(one.run.folder, self._key(one))[1]
        return (
            state.get("closed") == marks(one.run, one.protocol)
            and state["name"] == one.title
            and self._tags(one).items() <= state["tags"].items()
            and one.params.keys() <= {*state["params"]}
        )

    def _send_one(self, one: Followed, final: bool) -> None:
        found = marks(one.run, one.protocol)
        status = one.status()
        if not one.run.environment:
            return
        if one.record is None:
            trained = trained_between(one.run)
            if trained is None and status == "RUNNING":
                return
            one.record = self._record(one, trained[0] if trained else None)
        one.record.send_run(one.run, one.protocol)
        if status == "FINISHED":
            one.record.send_model(self.mirror.experiment_id, one.run, one.protocol, one.primary)
        if status != "RUNNING":
            one.record.send_diagnostics(one.run)
        trained = trained_between(one.run) if final or status != "RUNNING" else None  # reads all lines: at the end only
        one.record.set_status("KILLED" if final and status == "RUNNING" else status, trained[1] if trained else None)
        one.closed = status != "RUNNING"
        if one.closed:
            one.record.close(found)

    def _key(self, one: Followed) -> str:
        return one.protocol.digest + one.tags.get("study", "")  # new seeds or arms of a study change no record

    def _tags(self, one: Followed) -> dict[str, str]:
        """Return the tags of a run's record that do not come from its files."""
        above = {"mlflow.parentRunId": self._parent.run_id} if self._parent else {}
        return {"run": one.run.name, "protocol": one.protocol.digest, **one.tags, **above}

    def _record(self, one: Followed, start: float | None = None) -> Record:
        """Return the run's record, found or created; sends the record of its pairs first."""
        commits = one.run.environment["commits"]
        tags = {**self._tags(one), "commit": ", ".join(commits)}
        if is_commit(commits[-1]):
            tags["mlflow.source.git.commit"] = commits[-1]
        if one.pairs and one.run.parent:
            tags |= {"parent": one.run.parent.name, "pairs": one.pairs.name}
            if one.pairs.about:  # they may have been removed after training
                above = {name: tags[name] for name in ("mlflow.parentRunId",) if name in tags}
                self.mirror.send_pairs(one.pairs, above, one.tags.get("study", ""))
        return self.mirror.record(one.run.folder, one.title, one.params, tags, self._key(one), start)
