"""`harness train`: one run; the same command continues it. Under torchrun, its processes train it together."""

from __future__ import annotations

import argparse

from harness.ablation.design.study import load_scale
from harness.cli.shared import following
from harness.core.config import override, parse_assignments
from harness.core.signals import StopSignal
from harness.data.base import load
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.room import require_room
from harness.runs.train import train
from harness.runs.validate import check, refuse_guided_twice, refuse_idle, refuse_unreached
from harness.training.advice import cut_short, warnings
from harness.training.distributed import joined


def run(options: argparse.Namespace) -> None:
    """Refuse what cannot work, then train; the first rank alone shows it."""
    config = _asked(options)
    data = load(config.dataset)
    run = Run.of(config)
    with joined() as ranks:
        if not ranks.first:
            return train(run, lambda text: None, StopSignal(), ranks)
        with following(run, config.protocol(), "train", evaluated=False) as say:
            for line in (
                *data.notes,
                *(f"advice: {line}" for line in [*cut_short(config.train), *warnings(config.train, data, config)]),
            ):
                say(line)
            train(run, say, StopSignal(), ranks)
    print(f"trained {run.name}: {run.folder}")


def _asked(options: argparse.Namespace) -> RunConfig:
    """The scale with the changes; `UserError` where they do nothing or cannot work."""
    changes = parse_assignments(options.changes)
    config = override(load_scale(options.scale), changes)
    refuse_idle(changes, [config])
    refuse_guided_twice(changes, config)
    refuse_unreached(changes, config)
    check(config)
    require_room(config)
    return config
