"""All commands and their options. Nothing heavy is imported, so `--help` is fast."""

from __future__ import annotations

import functools
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.cli import options
from harness.cli.options import RUN
from harness.cli.parser import Parser, Version
from harness.cli.values import evaluation_of, within
from harness.core.config import AGAIN, ROUNDS, TRIALS
from harness.core.fields import Range

FAMILIES = [
    "interpolant", "prediction", "weighting", "loss", "perceptual", "time_sampler", "noise", "coupling", "solver",
    "time_grid", "time_embedding", "backbone", "optimizer", "schedule", "average", "extractor",
]  # fmt: skip
"""The families that `harness new component` writes: all of the registry except data sets and metrics."""
Add = Callable[..., Parser]
"""`add(name, about, *examples)` declares a command; examples leave out `harness` and the command's name."""


def parser() -> Parser:
    """Return the parser of `harness COMMAND ...`; its `module` names the module whose `run(options)` is called."""
    examples = ("list weighting", "plan weighting", "ablate weighting --until decided", "train --scale points")
    made = Parser(prog="harness", about="An ablation lab for flow matching.", examples=examples)
    register = Path(sys.prefix, "bin", "register-python-argcomplete")
    shells = f'completion: add this line to ~/.bashrc or ~/.zshrc:\n  eval "$({register} harness)"'
    made.epilog = f"{made.epilog}\n\n{shells}"
    made.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = made.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add = functools.partial(_add, commands)
    for declare in (_components, _single_runs, _chains, _studies, _tables, _demonstrations, _pages):
        declare(add)
    made.commands.update(commands.choices)
    return made


def read(words: Sequence[str] | None = None) -> Namespace:
    """Return the options in `words` or in this process's arguments. Exits with 0 after help, with 2 after a mistake."""
    given = sys.argv[1:] if words is None else words
    known = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        from harness.cli.completion import complete

        complete(known)
    for place, word in enumerate(given, 1):
        if re.fullmatch(r"(--[\w-]+=)?", word):  # usually an unset shell variable
            known.error(f"argument {place}: '{word}' has no value. Give it one, or leave it out.")
    found = known.read(given or ["--help"])
    if getattr(found, "until", None) and found.seeds is not None:
        known.error(f"argument --until: --seeds {found.seeds} already sets the last look. Leave out one of the two.")
    return found


def _add(commands: Any, name: str, about: str, *examples: str, module: str | None = None) -> Parser:
    """Declare a command, which harness/cli/MODULE.py runs; `module` defaults to the command's name."""
    sub: Parser = commands.add_parser(name, help=about, about=about, examples=examples)
    sub.set_defaults(module=f"harness.cli.{module or name}")
    plugin = "Python file with your components; repeatable"
    sub.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE", help=plugin)
    return sub


def _components(add: Add) -> None:
    """Commands that list, explain, write and check components and data sets."""
    about = "List components with their parameters and sources, or list the studies or the scales."
    sub = add("list", about, "weighting", "studies", "metric --json", module="components")
    family = "a family of components, like weighting; or studies; or scales (default: all families)"
    sub.add_argument("family", nargs="?", metavar="FAMILY", help=family)
    options.json(sub)

    about = "List all settings of a scale or a run, with types and ranges, or those in which two runs differ."
    sub = add("config", about, "--scale points --json", "weighting/uniform/0 weighting/min_snr/0")
    sub.add_argument("runs", metavar="RUN", nargs="*", help=f"{RUN}; two runs are compared")
    sub.add_argument("--scale", help="the configuration to list (default: digits)")
    options.json(sub)

    about = "Print the formulas of a configuration, or compare a study's arms; draw the effective weight over log SNR."
    sub = add("explain", about, "weighting --out weighting.png", "--scale digits --set weighting=min_snr")
    study = "compare the arms of this study (default: print the formulas of the scale)"
    sub.add_argument("study", nargs="?", metavar="STUDY", help=study)
    options.scale(sub)
    sub.add_argument("--out", type=Path, default=Path("explain.png"), metavar="FILE", help="picture to write, .png")
    options.changes(sub, "change the configuration, like weighting=min_snr")

    about = "Write a working study, component, data set or metric to start from, and its test."
    sub = add("new", about, "component my_weighting --family weighting", "study my_question --out studies")
    sub.add_argument("kind", choices=["study", "component", "dataset", "metric"], help="what to write")
    sub.add_argument("name", metavar="NAME", help="name of the file, and of what it declares: a-z, 0-9 and _")
    family = "family of the component; `harness list` shows the families"
    sub.add_argument("--family", choices=FAMILIES, default="weighting", metavar="FAMILY", help=family)
    sub.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder for both files")

    about = "Check whether the components in Python files keep the promises of their families."
    sub = add("check", about, "my_weighting.py", "my_path.py my_weighting.py")
    sub.add_argument("files", nargs="+", type=Path, metavar="FILE", help="Python file with your components")

    about = "List the data sets, or prepare one and describe it."
    sub = add("data", about, "digits --out digits.png", "image_folder --set path=my_pictures --set size=32")
    sub.add_argument("name", nargs="?", metavar="NAME", help="data set to prepare (default: list all)")
    sub.add_argument("--out", type=Path, metavar="FILE", help="picture of its held-out samples to write, .png")
    options.changes(sub, "set a field of the data set, like path=my_pictures or size=32", of=None)


def _single_runs(add: Add) -> None:
    """Commands that train a run and draw from it."""
    about = "Train one run; the same command continues it."
    sub = add("train", about, "--scale points --set seed=1", "--set weighting=min_snr --set train.steps=200")
    options.scale(sub)
    options.changes(sub, "change the configuration, like weighting=min_snr or train.steps=200")

    about = "Draw samples from a finished run; write a picture or arrays."
    sub = add("sample", about, "weighting/uniform/0 --number 16", "weighting/uniform/0 --nfe 8 --out drawn.npz")
    options.one_run(sub)
    sub.add_argument("--number", type=int, default=64, metavar="N", help="number of samples")
    nfe = "network calls per sample; 0: an adaptive solver chooses (default: 32; 1 for a distilled run)"
    sub.add_argument("--nfe", type=int, metavar="N", help=nfe)
    seed = "seed of the noise and the classes (default: the run's seed)"
    sub.add_argument("--seed", type=int, metavar="N", help=seed)
    label = "name or number of a class: draw only this class; needs a run trained with classes"
    sub.add_argument("--label", metavar="CLASS", help=label)
    out = "file to write: .png for a picture, .npz for arrays"
    sub.add_argument("--out", type=Path, default=Path("samples.png"), metavar="FILE", help=out)
    data = "or where the data are now, like dataset.path=elsewhere"
    options.changes(sub, f"change how the samples are drawn, like evaluate.solver=heun, {data}", evaluation_of)

    about = "Write a finished run's network to a folder: averaged weights, configuration, and how to load it in Python."
    sub = add("export", about, "weighting/uniform/0", "weighting/uniform/0 --out my_network")
    options.one_run(sub)
    sub.add_argument("--out", type=Path, default=Path("export"), metavar="FOLDER", help="a new folder")
    options.changes(sub, "choose the weights, like evaluate.average=last")

    about = "Evaluate finished runs at every NFE; known values are not computed again."
    more = "weighting/uniform/0 --sweep solver=euler,heun time_grid=uniform,shifted"
    sub = add("evaluate", about, "weighting/uniform/0 --set 'evaluate.nfe=[8,64]'", more)
    sub.add_argument("runs", metavar="RUN", nargs="+", help=RUN)
    sweep = "compare all combinations of sampling settings, like solver=euler,heun time_grid=uniform,shifted"
    sub.add_argument("--sweep", nargs="+", metavar="PATH=VALUES", help=sweep)
    options.workers(
        sub, "processes of a sweep that evaluate side by side (default: as many as the GPUs or cores allow)"
    )
    options.changes(
        sub, "change how the runs are evaluated, like evaluate.solver=heun or evaluate.nfe=[8,64]", evaluation_of
    )


def _chains(add: Add) -> None:
    """Commands that train a run again or rounds of reflow from it, list runs, and show a run's lineage."""
    about = "Train a finished run again from its record, beside it, and compare weights and losses bit by bit."
    sub = add("reproduce", about, "weighting/uniform/0")
    options.one_run(sub)
    options.changes(sub, "say where the data are now, like dataset.path=elsewhere")

    about = "Straighten a finished run's flow by rounds of reflow; each round trains on pairs from the round before."
    sub = add("reflow", about, "weighting/uniform/0", "weighting/uniform/0 weighting/uniform/1 --rounds 2 --distil")
    runs = f"{RUN}; several runs must differ only in their seeds"
    sub.add_argument("runs", metavar="RUN", nargs="+", help=runs)
    rounds = "number of rounds; two rounds give the 3-rectified flow"
    sub.add_argument("--rounds", type=within(ROUNDS), default=1, metavar="N", help=rounds)
    sub.add_argument("--distil", action="store_true", help="distil the last round to one step")
    options.workers(sub, "local processes that train side by side (default: as many as the GPUs or cores allow)")
    judged = "or how all runs are evaluated, like evaluate.nfe=[1,8]"
    options.changes(sub, f"change the rounds, like train.steps=200 or reflow.number=100000, {judged}")

    sub = add("runs", "List the runs on disk by study, arm and seed, with their scores.", "weighting", "--json")
    study = "a study's or a plan's name, like weighting-digits (default: all)"
    sub.add_argument("study", metavar="STUDY", nargs="?", help=study)
    options.json(sub)

    about = "Show the data, flows and pairs that a run was made from, with their costs."
    sub = add("lineage", about, "weighting/uniform/0 --out lineage.png")
    options.one_run(sub)
    sub.add_argument("--out", type=Path, metavar="FILE", help="picture of it to write, .png")
    options.changes(sub, "show evaluations under another protocol, like evaluate.solver=heun", evaluation_of)


def _studies(add: Add) -> None:
    """Commands that plan a study, and that carry out a study or a search."""
    about = "Forecast a study from small trials: its time, disk space and looks, and the differences that it can show."
    sub = add("plan", about, "weighting", "weighting --scale points --seeds 20")
    options.study(sub, "all looks")
    options.side_by_side(sub)

    about = "Show which trials of a study have ended, run or wait, on this machine or an engine's nodes."
    sub = add("status", about, "weighting", "weighting --watch")
    options.study(sub, "those of the last command")
    sub.add_argument(
        "--watch", action="store_true", help="show it again every few seconds, until all trials have ended"
    )

    about = "Check whether two nodes of an engine can share the results folder, and say what to do if not."
    sub = add("cluster-check", about, "--launcher slurm --on=--partition=gpu", module="cluster_check")
    options.engine(sub)

    about = "Train and compare the arms of a study; the same command continues it."
    sub = add("ablate", about, "weighting", "weighting --until decided --max-hours 3", "solver --scale points")
    options.study(sub, "the first look, or the last one taken")
    options.sharing(sub)
    options.detach(sub)

    about = "Search for better settings, then compare the best with the scale's settings on other seeds."
    sub = add("tune", about, "tuning --trials 24")
    options.study(sub, "the first look, or the last one taken", "search")
    options.sharing(sub)
    options.detach(sub)
    trials = "number of trials; a larger number continues the search (default: the search file's)"
    sub.add_argument("--trials", type=within(TRIALS), metavar="N", help=trials)


def _tables(add: Add) -> None:
    """Commands that report what has been trained."""
    about = "Make a study's table again from the runs on disk, without training."
    sub = add("table", about, "weighting", "weighting --format latex")
    options.study(sub, "the last complete look")
    form = "print only the tables, in this format; latex needs the package booktabs (default: for the terminal)"
    sub.add_argument("--format", choices=["markdown", "csv", "latex"], help=form)

    about = "Write a study's page again from the runs on disk: one HTML file that opens without a network."
    sub = add("report", about, "weighting", "weighting --scale points --seeds 5")
    options.study(sub, "the last complete look")

    about = "Split the variance of a finished study into training and sampling, and find the cheapest way to power."
    sub = add("variance", about, "weighting --scale points --seeds 5")
    options.study(sub, "all finished runs")
    again = "times that each run is sampled again"
    sub.add_argument("--sampling-seeds", type=within(AGAIN), default=4, metavar="N", help=again)

    about = "List published tables, compare their settings with ours, or print the commands that train a row."
    sub = add("papers", about, "", "lipman2023_table1", "lipman2023_table1 'FM, OT path'")
    sub.add_argument("table", metavar="TABLE", nargs="?", help="a file in studies/papers/ (default: list all)")
    sub.add_argument("row", metavar="ROW", nargs="?", help="a row of the table (default: list all)")

    about = "Print published tables beside our values, with a verdict on each claim; train what is missing."
    sub = add("compare", about, "tong2024_table5", "tong2024_table5 --format latex", "liu2023_table1 --scale paper")
    listed = "files in studies/papers/ (default: all that have values at a small scale)"
    sub.add_argument("tables", metavar="TABLE", nargs="*", help=listed)
    offered = "a scale that the table offers, or paper: the configurations of its rows (default: the table's first)"
    sub.add_argument("--scale", dest="at_scale", metavar="SCALE", help=offered)
    seeds = "train up to N seeds (default: train only studies without values, to their first look)"
    sub.add_argument("--seeds", type=int, metavar="N", help=seeds)
    options.sharing(sub)
    sub.add_argument("--format", choices=["markdown", "csv", "latex"], help=form)

    about = "Copy the table of a finished study or search to the committed ones, and update studies/README.md."
    sub = add("publish", about, "weighting", "tuning", "")
    study = "a study or search, as for ablate and tune (default: only update studies/README.md)"
    sub.add_argument("study", metavar="STUDY", nargs="?", help=study)
    options.scale(sub)
    sub.set_defaults(changes=[], seeds=None, trials=None, until=None)


def _demonstrations(add: Add) -> None:
    """Demonstrations that everything works, with one seed each."""
    publish = "copy the finished results to the committed ones; train nothing"
    about = "Train every interpolant with every prediction on points in the plane, and compare samples with data."
    add("toy", about, "").add_argument("--publish", action="store_true", help=publish)

    about = "Train one run on every kind of data, and compare it with real samples and Gaussian noise."
    sub = add("gallery", about, "", "points cells")
    scales = "scales to train, as `harness list scales` shows them (default: those in studies/gallery.py)"
    sub.add_argument("scales", nargs="*", metavar="SCALE", help=scales)
    sub.add_argument("--publish", action="store_true", help=publish)


def _pages(add: Add) -> None:
    """The commands that check this machine, and that serve the MLflow pages."""
    add("doctor", "Check Python, torch, GPU, packages, folders, data and weights, and say how to fix each fault.", "")
    sub = add("ui", "Serve the MLflow pages on 127.0.0.1.", "", "--port 5001")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1 serves this machine only")
    sub.add_argument("--port", type=within(Range(1, 65_535)), default=5000, metavar="N", help="port to listen on")
    allowed = "also answer requests to this address, for example behind a tunnel; repeatable"
    sub.add_argument("--allow-host", action="append", default=[], metavar="NAME:PORT", help=allowed)
