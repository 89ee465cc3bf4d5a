"""Whether the tests notice a wrong line: 40 one-line mutations, each of which the tests named for its file must catch.

    python tests/mutants.py [--number 40] [--seed 0] [--only PATH ...] [--workers 2]

It stands beside the tests since it tests them. It works in copies of this checkout, in a temporary folder, and changes
nothing here. The tests must pass there without a mutation first, which also says how long each file of them takes; a
mutation that makes them take far longer counts as caught. Ends with 1 when a mutation survives.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mutations import Mutation, draw, mutations
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).parent.parent
HOUR_S = 3600.0
COPIED = ("harness", "studies", "tests", "results/tables", "pyproject.toml", "README.md", "Makefile")
TURNS = ("components", "objective", "components", "statistics", "components", "judge", "worker", "files")
"""Whose mutation comes next, again and again: the components have most of the lines."""
TESTS: dict[str, dict[str, tuple[str, ...]]] = {
    "components": {
        "harness/components/averages.py": ("averages", "ema"),
        "harness/components/backbones/base.py": ("backbones",),
        "harness/components/backbones/dit.py": ("backbones",),
        "harness/components/backbones/embeddings.py": ("backbones",),
        "harness/components/backbones/mlp.py": ("backbones",),
        "harness/components/backbones/transformer.py": ("backbones",),
        "harness/components/backbones/unet.py": ("backbones",),
        "harness/components/couplings.py": ("couplings", "pairwise"),
        "harness/components/interpolants.py": ("interpolants", "closed_form", "stochastic_solvers"),
        "harness/components/losses.py": ("losses",),
        "harness/components/noises.py": ("noises",),
        "harness/components/predictions.py": ("formulation", "parity", "weightings"),
        "harness/components/solvers.py": ("solvers", "stochastic_solvers"),
        "harness/components/time_grids.py": ("time_grids",),
        "harness/components/time_samplers.py": ("time_samplers",),
        "harness/components/weightings.py": ("weightings",),
    },
    "objective": {"harness/flow/objective.py": ("objective", "pairwise", "told_classes")},
    "statistics": {
        "harness/ablation/report/statistics.py": ("statistics",),
        "harness/ablation/report/verdicts.py": ("outcomes", "tables"),
    },
    "judge": {
        "harness/evaluation/judge.py": ("parts", "fidelity", "population", "runs"),
        "harness/runs/judge.py": ("parts", "sweep", "runs"),
    },
    "worker": {
        "harness/ablation/execute/board.py": ("worker", "search", "end_to_end"),
        "harness/ablation/execute/launch.py": ("worker", "end_to_end"),
        "harness/ablation/execute/placement.py": ("placement",),
        "harness/ablation/execute/tuner.py": ("search",),
        "harness/ablation/execute/worker.py": ("worker", "outcomes", "end_to_end"),
    },
    "files": {
        "harness/core/files.py": ("files",),
        "harness/core/checkpoint.py": ("checkpoint", "trainer"),
    },
}
"""Area: {source file: the tests that must catch its mutations, as the names of their files tell them}."""


class Equivalent(NamedTuple):
    """A mutation that no test can catch, by its file and its two lines, and why."""

    path: str
    old: str
    new: str
    reason: str


EQUIVALENT = (
    Equivalent(
        "harness/runs/judge.py",
        "return parts.clear()",
        "return None",
        "clear itself returns None",
    ),
    Equivalent(
        "harness/core/checkpoint.py",
        "(p for p in found if _NAME.fullmatch(p.name)), key=lambda p: (p.name[:9], p.stat().st_mtime), reverse=True",
        "(p for p in found if _NAME.fullmatch(p.name)), key=lambda p: (p.name[:10], p.stat().st_mtime), reverse=True",
        "the tenth character is the same hyphen in every name",
    ),
    Equivalent(
        "harness/ablation/execute/placement.py",
        "quiet = dataclasses.replace(config.train, log_every=10**9, sample_every=10**9, checkpoint_every=10**9)",
        "quiet = dataclasses.replace(config.train, sample_every=10**9, checkpoint_every=10**9)",
        "a measurement throws its log lines away, and how long they take is all that differs",
    ),
    Equivalent(
        "harness/ablation/execute/tuner.py",
        'with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):  # `group` is, since 2021',
        'with warnings.catch_warnings(action="ignore"):  # `group` is, since 2021',
        "the sampler warns of nothing else",
    ),
)


class Outcome(NamedTuple):
    """How a run of tests ended."""

    caught: str
    """The test that failed, or another reason; empty where all passed."""
    seconds: float


@dataclass(frozen=True)
class Checkout:
    """A copy of this checkout, in which one mutation stands at a time."""

    folder: Path

    @classmethod
    def of_this_one(cls, folder: Path) -> Checkout:
        """Copy what the tests need."""
        for name in COPIED:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, target)
        return cls(folder)

    @contextlib.contextmanager
    def with_line_of(self, mutation: Mutation) -> Iterator[None]:
        """Hold the changed line, and afterwards the line as it was."""
        path = self.folder / mutation.path
        source = path.read_text()
        path.write_text(mutation.apply(source))
        try:
            yield
        finally:
            path.write_text(source)

    def run(self, tests: Sequence[str], limit: float, at_work: set[int]) -> Outcome:
        """Run the tests against the source as it stands here, for `limit` seconds at most.

        `at_work` holds the process group while it runs.
        """
        options = ("-n", "0", "-x", "-q", "-p", "no:cacheprovider", "--color=no")
        command = (sys.executable, "-m", "pytest", *options, *(f"tests/test_{name}.py" for name in tests))
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=said, stderr=said, start_new_session=True
            )
            at_work.add(process.pid)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                return Outcome("the time limit", limit)
            finally:
                end(process.pid)
                process.wait()
                at_work.discard(process.pid)
            said.seek(0)
            return Outcome(failure(said.read()) if process.returncode else "", time.monotonic() - started)


Job = Callable[[Checkout, set[int]], Outcome]


def end(group: int) -> None:
    """Kill what is left of a process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def failure(said: str) -> str:
    """The test that failed, in what pytest said; its last line where it named none."""
    lines = [line for line in said.splitlines() if line]
    named = [line for line in lines if line.startswith(("FAILED ", "ERROR ", "E  "))]
    summary = [line for line in named if not line.startswith("E  ")]
    return (summary or named or lines or ["no word"])[-1].removeprefix("FAILED ").partition(" - ")[0].strip()


def chosen(number: int, seed: int, only: Sequence[str]) -> list[Mutation]:
    """The mutations to make, area by area in turns; none that is listed as equivalent."""
    known = {(path, old, new) for path, old, new, _ in EQUIVALENT}
    drawn = {}
    for area, sources in TESTS.items():
        wanted = [source for source in sources if not only or source.startswith(tuple(only))]
        candidates = [mutation for source in wanted for mutation in mutations(ROOT, source)]
        drawn[area] = iter(draw([one for one in candidates if one.identity not in known], seed))
    found: list[Mutation] = []
    left = sum(1 for _ in TURNS)
    for area in itertools.cycle(TURNS):
        if len(found) == number or not left:
            break
        following = next(drawn[area], None)
        left = len(TURNS) if following else left - 1
        found += [following] if following else []
    return found


def named_for(path: str) -> tuple[str, ...]:
    """The tests named for a source file."""
    return next(sources[path] for sources in TESTS.values() if path in sources)


class Crew:
    """Runs a job in each copy at a time, and shows how many are left."""

    def __init__(self, folder: Path, workers: int, console: Console):
        self.workers = workers
        self.console = console
        self.at_work: set[int] = set()
        self.free: queue.Queue[Checkout] = queue.Queue()
        for i in range(workers):
            self.free.put(Checkout.of_this_one(folder / str(i)))

    def run(self, title: str, jobs: Sequence[Job]) -> Iterator[tuple[int, Outcome]]:
        """(number of the job, how it ended), in the order in which they end."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        pool = ThreadPoolExecutor(self.workers)
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=self.console) as progress:
            bar = progress.add_task(title, total=len(jobs))
            waiting = {pool.submit(self._in_a_copy, job): i for i, job in enumerate(jobs)}
            try:
                for future in as_completed(waiting):
                    progress.advance(bar)
                    yield waiting[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for group in [*self.at_work]:
                    end(group)

    def _in_a_copy(self, job: Job) -> Outcome:
        copy = self.free.get()
        try:
            return job(copy, self.at_work)
        finally:
            self.free.put(copy)


def unchanged_seconds(crew: Crew, names: Sequence[str]) -> dict[str, float]:
    """{file of tests: seconds} without a mutation; ends the program where one fails."""

    def job(name: str) -> Job:
        return lambda copy, at_work: copy.run([name], HOUR_S, at_work)

    seconds = {}
    for i, outcome in crew.run("without a mutation", [job(name) for name in names]):
        if outcome.caught:
            sys.exit(f"tests/test_{names[i]}.py: fails without a mutation ({outcome.caught}). Mend it first.")
        seconds[names[i]] = outcome.seconds
    return seconds


def surviving(crew: Crew, made: Sequence[Mutation], seconds: dict[str, float]) -> list[Mutation]:
    """The mutations that no test catches; says of each whether one does. The quickest tests come first."""

    def job(mutation: Mutation) -> Job:
        tests = sorted(named_for(mutation.path), key=seconds.__getitem__)
        limit = 60 + 3 * sum(seconds[name] for name in tests)

        def run(copy: Checkout, at_work: set[int]) -> Outcome:
            with copy.with_line_of(mutation):
                return copy.run(tests, limit, at_work)

        return run

    survivors = []
    for i, outcome in crew.run("with a mutation", [job(mutation) for mutation in made]):
        mutation = made[i]
        how = f"caught by {escape(outcome.caught)}" if outcome.caught else "[red]SURVIVES[/red]"
        where = f"{mutation.path}:{mutation.number}"
        crew.console.print(f"{where}  {how}, {outcome.seconds:.0f} s", highlight=False, soft_wrap=True)
        for mark, line in (("-", mutation.old), ("+", mutation.new)):
            crew.console.print(f"    {mark} {line.strip()}", markup=False, highlight=False, soft_wrap=True)
        survivors += [] if outcome.caught else [mutation]
    return survivors


def main() -> int:
    """Make the mutations; 1 where one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], metavar="PATH", help="of a source file, or how it begins")
    parser.add_argument("--workers", type=int, default=2, help="how many mutations are tested at once")
    options = parser.parse_args()
    made = chosen(options.number, options.seed, options.only)
    if not made:
        parser.error(f"--only {' '.join(options.only)}: no line to change there. Name a file of TESTS in {__file__}.")
    names = sorted({name for mutation in made for name in named_for(mutation.path)})
    with tempfile.TemporaryDirectory() as folder:
        crew = Crew(Path(folder), options.workers, Console())
        survivors = surviving(crew, made, unchanged_seconds(crew, names))
    print(f"{len(made) - len(survivors)} of {len(made)} mutations are caught.")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
