"""Whether the tests notice a wrong line: the tests listed for a file must catch each of 40 one-line mutations.

    python tests/mutants.py [--number 40] [--seed 0] [--only PATH ...] [--workers 2]

The script works in copies of this checkout, in a temporary folder, and changes nothing here. First the tests must pass
without a mutation; this run also measures the time of each test file. A mutation that makes the tests much slower
counts as caught. The exit code is 1 if a mutation survives.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checkouts import ROOT, Checkout, Crew, Job, Outcome
from mutations import Mutation, draw, mutations
from rich.console import Console
from rich.markup import escape

HOUR_S = 3600.0
TURNS = ("components", "objective", "components", "statistics", "steps", "judge", "worker", "files")
"""The areas of successive mutations, repeated. Components come up most often, because they have most of the lines."""
TESTS: dict[str, dict[str, tuple[str, ...]]] = {
    "components": {
        "harness/components/averages.py": ("averages", "ema"),
        "harness/components/backbones/base.py": ("backbones",),
        "harness/components/backbones/diffusers.py": ("hub_backbone",),
        "harness/components/backbones/dit.py": ("backbones",),
        "harness/components/backbones/embeddings.py": ("backbones",),
        "harness/components/backbones/mlp.py": ("backbones",),
        "harness/components/backbones/ncsnpp.py": ("backbones",),
        "harness/components/backbones/transformer.py": ("backbones",),
        "harness/components/backbones/unet.py": ("backbones",),
        "harness/components/couplings.py": ("couplings", "pairwise"),
        "harness/components/interpolants/base.py": ("interpolants", "closed_form", "stochastic_solvers"),
        "harness/components/interpolants/diffusion.py": ("interpolants", "closed_form", "stochastic_solvers"),
        "harness/components/interpolants/noise_rates.py": ("interpolants", "closed_form", "stochastic_solvers"),
        "harness/components/interpolants/straight.py": ("interpolants", "closed_form", "stochastic_solvers"),
        "harness/components/losses.py": ("losses",),
        "harness/components/noises.py": ("noises",),
        "harness/components/perceptual.py": ("perceptual",),
        "harness/components/predictions.py": ("formulation", "parity", "weightings"),
        "harness/components/solvers/base.py": ("solvers",),
        "harness/components/solvers/ordinary.py": ("solvers",),
        "harness/components/solvers/stochastic.py": ("stochastic_solvers",),
        "harness/components/time_grids.py": ("time_grids",),
        "harness/components/time_samplers/base.py": ("time_samplers",),
        "harness/components/time_samplers/densities.py": ("time_samplers",),
        "harness/components/time_samplers/derived.py": ("time_samplers",),
        "harness/components/weightings.py": ("weightings", "time_weight"),
    },
    "objective": {
        "harness/flow/objective.py": ("objective", "pairwise", "told_classes", "perceptual"),
        "harness/flow/time_weight.py": ("time_weight", "objective"),
    },
    "steps": {
        "harness/training/captured.py": ("captured",),
        "harness/training/graphs.py": ("captured", "inference"),
        "harness/training/inference.py": ("inference",),
        "harness/training/rounded.py": ("stepper",),
        "harness/training/stepper.py": ("stepper", "captured", "compiled", "trainer", "golden"),
    },
    "papers": {
        "harness/ablation/design/paper.py": ("papers",),
        "harness/ablation/report/paper_page.py": ("papers",),
    },
    "statistics": {
        "harness/ablation/report/power.py": ("power",),
        "harness/ablation/design/looks.py": ("looks",),
        "harness/ablation/report/statistics.py": ("statistics", "looks"),
        "harness/ablation/report/verdicts.py": ("looks", "outcomes", "tables", "crossing"),
    },
    "judge": {
        "harness/evaluation/judge.py": ("kept_rows", "fidelity", "population", "runs"),
        "harness/runs/judge.py": ("kept_rows", "sweep", "runs"),
    },
    "worker": {
        "harness/ablation/execute/attempts.py": ("search", "fronts"),
        "harness/ablation/execute/board.py": ("worker", "search", "launch", "end_to_end"),
        "harness/ablation/execute/forecast.py": ("forecast",),
        "harness/ablation/execute/forks.py": ("forks", "streams", "end_to_end"),
        "harness/ablation/execute/launch.py": ("launch", "launchers", "worker", "end_to_end"),
        "harness/ablation/execute/launchers.py": ("launchers",),
        "harness/ablation/execute/local.py": ("launch", "worker", "end_to_end"),
        "harness/ablation/execute/node.py": ("launchers",),
        "harness/ablation/execute/node_check.py": ("cluster_check",),
        "harness/ablation/execute/on_ray.py": ("launchers",),
        "harness/ablation/execute/placement.py": ("placement",),
        "harness/ablation/execute/pruning.py": ("pruning",),
        "harness/ablation/execute/ray_tasks.py": ("launchers",),
        "harness/ablation/execute/resample.py": ("variance",),
        "harness/ablation/execute/side_by_side.py": ("placement", "forecast"),
        "harness/ablation/execute/slots.py": ("slots",),
        "harness/ablation/execute/slurm.py": ("launchers",),
        "harness/ablation/execute/timing.py": ("matching",),
        "harness/ablation/execute/toy.py": ("toy",),
        "harness/ablation/execute/trial.py": ("trial", "worker", "fence"),
        "harness/ablation/execute/trials.py": ("launchers", "worker"),
        "harness/ablation/execute/tuner.py": ("search", "launch"),
        "harness/ablation/execute/worker.py": ("worker", "outcomes", "launch", "end_to_end"),
    },
    "files": {
        "harness/core/appending.py": ("files", "fence", "reflow"),
        "harness/core/fence.py": ("fence",),
        "harness/core/files.py": ("files", "stops", "fence"),
        "harness/core/checkpoint.py": ("checkpoint", "trainer", "fence"),
    },
}
"""{area: {source file: names of the test files that must catch its mutations}}"""


class Equivalent(NamedTuple):
    """A mutation that no test can catch: the file, the two lines, and the reason."""

    path: str
    old: str
    new: str
    reason: str


EQUIVALENT = (
    Equivalent(
        "harness/core/files.py",
        "if time.monotonic() - began > MOMENT_S:",
        "if time.monotonic() - began >= MOMENT_S:",
        "no wait takes exactly a second by a clock of nanoseconds",
    ),
    Equivalent(
        "harness/runs/judge.py",
        "return kept.clear()",
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
        "a measurement discards its log lines; only their time differs",
    ),
    Equivalent(
        "harness/ablation/execute/toy.py",
        "def trajectories(made: Formulation, network: nn.Module, number: int = 150) -> Tensor:",
        "def trajectories(made: Formulation, network: nn.Module, number: int = 151) -> Tensor:",
        "the number of lines in a picture; one more line shows the same",
    ),
    Equivalent(
        "harness/ablation/execute/tuner.py",
        'with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):  # because of `group`',
        'with warnings.catch_warnings(action="ignore"):  # because of `group`',
        "the sampler warns of nothing else",
    ),
)


def chosen(number: int, seed: int, only: Sequence[str]) -> list[Mutation]:
    """Draw the mutations, from the areas in turns, without those listed as equivalent."""
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
    """Return the tests listed for a source file."""
    return next(sources[path] for sources in TESTS.values() if path in sources)


def unchanged_seconds(crew: Crew, names: Sequence[str]) -> dict[str, float]:
    """Return {test file: seconds} without a mutation; a failure ends the program."""

    def job(name: str) -> Job:
        return lambda copy, at_work: copy.run([name], HOUR_S, at_work)

    seconds = {}
    for i, outcome in crew.run("without a mutation", [job(name) for name in names]):
        if outcome.caught:
            sys.exit(f"tests/test_{names[i]}.py: fails without a mutation ({outcome.caught}). Fix the test first.")
        seconds[names[i]] = outcome.seconds
    return seconds


def surviving(crew: Crew, made: Sequence[Mutation], seconds: dict[str, float]) -> list[Mutation]:
    """Return the mutations that no test catches, and print each outcome. The fastest tests run first."""

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
    """Test the mutations; return 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], metavar="PATH", help="source files, or folders of them")
    parser.add_argument("--workers", type=int, default=2, help="number of mutations tested in parallel")
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
