"""Which commands there are and what each takes. Nothing heavy is imported, so that `--help` comes at once."""

from __future__ import annotations

import functools
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.cli.parser import Parser, Version
from harness.cli.values import number_of_hours, within
from harness.core.config import AGAIN, ROUNDS, TRIALS, WORKERS
from harness.core.fields import Range

RUN = "a run: STUDY/ARM/SEED, its name or its directory, as `harness runs` lists them"
FAMILIES = [
    "interpolant", "prediction", "weighting", "loss", "time_sampler", "noise", "coupling", "solver", "time_grid",
    "time_embedding", "backbone", "optimizer", "schedule", "average", "extractor",
]  # fmt: skip
"""Of the components that `harness new component` writes: those of the registry but data sets and metrics."""
Add = Callable[..., Parser]
"""`add(name, about, *examples)` begins the declaration of a command; an example is given without the command's name."""


def parser() -> Parser:
    """Of `harness COMMAND ...`. The `module` among the options that it reads is that whose `run(options)` does it."""
    examples = ("list weighting", "plan weighting", "ablate weighting --until decided", "train --scale points")
    made = Parser(prog="harness", about="An ablation lab for flow matching.", examples=examples)
    register = Path(sys.prefix, "bin", "register-python-argcomplete")
    shells = f'completion, a line for ~/.bashrc or ~/.zshrc:\n  eval "$({register} harness)"'
    made.epilog = f"{made.epilog}\n\n{shells}"
    made.add_argument("--version", action=Version, nargs=0, help="print the version and end")
    commands = made.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add = functools.partial(_add, commands)
    for declare in (_components, _single_runs, _chains, _studies, _tables, _demonstrations, _pages):
        declare(add)
    made.commands.update(commands.choices)
    return made


def read(words: Sequence[str] | None = None) -> Namespace:
    """The options in these words, or in those of this process. After help it ends with 0, after a mistake with 2."""
    given = sys.argv[1:] if words is None else words
    known = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks which words may follow
        from harness.cli.completion import complete

        complete(known)
    for place, word in enumerate(given, 1):
        if re.fullmatch(r"(--[\w-]+=)?", word):  # mostly a variable of a shell's that is not set
            known.error(f"argument {place}: '{word}' holds no value. Give it one, or leave it out.")
    options = known.read(given or ["--help"])
    if getattr(options, "until", None) and options.seeds is not None:
        known.error(f"argument --until: --seeds {options.seeds} says already how far. Leave out one of the two.")
    return options


def _add(commands: Any, name: str, about: str, *examples: str, module: str | None = None) -> Parser:
    """Begin a command, which `module` runs: harness/cli/<name>.py where it is not given."""
    sub: Parser = commands.add_parser(name, help=about, about=about, examples=examples)
    sub.set_defaults(module=f"harness.cli.{module or name}")
    plugin = "Python file with components of yours; repeatable"
    sub.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE", help=plugin)
    return sub


def _components(add: Add) -> None:
    """Commands about components and data: what there is, what they mean, whether they keep their promises."""
    about = "List the components of every family, or of one: what they are, their parameters and sources."
    sub = add("list", about, "weighting", "metric --json", module="components")
    family = "a family of components, like weighting, or `studies` or `scales`; all families if not given"
    sub.add_argument("family", nargs="?", help=family)
    sub.add_argument("--json", action="store_true", help="for machines")

    about = "Show what can be set: each path with its value, its type or choices, and its range."
    sub = add("config", about, "--scale points", "weighting/uniform/0 --json")
    sub.add_argument("run", metavar="RUN", nargs="?", help=RUN)
    sub.add_argument("--scale", metavar="NAME", help="a configuration in studies/scales.py (default: digits)")
    sub.add_argument("--json", action="store_true", help="for machines")

    about = "Write a formulation out, or compare a study's arms, and draw the effective weight over log SNR."
    sub = add("explain", about, "weighting --out weighting.png", "--scale digits --set weighting=min_snr")
    sub.add_argument("study", nargs="?", metavar="STUDY", help="draw the arms of this study together")
    _start(sub)
    sub.add_argument("--out", type=Path, default=Path("explain.png"), metavar="FILE", help="the picture")
    _changes(sub, "change the configuration, like weighting=min_snr")

    about = "Write a working study, component, data set or metric to begin with, and its test."
    sub = add("new", about, "component my_weighting --family weighting", "study my_question --out studies")
    sub.add_argument("kind", choices=["study", "component", "dataset", "metric"], help="what to write")
    sub.add_argument("name", metavar="NAME", help="of the file and what it declares: a-z, 0-9 and _")
    family = "that a component belongs to, one of those that `harness list` shows"
    sub.add_argument("--family", choices=FAMILIES, default="weighting", metavar="FAMILY", help=family)
    sub.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="the folder of both files")

    about = "Test the components of a Python file against what their families promise."
    add("check", about, "my_weighting.py").add_argument("file", type=Path, metavar="FILE", help="the Python file")

    about = "List the data sets, or prepare one and show what it holds."
    sub = add("data", about, "digits --out digits.png", "image_folder --set path=my_pictures --set size=32")
    sub.add_argument("name", nargs="?", metavar="NAME", help="the data set to prepare; all are listed if not given")
    sub.add_argument("--out", type=Path, metavar="FILE", help="a picture of its held-out samples, .png")
    _changes(sub, "set a field of it, like path=my_pictures or size=32")


def _single_runs(add: Add) -> None:
    """Commands that train a run and draw from it."""
    about = "Train one run; the same command continues it."
    sub = add("train", about, "--scale points", "--set weighting=min_snr --set train.steps=200")
    _start(sub)
    _changes(sub, "change the configuration, like weighting=min_snr or train.steps=200")

    about = "Draw samples from a finished run into a picture or an array."
    sub = add("sample", about, "weighting/uniform/0 --number 16", "weighting/uniform/0 --nfe 8 --out drawn.npz")
    _one_run(sub)
    sub.add_argument("--number", type=int, default=64, metavar="N", help="how many")
    nfe = "calls of the network for each; 0: an adaptive solver chooses (default: 32; 1 if distilled)"
    sub.add_argument("--nfe", type=int, metavar="N", help=nfe)
    sub.add_argument("--seed", type=int, metavar="N", help="of the noise and the classes (default: the run's own)")
    label = "a class's name or number, for all of them; needs a network that is told classes"
    sub.add_argument("--label", metavar="CLASS", help=label)
    out = ".png for a picture, .npz for arrays"
    sub.add_argument("--out", type=Path, default=Path("samples.png"), metavar="FILE", help=out)
    data = "or say where the data lie now, like dataset.path=elsewhere"
    _changes(sub, f"change how they are drawn, like evaluate.solver=heun, {data}")

    about = "Write a finished run's network to a folder: averaged weights, configuration, and how to load it in Python."
    sub = add("export", about, "weighting/uniform/0", "weighting/uniform/0 --out my_network")
    _one_run(sub)
    sub.add_argument("--out", type=Path, default=Path("export"), metavar="FOLDER", help="a new folder")
    _changes(sub, "choose the weights, like evaluate.average=last")

    about = "Evaluate finished runs at every NFE; what is known is not computed again."
    more = "weighting/uniform/0 --sweep solver=euler,heun time_grid=uniform,shifted"
    sub = add("evaluate", about, "weighting/uniform/0 --set 'evaluate.nfe=[8,64]'", more)
    sub.add_argument("runs", metavar="RUN", nargs="+", help=RUN)
    sweep = "compare ways of sampling, like solver=euler,heun time_grid=uniform,shifted"
    sub.add_argument("--sweep", nargs="+", metavar="PATH=VALUES", help=sweep)
    _workers(sub, "processes of a sweep that judge at the same time (default: as many as the cores hold)")
    _changes(sub, "change how they are judged, like evaluate.solver=heun or evaluate.nfe=[8,64]")


def _chains(add: Add) -> None:
    """Commands about the rounds that follow a run, and the runs that it follows."""
    about = "Straighten a finished run's flow in rounds, each trained on the pairs of the one before."
    sub = add("reflow", about, "weighting/uniform/0", "weighting/uniform/0 weighting/uniform/1 --rounds 2 --distil")
    runs = f"{RUN}; several differ in their seeds alone"
    sub.add_argument("runs", metavar="RUN", nargs="+", help=runs)
    rounds = "how many; the second gives the 3-rectified flow"
    sub.add_argument("--rounds", type=within(ROUNDS), default=1, metavar="N", help=rounds)
    sub.add_argument("--distil", action="store_true", help="distil the last round to one step")
    _workers(sub, "local processes that train at the same time (default: as many as the cores hold)")
    judged = "or how all are judged, like evaluate.nfe=[1,8]"
    _changes(sub, f"change the rounds, like train.steps=200 or reflow.number=100000, {judged}")

    sub = add("runs", "List the runs on disk by study, arm and seed, with what they scored.", "weighting", "--json")
    study = "a study's or a plan's name, like weighting-digits (default: all)"
    sub.add_argument("study", metavar="STUDY", nargs="?", help=study)
    sub.add_argument("--json", action="store_true", help="for machines")

    about = "Show what a run was made from: data, flows and pairs, with what each cost."
    sub = add("lineage", about, "weighting/uniform/0 --out lineage.png")
    _one_run(sub)
    sub.add_argument("--out", type=Path, metavar="FILE", help="a picture of it, .png")
    _changes(sub, "look at evaluations of another protocol, like evaluate.solver=heun")


def _studies(add: Add) -> None:
    """Commands that say what a study will take, and that train what it or a search asks for."""
    about = "Say what a study will take and what it can show, before anything is trained: time, disk, looks, effects."
    sub = add("plan", about, "weighting", "weighting --scale points --seeds 20")
    _study(sub, "training seeds: the looks up to N (default: all looks)")
    _side_by_side(sub)

    about = "Train and compare the arms of a study; the same command continues it."
    sub = add("ablate", about, "weighting", "weighting --until decided --max-hours 3", "solver --scale points")
    _study(sub)
    _sharing(sub)

    about = "Search for better settings, then compare the best with the scale's own on other seeds."
    sub = add("tune", about, "tuning --trials 24")
    _study(sub)
    _sharing(sub)
    trials = "trials of the search; more continue it (default: the file's)"
    sub.add_argument("--trials", type=within(TRIALS), metavar="N", help=trials)


def _tables(add: Add) -> None:
    """Commands that report what has been trained."""
    about = "Make a study's table again from the runs on disk, without training."
    sub = add("table", about, "weighting", "weighting --format latex")
    _study(sub)
    form = "print only the tables, for other programs; latex needs the package booktabs"
    sub.add_argument("--format", choices=["markdown", "csv", "latex"], help=form)

    about = "Split the variance of a finished study into training and sampling; name the cheapest way to power."
    sub = add("variance", about, "weighting --scale points --seeds 5")
    _study(sub)
    again = "how often each run is sampled anew"
    sub.add_argument("--sampling-seeds", type=within(AGAIN), default=4, metavar="N", help=again)

    about = "Put a finished study's or search's table among the committed ones, and renew studies/README.md."
    sub = add("publish", about, "weighting", "tuning", "")
    study = "a study or search as for ablate and tune; without one, studies/README.md alone"
    sub.add_argument("study", metavar="STUDY", nargs="?", help=study)
    _scale(sub)
    sub.set_defaults(changes=[], seeds=None, trials=None, until=None)


def _demonstrations(add: Add) -> None:
    """Commands that show that everything works, one seed each."""
    publish = "train nothing, but copy what has ended to the committed files"
    about = "Train every interpolant with every prediction on points in the plane: does each find the distribution?"
    add("toy", about, "").add_argument("--publish", action="store_true", help=publish)

    about = "Train one run on every kind of data, beside what real samples and Gaussian noise score."
    sub = add("gallery", about, "", "points cells")
    scales = "train these, names in studies/scales.py, instead of all that studies/gallery.py names"
    sub.add_argument("scales", nargs="*", metavar="SCALE", help=scales)
    sub.add_argument("--publish", action="store_true", help=publish)


def _pages(add: Add) -> None:
    """The commands that look at this machine, and that show what MLflow has."""
    add("doctor", "Check Python, torch, GPU, packages, folders, data and weights, and say what to do about each.", "")
    sub = add("ui", "Open the MLflow pages on 127.0.0.1.", "", "--port 5001")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1 is this machine alone")
    sub.add_argument("--port", type=within(Range(1, 65_535)), default=5000, metavar="N", help="port to listen on")
    allowed = "answer under this address too, as behind a tunnel; repeatable"
    sub.add_argument("--allow-host", action="append", default=[], metavar="NAME:PORT", help=allowed)


def _changes(sub: Parser, about: str) -> None:
    about = f"{about}; repeatable"
    sub.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="changes", help=about)


def _start(sub: Parser) -> None:
    sub.add_argument("--scale", default="digits", help="the configuration to start from: a name in studies/scales.py")


def _scale(sub: Parser) -> None:
    sub.add_argument("--scale", default="digits", help="digits, fashion, cifar10, ...: a name in studies/scales.py")


def _one_run(sub: Parser) -> None:
    sub.add_argument("run", metavar="RUN", help=RUN)


def _study(sub: Parser, seeds: str = "training seeds: all looks up to N (default: the first look's)") -> None:
    study = "a study's name (a file in studies/), or the path of a study file"
    sub.add_argument("study", metavar="STUDY", help=study)
    _scale(sub)
    sub.add_argument("--seeds", type=int, metavar="N", help=seeds)
    _changes(sub, "change every arm, like train.steps=200")
    sub.set_defaults(until=None)


def _sharing(sub: Parser) -> None:
    until = "go on from look to look until every arm is decided, or the last look is over"
    sub.add_argument("--until", choices=["decided"], help=until)
    hours = "the same, but begin no look that would not end within H hours, and stop after them"
    sub.add_argument("--max-hours", type=number_of_hours, metavar="H", help=hours)
    _side_by_side(sub)


def _side_by_side(sub: Parser) -> None:
    _workers(sub, "local processes that train at the same time (default: measured)")
    per_gpu = "processes that share each GPU (default: measured)"
    sub.add_argument("--trials-per-gpu", type=within(WORKERS), metavar="N", help=per_gpu)


def _workers(sub: Parser, about: str) -> None:
    sub.add_argument("--workers", type=within(WORKERS), metavar="N", help=about)
