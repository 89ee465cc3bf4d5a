"""Which commands there are and what each takes. Nothing heavy is imported, so that `--help` comes at once."""

from __future__ import annotations

import functools
import math
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.core.config import AGAIN, ROUNDS, TRIALS, WORKERS
from harness.core.errors import ConfigError
from harness.core.fields import Range

RUN = "a run: STUDY/ARM/SEED, its name or its directory, as `harness runs` lists them"
FAMILIES = [
    "interpolant", "prediction", "weighting", "loss", "time_sampler", "noise", "coupling", "solver", "time_grid",
    "time_embedding", "backbone", "optimizer", "schedule", "average", "extractor",
]  # fmt: skip
"""Of the components that `harness new component` writes: those of the registry but data sets and metrics."""
Add = Callable[..., ArgumentParser]
"""`add(name, about)` begins the declaration of a command."""


def parser() -> ArgumentParser:
    """Of `harness COMMAND ...`. The `module` among the options that it reads is that whose `run(options)` does it."""
    made = ArgumentParser(prog="harness", description="An ablation lab for flow matching.")
    add = functools.partial(_add, made.add_subparsers(required=True, metavar="COMMAND"))
    for declare in (_components, _single_runs, _chains, _studies, _tables, _demonstrations, _pages):
        declare(add)
    return made


def read(words: Sequence[str] | None = None) -> Namespace:
    """The options in these words, or in those of this process. Ends the process with 2 and a line for what is wrong."""
    given = sys.argv[1:] if words is None else words
    known = parser()
    for place, word in enumerate(given, 1):
        if re.fullmatch(r"(--[\w-]+=)?", word):  # mostly a variable of a shell's that is not set
            known.error(f"argument {place}: '{word}' holds no value. Give it one, or leave it out.")
    options = known.parse_args(given)
    if getattr(options, "until", None) and options.seeds is not None:
        known.error(f"argument --until: --seeds {options.seeds} says already how far. Leave out one of the two.")
    return options


def _add(commands: Any, name: str, about: str, module: str | None = None) -> ArgumentParser:
    """Begin a command, which `module` runs: harness/cli/<name>.py where it is not given."""
    sub: ArgumentParser = commands.add_parser(name, help=about, description=about)
    sub.set_defaults(module=f"harness.cli.{module or name}")
    plugin = "Python file with components of yours; repeatable"
    sub.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE", help=plugin)
    return sub


def _components(add: Add) -> None:
    """Commands about components and data: what there is, what they mean, whether they keep their promises."""
    about = "List the components of every family, or of one: what they are, their parameters and sources."
    sub = add("list", about, module="components")
    sub.add_argument("family", nargs="?", help="a family, or `studies` or `scales`")
    sub.add_argument("--json", action="store_true", help="for machines")

    sub = add("config", "Show what can be set: each path with its value, its type or choices, and its range.")
    sub.add_argument("run", metavar="RUN", nargs="?", help=RUN)
    sub.add_argument("--scale", metavar="NAME", help="of a configuration in studies/scales.py (digits)")
    sub.add_argument("--json", action="store_true", help="for machines")

    about = "Write a formulation out, or compare a study's arms, and draw the effective weight over log SNR."
    sub = add("explain", about)
    sub.add_argument("study", nargs="?", metavar="STUDY", help="draw the arms of this study together")
    _start(sub)
    sub.add_argument("--out", type=Path, default=Path("explain.png"), metavar="FILE", help="the picture (explain.png)")
    _changes(sub, "change the configuration, like weighting=min_snr")

    sub = add("new", "Write a working study, component, data set or metric to begin with, and its test.")
    sub.add_argument("kind", choices=["study", "component", "dataset", "metric"])
    sub.add_argument("name", metavar="NAME", help="of the file and what it declares: a-z, 0-9 and _")
    sub.add_argument("--family", choices=FAMILIES, default="weighting", help="of a component (weighting)")
    sub.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where both files go (the folder you are in)"
    )

    sub = add("check", "Test the components of a Python file against what their families promise.")
    sub.add_argument("file", type=Path)

    sub = add("data", "List the data sets, or prepare one and show what it holds.")
    sub.add_argument("name", nargs="?", metavar="NAME")
    sub.add_argument("--out", type=Path, metavar="FILE", help="a picture of its held-out samples, .png")
    _changes(sub, "set a field of it, like path=my_pictures or size=32")


def _single_runs(add: Add) -> None:
    """Commands that train a run and draw from it."""
    sub = add("train", "Train one run; the same command continues it.")
    _start(sub)
    _changes(sub, "change the configuration, like weighting=min_snr or train.steps=200")

    sub = add("sample", "Draw samples from a finished run into a picture or an array.")
    _one_run(sub)
    sub.add_argument("--number", type=int, default=64, metavar="N", help="how many (64)")
    nfe = "calls of the network for each (32; 1 if distilled); 0: an adaptive solver chooses"
    sub.add_argument("--nfe", type=int, metavar="N", help=nfe)
    sub.add_argument("--seed", type=int, metavar="N", help="of the noise and the classes (the run's own)")
    label = "a class's name or number, for all of them; needs a network that is told classes"
    sub.add_argument("--label", metavar="CLASS", help=label)
    out = ".png for a picture, .npz for arrays (samples.png)"
    sub.add_argument("--out", type=Path, default=Path("samples.png"), metavar="FILE", help=out)
    data = "or say where the data lie now, like dataset.path=elsewhere"
    _changes(sub, f"change how they are drawn, like evaluate.solver=heun, {data}")

    sub = add("evaluate", "Evaluate finished runs at every NFE; what is known is not computed again.")
    sub.add_argument("runs", metavar="RUN", nargs="+", help=RUN)
    sweep = "compare ways of sampling, like solver=euler,heun time_grid=uniform,shifted"
    sub.add_argument("--sweep", nargs="+", metavar="PATH=VALUES", help=sweep)
    _workers(sub, "processes of a sweep that judge at the same time; as many as the cores hold if not given")
    _changes(sub, "change how they are judged, like evaluate.solver=heun or evaluate.nfe=[8,64]")


def _chains(add: Add) -> None:
    """Commands about the rounds that follow a run, and the runs that it follows."""
    sub = add("reflow", "Straighten a finished run's flow in rounds, each trained on the pairs of the one before.")
    runs = f"{RUN}; several differ in their seeds alone"
    sub.add_argument("runs", metavar="RUN", nargs="+", help=runs)
    rounds = "how many (1); the second gives the 3-rectified flow"
    sub.add_argument("--rounds", type=_within(ROUNDS), default=1, metavar="N", help=rounds)
    sub.add_argument("--distil", action="store_true", help="distil the last round to one step")
    _workers(sub, "local processes that train at the same time; as many as the cores hold if not given")
    judged = "or how all are judged, like evaluate.nfe=[1,8]"
    _changes(sub, f"change the rounds, like train.steps=200 or reflow.number=100000, {judged}")

    sub = add("runs", "List the runs on disk by study, arm and seed, with what they scored.")
    sub.add_argument(
        "study", metavar="STUDY", nargs="?", help="a study's or a plan's name, like weighting-digits (all)"
    )
    sub.add_argument("--json", action="store_true", help="for machines")

    sub = add("lineage", "Show what a run was made from: data, flows and pairs, with what each cost.")
    _one_run(sub)
    sub.add_argument("--out", type=Path, metavar="FILE", help="a picture of it, .png")
    _changes(sub, "look at evaluations of another protocol, like evaluate.solver=heun")


def _studies(add: Add) -> None:
    """Commands that say what a study will take, and that train what it or a search asks for."""
    about = "Say what a study will take and what it can show, before anything is trained: time, disk, looks, effects."
    sub = add("plan", about)
    _study(sub, "training seeds: the looks up to N (all looks)")
    _side_by_side(sub)

    sub = add("ablate", "Train and compare the arms of a study; the same command continues it.")
    _study(sub)
    _sharing(sub)

    about = "Search for better settings, then compare the best with the scale's own on other seeds."
    sub = add("tune", about)
    _study(sub)
    _sharing(sub)
    trials = "trials of the search, instead of the file's; more continue it"
    sub.add_argument("--trials", type=_within(TRIALS), metavar="N", help=trials)


def _tables(add: Add) -> None:
    """Commands that report what has been trained."""
    _study(add("table", "Make a study's table again from the runs on disk, without training."))

    about = "Split the variance of a finished study into training and sampling; name the cheapest way to power."
    sub = add("variance", about)
    _study(sub)
    again = "how often each run is sampled anew (4)"
    sub.add_argument("--sampling-seeds", type=_within(AGAIN), default=4, metavar="N", help=again)

    what = "Put the table of a finished study or search among the committed ones"
    sub = add("publish", f"{what}, and renew studies/README.md; nothing is trained.")
    study = "a study or search as for ablate and tune; without one, studies/README.md alone"
    sub.add_argument("study", metavar="STUDY", nargs="?", help=study)
    _scale(sub)
    sub.set_defaults(changes=[], seeds=None, trials=None, until=None)


def _demonstrations(add: Add) -> None:
    """Commands that show that everything works, one seed each."""
    publish = "train nothing, but copy what has ended to the committed files"
    about = "Train every interpolant with every prediction on points in the plane: does each find the distribution?"
    add("toy", about).add_argument("--publish", action="store_true", help=publish)

    sub = add("gallery", "Train one run on every kind of data, beside what real samples and Gaussian noise score.")
    scales = "train these, names in studies/scales.py, instead of all that studies/gallery.py names"
    sub.add_argument("scales", nargs="*", metavar="SCALE", help=scales)
    sub.add_argument("--publish", action="store_true", help=publish)


def _pages(add: Add) -> None:
    """The commands that look at this machine, and that show what MLflow has."""
    add("doctor", "Check Python, torch, GPU, packages, folders, data and weights, and say what to do about each.")
    sub = add("ui", "Open the MLflow pages on 127.0.0.1.")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    sub.add_argument("--port", type=_within(Range(1, 65_535)), default=5000)
    allowed = "answer under this address too, as behind a tunnel; repeatable"
    sub.add_argument("--allow-host", action="append", default=[], metavar="NAME:PORT", help=allowed)


def _changes(sub: ArgumentParser, about: str) -> None:
    about = f"{about}; repeatable"
    sub.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="changes", help=about)


def _start(sub: ArgumentParser) -> None:
    sub.add_argument("--scale", default="digits", help="the configuration to start from: a name in studies/scales.py")


def _scale(sub: ArgumentParser) -> None:
    sub.add_argument("--scale", default="digits", help="digits, fashion, cifar10, ...: a name in studies/scales.py")


def _one_run(sub: ArgumentParser) -> None:
    sub.add_argument("run", metavar="RUN", help=RUN)


def _study(sub: ArgumentParser, seeds: str = "training seeds: all looks up to N (the first look's)") -> None:
    study = "a study's name (a file in studies/), or the path of a study file"
    sub.add_argument("study", metavar="STUDY", help=study)
    _scale(sub)
    sub.add_argument("--seeds", type=int, metavar="N", help=seeds)
    _changes(sub, "change every arm, like train.steps=200")
    sub.set_defaults(until=None)


def _sharing(sub: ArgumentParser) -> None:
    until = "go on from look to look until every arm is decided, or the last look is over"
    sub.add_argument("--until", choices=["decided"], help=until)
    hours = "the same, but begin no look that would not end within H hours, and stop after them"
    sub.add_argument("--max-hours", type=_hours, metavar="H", help=hours)
    _side_by_side(sub)


def _side_by_side(sub: ArgumentParser) -> None:
    _workers(sub, "local processes that train at the same time; measured if not given")
    per_gpu = "processes that share each GPU; measured if not given"
    sub.add_argument("--trials-per-gpu", type=_within(WORKERS), metavar="N", help=per_gpu)


def _workers(sub: ArgumentParser, about: str) -> None:
    sub.add_argument("--workers", type=_within(WORKERS), metavar="N", help=about)


def _hours(text: str) -> float:
    """A positive number of hours."""
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        raise ArgumentTypeError(f"'{text[:40]}' is no number of hours above 0.")
    return hours


def _within(allowed: Range) -> Callable[[str], int]:
    """What reads a whole number of 1 or more that is in a range."""

    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 4000 or int(text) < 1:
            raise ArgumentTypeError(f"{text[:40]} is no whole number of 1 or more.")
        try:
            allowed.refuse(int(text), "")
        except ConfigError as error:
            raise ArgumentTypeError(error.message) from None
        return int(text)

    return read
