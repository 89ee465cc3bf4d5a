"""`harness reproduce`: trains a finished run again from its record, and says what differs."""

from __future__ import annotations

import argparse

from harness.cli.shared import following, opened
from harness.core.config import parse_assignments
from harness.core.errors import ConfigError
from harness.core.signals import StopSignal
from harness.evaluation.extractors import weights_here
from harness.runs.reproduce import again, reproduce
from harness.runs.room import require_room


def run(options: argparse.Namespace) -> None:
    """Train the reproduction as far as it is not done yet; print each difference, or that there is none."""
    given = opened(options.run, options.changes)
    if idle := [path for path in parse_assignments(options.changes) if path.partition(".")[0] == "evaluate"]:
        raise ConfigError(idle[0], "no training depends on it. Leave it out.")
    given.require_finished()
    other = again(given)
    if other.finished:
        print(f"{other.folder}: trained before; it is only compared. Remove it to train again.")
    else:
        require_room(other.config)
    protocol = given.config.protocol(weights_here(given.config.evaluate.extractor))
    with following(other, protocol, "reproduce", False, f"{given.name} again", {}) as say:
        compared = reproduce(given, say, StopSignal())
    steps = given.config.train.steps
    if not compared.differences:
        print(f"{given.name}: the same after {steps} steps, bit for bit: {compared.tensors} tensors and all losses")
    for line in compared.differences:
        print(f"{given.name}: {line}")
