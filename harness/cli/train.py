"""`harness train`: trains one run; the same command continues it. Under torchrun, all processes train the same run."""

from __future__ import annotations

import argparse
import shlex

from harness.ablation.design.configured import varied
from harness.ablation.design.study import load_scale
from harness.cli.shared import following
from harness.core.config import override, parse_assignments
from harness.core.signals import StopSignal
from harness.data.base import load
from harness.evaluation.extractors import weights_here
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.room import require_room
from harness.runs.threads import threaded
from harness.runs.train import train
from harness.runs.validate import check, refuse_guided_twice, refuse_idle, refuse_unreached
from harness.training.advice import cut_short, warnings
from harness.training.distributed import joined

LATER = "the weights of {} are not on this machine: training does not need them, `harness evaluate` does"


def run(options: argparse.Namespace) -> None:
    """Refuse what cannot work, then train; only the first rank prints."""
    config, threads = _asked(options)
    data = load(config.dataset)
    weights = weights_here(config.evaluate.extractor)
    run = Run.of(config)
    with joined() as ranks:
        if not ranks.first:
            return train(run, lambda text: None, StopSignal(), ranks)
        changes = varied(load_scale(options.scale), parse_assignments(options.changes))
        name = " ".join([options.scale, *(f"{path}={value}" for path, value in changes.items()), f"seed {config.seed}"])
        params = {"scale": options.scale, **changes}
        with following(run, config.protocol(weights), "train", False, name, params) as say:
            for line in (
                *filter(None, [threads, "" if weights else LATER.format(config.evaluate.extractor)]),
                *data.notes,
                *(f"advice: {line}" for line in [*cut_short(config.train), *warnings(config.train, data, config)]),
            ):
                say(line)
            train(run, say, StopSignal(), ranks)
    plugins = [word for path in options.plugin for word in ("--plugin", str(path))]
    command = shlex.join(["harness", "evaluate", run.name, *plugins])
    print(f"`{command}` evaluates the run, `harness sample` draws from it.")
    print(f"trained {run.name}: {run.folder}")


def _asked(options: argparse.Namespace) -> tuple[RunConfig, str]:
    """Return the scale with the changes, and a line on its threads; `UserError` for changes without effect or use.

    The extractor's weights may be missing: only evaluation needs them.
    """
    changes = parse_assignments(options.changes)
    config = override(load_scale(options.scale), changes)
    refuse_idle(changes, [config])
    refuse_guided_twice(changes, config)
    refuse_unreached(changes, config)
    config, threads = (config, "") if {"train", "train.threads"} & changes.keys() else threaded(config)
    check(config, weights_here(config.evaluate.extractor))
    require_room(config)
    return config, threads
