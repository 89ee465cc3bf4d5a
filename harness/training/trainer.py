"""The training loop: it resumes exactly, all arms share its draws, and no step waits for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from harness.components.averages import WIDTHS
from harness.core.checkpoint import Writer, read_checkpoint, set_aside
from harness.core.errors import Diverged, Stopped
from harness.core.rng import Streams
from harness.core.signals import Note, Say, Stop
from harness.data.base import Data, spaced
from harness.flow.objective import Objective
from harness.training.advice import remedy
from harness.training.batches import DataOrder, of_every_class
from harness.training.captured import Input
from harness.training.config import TrainConfig
from harness.training.diagnostics import SAMPLES, Guard, Meter, gradients_by_noise
from harness.training.distributed import ALONE, Ranks
from harness.training.ema import Averages
from harness.training.hardware import autocast, compiled, laid_out, matmul_precision, old_left_alone
from harness.training.state import State
from harness.training.stepper import Stepper

HELD_OUT = 512
"""Largest number of held-out samples on which training measures the held-out loss."""
LOWERED = 0.5
"""Factor that multiplies the learning rate at every divergence."""
LOWEST = 0.02
"""Share of the learning rate below which training gives up."""


@dataclass
class Callbacks:
    """Functions of a run that training calls."""

    log: Callable[[dict[str, float]], None]
    """Takes a line: step, time (Unix seconds) and the values measured since the last line. When training goes back to
    a step, the line has its `learning_rate_factor` instead of these values."""
    look: Callable[[nn.Module, int], dict[str, float]]
    """Takes the averaged network and the step; returns the values that it measured on them."""
    say: Say
    stop: Stop
    """Returns True when training should save and end now."""
    settle: Callable[[], None] = lambda: None
    """Writes logged lines to disk; called before each checkpoint."""
    note: Note = lambda name, value: None
    """Takes a fact about how the steps are taken, for the record."""


def fit(
    config: TrainConfig, seed: int, network: nn.Module, objective: Objective, data: Data, folder: Path,
    callbacks: Callbacks, ranks: Ranks = ALONE,
) -> Averages:  # fmt: skip
    """Train `network` in place and return its averages; continues from the newest checkpoint in `folder`.

    Raises `Diverged` if a loss or gradient is not finite or explodes (that step is skipped), `Stopped` once
    `callbacks.stop` returns True, and `ConfigError` if the batch does not divide among the ranks.
    """
    training = Training(config, seed, network, objective, data, folder, callbacks, ranks)
    with training.writer:
        start = training.resume()
        while True:
            try:
                with matmul_precision(training.chosen["precision"]), old_left_alone():
                    training.run(start)
                return training.state.averages
            except Diverged as error:
                if config.on_divergence == "stop":
                    raise
                start = training.lower(error)


class Training:
    """One training: its state, and its steps, reports and checkpoints."""

    def __init__(
        self, config: TrainConfig, seed: int, network: nn.Module, objective: Objective, data: Data, folder: Path,
        callbacks: Callbacks, ranks: Ranks,
    ):  # fmt: skip
        self.config = config
        self.seed = seed
        self.objective = objective
        self.data = data
        self.folder = folder
        self.callbacks = callbacks
        self.ranks = ranks
        self.chosen = config.resolved()
        self.device = self.chosen["device"]
        laid_out(network, data.shape, config.channels_last)
        averages = Averages(network, config.decays, WIDTHS if config.snapshot_every else (), config.ema_warmup)
        optimizer = config.optimizer.build(network.parameters())
        meter = Meter(objective.path.log_snr, config.clip_norm or math.inf, self.device)
        self.state = State(network, averages, optimizer, objective, data, meter, Guard(self.device))
        self.writer = Writer()
        self.stepper = Stepper(config, seed, self.state, ranks, callbacks.say, callbacks.note)
        self.shown = compiled(averages.network, self.chosen["compile"])

    def run(self, start: int) -> None:
        """Take the steps from `start` to the last."""
        self.stepper.begin(start)
        with closing(self.stepper.inputs(start)) as inputs:
            self.take_steps(start, inputs)

    def take_steps(self, start: int, inputs: Iterator[Input]) -> None:
        """Take the steps from `start` to the last on these inputs, with the reports and checkpoints between them."""
        config = self.config
        clock = time.perf_counter()
        logged = start
        coupling_seconds = 0.0
        for step in range(start, config.steps):
            if self.ranks.any(self.callbacks.stop()):
                self.save(step)
                self.writer.wait()
                raise Stopped(f"stopped at step {step}")
            coupling_seconds += self.stepper(step, self.rate(step), next(inputs))
            done = step + 1
            line = dict[str, float]()
            report = self.due(done, config.log_every)
            look = self.due(done, config.sample_every)
            if report or look:
                self.check(done)
            if report:
                took = time.perf_counter() - clock
                line = self.state.meter.fetch(self.ranks)
                line |= {"learning_rate": self.rate(step), "coupling_seconds": coupling_seconds / (done - logged)}
                line["samples_per_second"] = (done - logged) * config.batch_size / took
            if look:
                line |= self.look(done)
            if line and self.ranks.first:
                self.callbacks.log({"step": done, "time": time.time(), **line})
            if report:
                clock = time.perf_counter()
                logged = done
                coupling_seconds = 0.0
            if config.snapshot_every and done % config.snapshot_every == 0:
                self.snapshot(done)
            if self.due(done, config.checkpoint_every):
                self.check(done)
                self.save(done)

    def look(self, done: int) -> dict[str, float]:
        """Return the values that are measured rarely. The first rank measures them, and the others wait."""
        if not self.ranks.first:
            return {}
        state = self.state
        rows = DataOrder(len(self.data.train), SAMPLES, self.seed).indices(done)
        x0 = self.data.encode(self.data.train[rows].to(self.device))
        y = None if self.data.classes is None else self.data.classes[rows].to(self.device)
        line = gradients_by_noise(state.network, self.objective, x0, y, self.seed, done)
        if self.config.decays:
            line["ema_distance"] = state.averages.distance().item()
        if not self.objective.formulation.coupling.brings_data:
            line["held_out_loss"] = self.held_out_loss()
            self.keep_best(done, line["held_out_loss"])
        return line | self.callbacks.look(self.shown, done)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Return the loss of the averaged network, always on the same held-out samples, noise and times.

        No class is hidden from the network: as in sampling, and unlike in training.
        """
        held = self.data.held_out
        classes = self.data.held_out_classes
        rows = spaced(min(HELD_OUT, self.config.batch_size), len(held))
        if classes is not None:
            rows = of_every_class(classes, len(rows))
        x0 = self.data.encode(held[rows].to(self.device))
        y = None if classes is None else classes[rows].to(self.device)
        task = self.objective.task(x0, Streams(self.seed, -1, self.device), y, hide=False)
        with autocast(self.chosen):
            return self.objective.measure(self.shown, task).loss.item()

    def keep_best(self, done: int, value: float) -> None:
        """Save the weights if their held-out loss `value` is the lowest so far."""
        if value < self.state.lowest_held_out_loss:
            self.state.lowest_held_out_loss = value
            self.writer.write(self.folder / "best", done, self.state.weights(), keep=1)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.config.rate(step) * self.state.rate_factor

    def due(self, done: int, every: int) -> bool:
        """Whether an action with the interval `every` is due after `done` steps; every action is due after the last."""
        return done % every == 0 or done == self.config.steps

    def check(self, done: int) -> None:
        """Raise `Diverged` if a step was skipped as bad."""
        if self.state.meter.bad():
            what = f"training diverged: a loss or gradient was not finite, or exploded, by step {done}"
            raise Diverged(f"{what}. {remedy(self.config, self.data)}")

    def save(self, step: int) -> None:
        """Write a checkpoint of the state after `step` steps."""
        self.state.meter.sum_up()
        bins = self.state.meter.bins
        total = self.ranks.sum(bins)
        bins.copy_(total if self.ranks.first else torch.zeros_like(total))
        if self.ranks.first:
            self.callbacks.settle()
            self.writer.write(self.folder, step, self.state.tensors(), self.config.keep_checkpoints)

    def snapshot(self, done: int) -> None:
        """Write a snapshot of the averages that post-hoc EMA combines."""
        if self.ranks.first:
            self.writer.write(self.folder / "snapshots", done, self.state.averages.snapshot())

    def resume(self) -> int:
        """Load the newest intact checkpoint; return the number of its steps, 0 if there is none."""
        step, saved, damaged = read_checkpoint(self.folder, self.device, self.state.fault)
        self.ranks.wait()
        for path in damaged if self.ranks.first else ():
            self.callbacks.say(f"{path} {set_aside(path)} and was passed over.")
        if saved:
            self.state.load(saved)
        elif self.config.on_divergence != "stop":
            self.save(0)
        if damaged or 0 < step < self.config.steps:
            self.callbacks.say(f"continues from step {step} of {self.config.steps}.")
        if not self.ranks.first:
            self.state.meter.bins.zero_()
        return step

    def lower(self, error: Diverged) -> int:
        """Go back to the last checkpoint with a lower rate; return its step. Raise `error` if that rate is too low."""
        factor = self.state.rate_factor * LOWERED
        lowest = self.state.lowest_held_out_loss
        if factor < LOWEST:
            raise error
        self.writer.wait()
        self.ranks.wait()
        step, saved, _ = read_checkpoint(self.folder, self.device, self.state.fault)
        self.state.load(saved)
        self.state.meter.clear()  # a stop may have saved sums that contain the bad step
        self.state.rate_factor = factor
        self.state.lowest_held_out_loss = lowest  # the best weights stay, also those from after the checkpoint
        self.ranks.wait()
        if self.ranks.first:
            self.callbacks.log({"step": step, "time": time.time(), "learning_rate_factor": factor})
        self.save(step)
        self.callbacks.say(f"{error} Back to step {step}, with {factor:g} of the learning rate.")
        return step
