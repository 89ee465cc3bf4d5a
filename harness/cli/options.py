"""Options that several commands share."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from harness.cli.parser import Parser
from harness.cli.values import number_of_hours, settings_of, within
from harness.core.config import WORKERS

RUN = "a run: STUDY/ARM/SEED, its name or its directory; `harness runs` lists the runs"
SCALE = "the configuration to start from; `harness list scales` shows all"


def changes(sub: Parser, about: str, of: Callable[[Namespace], Mapping[str, Any]] | None = settings_of) -> None:
    """Declare `--set`; `of` returns the settings that it takes."""
    sub.settings = of
    about = f"{about}; repeatable"
    sub.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="changes", help=about)


def scale(sub: Parser) -> None:
    sub.add_argument("--scale", default="digits", help=SCALE)


def json(sub: Parser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON instead of tables")


def one_run(sub: Parser) -> None:
    sub.add_argument("run", metavar="RUN", help=RUN)


def study(sub: Parser, without_seeds: str, kind: str = "study") -> None:
    """Declare the options of a study, or of a search; `without_seeds` says what the command takes by default."""
    study = f"name of a {kind} (a file in studies/), or path of a {kind} file"
    sub.add_argument("study", metavar=kind.upper(), help=study)
    scale(sub)
    seeds = f"number of training seeds: all looks up to N (default: {without_seeds})"
    sub.add_argument("--seeds", type=int, metavar="N", help=seeds)
    changes(sub, "change every arm, like train.steps=200")
    sub.set_defaults(until=None)


def sharing(sub: Parser) -> None:
    until = "continue from look to look until every arm is decided or the last look is complete (default: one look)"
    sub.add_argument("--until", choices=["decided"], help=until)
    hours = "like --until decided, but stop after H hours, and start no look that would take longer (default: no limit)"
    sub.add_argument("--max-hours", type=number_of_hours, metavar="H", help=hours)
    side_by_side(sub)
    elsewhere(sub)


def engine(sub: Parser) -> None:
    """Declare the engine of trials, and options for it."""
    about = "what runs the trials: local (this machine), slurm, ray, or the name of a plugin's"
    sub.add_argument("--launcher", default="local", metavar="NAME", help=about)
    on = "options for the engine: --on='--partition=gpu --gres=gpu:1' for slurm, --on=num_gpus=0.5 for ray"
    sub.add_argument("--on", default=None, metavar="WORDS", help=on)


def elsewhere(sub: Parser) -> None:
    """Declare the options of trials that an engine runs on other machines."""
    engine(sub)
    jobs = "largest number of trials at a time (default: no limit); slurm counts each array of 1,000 trials by itself"
    sub.add_argument("--jobs", type=within(WORKERS), metavar="N", help=jobs)
    processes = "processes of one trial on one node, each with a GPU of its own, by torchrun (default: 1)"
    sub.add_argument("--processes", type=within(WORKERS), metavar="N", help=processes)
    store = "database of a search on several nodes, like postgresql+psycopg://me@host/name; HARNESS_STORE if not given"
    sub.add_argument("--store", default=None, metavar="ADDRESS", help=store)


def detach(sub: Parser) -> None:
    about = "end once the engine has the trials; they go on, and the same command finds them again"
    sub.add_argument("--detach", action="store_true", help=about)


HERE = {"launcher": "local", "on": None, "jobs": None, "processes": None, "store": None, "detach": False}
"""Values of the options of `elsewhere` for trials on this machine."""


def side_by_side(sub: Parser) -> None:
    workers(sub, "local processes that train side by side (default: the fastest number, measured)")
    per_gpu = "processes that share each GPU (default: the fastest number, measured)"
    sub.add_argument("--trials-per-gpu", type=within(WORKERS), metavar="N", help=per_gpu)
    sub.set_defaults(**HERE)


def workers(sub: Parser, about: str) -> None:
    sub.add_argument("--workers", type=within(WORKERS), metavar="N", help=about)
