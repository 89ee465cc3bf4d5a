"""The command line: which commands there are and what they take. Nothing heavy is imported before one runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.cli import pages, parts, runs, studies
from harness.core.errors import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `harness ARGUMENTS`; returns the exit code: 0, 2 after a user's mistake, 130 when stopped."""
    options = _parser().parse_args(arguments)

    def command() -> None:
        _load_plugins(options)
        options.command(options)

    return guarded(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness", description="An ablation lab for flow matching.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command: Callable[[Any], None], name: str, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=command)
        sub.add_argument(
            "--plugin",
            action="append",
            default=[],
            type=Path,
            metavar="FILE",
            help="Python file with components of yours; repeatable",
        )
        return sub

    def add_set(sub: argparse.ArgumentParser, about: str) -> None:
        sub.add_argument(
            "--set", action="append", default=[], metavar="PATH=VALUE", dest="changes", help=f"{about}; repeatable"
        )

    def add_study(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "study", metavar="STUDY", help="a study's name (a file in studies/), or the path of a study file"
        )
        sub.add_argument("--scale", default="digits", help="digits, fashion, cifar10, ...: a name in studies/scales.py")
        sub.add_argument("--seeds", type=int, metavar="N", help="training seeds for each arm, instead of the study's")
        add_set(sub, "change every arm, like train.steps=200")

    def add_sharing(sub: argparse.ArgumentParser) -> None:
        workers = "local processes that train at the same time; measured if not given"
        sub.add_argument("--workers", type=_positive, metavar="N", help=workers)
        sub.add_argument(
            "--trials-per-gpu", type=_positive, metavar="N", help="processes that share each GPU; measured if not given"
        )

    sub = add(
        parts.list_components,
        "list",
        "List the components of every family, or of one: what they are, their parameters and sources.",
    )
    sub.add_argument("family", nargs="?")
    sub.add_argument("--json", action="store_true", help="for machines")
    sub = add(
        parts.explain,
        "explain",
        "Write a formulation out, or compare a study's arms, and draw the effective weight over log SNR.",
    )
    sub.add_argument("study", nargs="?", metavar="STUDY", help="draw the arms of this study together")
    sub.add_argument("--scale", default="digits", help="the configuration to start from: a name in studies/scales.py")
    sub.add_argument("--out", type=Path, default=Path("explain.png"), metavar="FILE", help="the picture (explain.png)")
    add_set(sub, "change the configuration, like weighting=min_snr")
    sub = add(parts.check, "check", "Test the components of a Python file against what their families promise.")
    sub.add_argument("file", type=Path)
    sub = add(parts.data, "data", "List the data sets, or prepare one and show what it holds.")
    sub.add_argument("name", nargs="?", metavar="NAME")
    sub.add_argument("--out", type=Path, metavar="FILE", help="a picture of its held-out samples, .png")
    add_set(sub, "set a field of it, like path=my_pictures or size=32")
    sub = add(runs.train, "train", "Train one run; the same command continues it.")
    sub.add_argument("--scale", default="digits", help="the configuration to start from: a name in studies/scales.py")
    add_set(sub, "change the configuration, like weighting=min_snr or train.steps=200")
    sub = add(runs.sample, "sample", "Draw samples from a finished run into a picture or an array.")
    sub.add_argument("run", metavar="RUN", help="a run's name or directory")
    sub.add_argument("--number", type=int, default=64, metavar="N", help="how many (64)")
    sub.add_argument(
        "--nfe",
        type=int,
        metavar="N",
        help="calls of the network for each (32; 1 if distilled); 0: an adaptive solver chooses",
    )
    sub.add_argument("--seed", type=int, metavar="N", help="of the noise and the classes (the run's own)")
    sub.add_argument(
        "--label",
        metavar="CLASS",
        help="a class's name or number, for all of them; needs a network that is told classes",
    )
    sub.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        metavar="FILE",
        help=".png for a picture, .npz for arrays (samples.png)",
    )
    add_set(
        sub,
        "change how they are drawn, like evaluate.solver=heun, or say where the data lie now, like dataset.path=elsewhere",
    )
    sub = add(runs.evaluate, "evaluate", "Evaluate finished runs at every NFE; what is known is not computed again.")
    sub.add_argument("runs", metavar="RUN", nargs="+", help="a run's name or directory")
    sub.add_argument(
        "--sweep",
        nargs="+",
        metavar="PATH=VALUES",
        help="compare ways of sampling, like solver=euler,heun time_grid=uniform,shifted",
    )
    add_set(sub, "change how they are judged, like evaluate.solver=heun or evaluate.nfe=[8,64]")
    sub = add(
        runs.reflow,
        "reflow",
        "Straighten a finished run's flow in rounds, each trained on the pairs of the one before.",
    )
    sub.add_argument(
        "runs", metavar="RUN", nargs="+", help="a run's name or directory; several differ in their seeds alone"
    )
    sub.add_argument(
        "--rounds", type=_positive, default=1, metavar="N", help="how many (1); the second gives the 3-rectified flow"
    )
    sub.add_argument("--distil", action="store_true", help="distil the last round to one step")
    add_set(
        sub,
        "change the rounds, like train.steps=200 or reflow.number=100000, or how all are judged, like evaluate.nfe=[1,8]",
    )
    sub = add(runs.lineage, "lineage", "Show what a run was made from: data, flows and pairs, with what each cost.")
    sub.add_argument("run", metavar="RUN", help="a run's name or directory")
    sub.add_argument("--out", type=Path, metavar="FILE", help="a picture of it, .png")
    add_set(sub, "look at evaluations of another protocol, like evaluate.solver=heun")
    sub = add(studies.ablate, "ablate", "Train and compare the arms of a study; the same command continues it.")
    add_study(sub)
    add_sharing(sub)
    sub = add(
        studies.tune, "tune", "Search for better settings, then compare the best with the scale's own on other seeds."
    )
    add_study(sub)
    add_sharing(sub)
    sub.add_argument(
        "--trials", type=_positive, metavar="N", help="trials of the search, instead of the file's; more continue it"
    )
    add_study(add(studies.table, "table", "Make a study's table again from the runs on disk, without training."))
    about = "Put the table of a finished study or search among the committed ones, and renew studies/README.md; nothing is trained."
    sub = add(studies.publish, "publish", about)
    sub.add_argument(
        "study",
        metavar="STUDY",
        nargs="?",
        help="a study or search as for ablate and tune; without one, studies/README.md alone",
    )
    sub.add_argument("--scale", default="digits", help="digits, fashion, cifar10, ...: a name in studies/scales.py")
    sub.set_defaults(changes=[], seeds=None, trials=None)
    sub = add(pages.ui, "ui", "Open the MLflow pages on 127.0.0.1.")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    sub.add_argument("--port", type=int, default=5000)
    about_host = "answer under this address too, as behind a tunnel; repeatable"
    sub.add_argument("--allow-host", action="append", default=[], metavar="NAME:PORT", help=about_host)
    return parser


def _positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of 1 or more.")
    return int(text)


def _load_plugins(options: argparse.Namespace) -> None:
    if options.plugin:
        from harness.core.registry import load_plugins

        load_plugins(options.plugin)
