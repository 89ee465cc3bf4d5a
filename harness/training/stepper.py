"""One optimizer step after another, from stored batches to updated weights."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from harness.core.errors import ConfigError
from harness.core.rng import Streams, seed_layers, stream_seed
from harness.core.signals import Note, Say
from harness.flow.objective import Task
from harness.training.batches import StoredBatch, batches
from harness.training.captured import Captured, Input
from harness.training.config import TrainConfig
from harness.training.diagnostics import Taken
from harness.training.distributed import Ranks
from harness.training.hardware import autocast, compiled, recomputing
from harness.training.rounded import Rounded
from harness.training.state import State


class Stepper:
    """Takes the steps of a training; each draws from its own random streams.

    `ConfigError` if the batch does not divide among the micro-batches of all ranks.
    """

    def __init__(self, config: TrainConfig, seed: int, state: State, ranks: Ranks, say: Say, note: Note):
        self.config = config
        self.seed = seed
        self.state = state
        self.ranks = ranks
        self.say = say
        self.note = note
        self.chosen = config.resolved()
        self.device = self.chosen["device"]
        self.micro_batches = ranks.number * config.accumulate
        """Micro-batches per step, over all ranks."""
        if config.batch_size % self.micro_batches:
            reason = f"{config.batch_size} samples do not divide among {self.micro_batches} micro-batches"
            raise ConfigError("train.batch_size", f"{reason}. Choose a multiple.")
        self.each = torch.tensor(1 / config.accumulate, device=self.device)
        """Weight of the gradient of a micro-batch."""
        self.streams = Streams(seed, device=self.device)
        self.weights = list(state.network.parameters())
        self.rounded = self._rounded()
        network = self.rounded.network if self.rounded else state.network
        self.network = recomputing(network) if config.recompute else network
        """The network that the steps call."""
        self.aim = state.objective.aim
        self.measure = state.objective.measure
        if self.chosen["compile"] == "default" and ranks.number == 1:  # the loss with the network
            torch.compiler.reset()  # the compiler would count the arms before it as recompilations, and give up
            self.aim = torch.compile(self.aim, dynamic=False)
            self.measure = torch.compile(self.measure, dynamic=False)
        else:
            self.network = ranks.wrap(compiled(self.network, self.chosen["compile"]))
        self.captured = Captured(self, config.graph == "on")

    def _rounded(self) -> Rounded | None:
        """Return the network with rounded weights; None in another precision, or if autocast has to round them."""
        if self.chosen["precision"] != "bf16" or self.ranks.number > 1:  # ranks average gradients in float32
            return None
        state = self.state
        rounded = Rounded(state.network)
        given = [torch.ones(2, *state.data.shape, device=self.device), torch.full((2,), 0.5, device=self.device)]
        if state.objective.formulation.conditional:
            given.append(torch.zeros(2, dtype=torch.long, device=self.device))
        return rounded if rounded.agrees(state.network, *given) else None

    @property
    def ahead(self) -> bool:
        """Whether a thread draws each task ahead of its step, because the GPU would wait for a component."""
        return self.device == "cuda" and any(part.waits for part in self.state.objective.formulation.drawing)

    def inputs(self, start: int) -> Generator[Input, None, None]:
        """Return the stored batches of the steps from `start` on, or the tasks if they are drawn ahead."""
        config = self.config
        fetched = batches(self.state.data, config.batch_size, self.seed, start, config.steps, self.device)
        if not self.ahead:
            return fetched
        beside = torch.cuda.Stream() if self.device == "cuda" else None
        return in_a_thread(self._drawn(fetched, start, beside))

    def begin(self, step: int) -> None:
        """Prepare for steps from `step` on: at the start, and once a checkpoint is loaded."""
        self.state.network.train()
        self.network.train()  # with rounded weights, another one
        self.captured.begin(step)

    def __call__(self, step: int, rate: float, given: Input) -> float:
        """Take a step with this learning rate; return the seconds that it took to pair data and noise."""
        own = [self.ranks.rank] if self.ranks.rank else []
        seed_layers(stream_seed(self.seed, "layers", step, *own), self.device)
        self.streams.begin(step)
        self.captured.set_rate(rate)
        taken = self.captured(step, given)
        self.state.averages.update(step + 1)
        self.state.meter.add(taken)
        return taken.coupling_seconds

    def take(self, step: int, given: Input) -> Taken:
        """Change the weights by the gradient of a stored batch, or of a task; the random streams are those of the step.

        From step `MEMORY` on, all steps call the same kernels, so a CUDA graph can repeat them.
        """
        state = self.state
        task = given if isinstance(given, Task) else self.draw(given, self.streams)
        state.optimizer.zero_grad()
        sum_of_losses, samples = self.backward(task)
        loss = self.ranks.sum(sum_of_losses) / self.micro_batches
        norm = nn.utils.clip_grad_norm_(self.weights, state.meter.clip_norm)
        bad = state.guard(loss, norm, step)
        state.optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused optimizer skips the step if this is 1
        state.optimizer.step()
        state.averages.put_back_buffers(bad)
        return Taken((loss, norm, task.transport_cost, bad), samples, task.coupling_seconds)

    def draw(self, stored: StoredBatch, streams: Streams) -> Task:
        """Draw the task of a step from its stored batch."""
        data = self.state.data
        samples = data.augment(stored.samples, streams("augment")) if data.augment else stored.samples
        return self.state.objective.task(data.encode(samples), streams, stored.classes, aim=self.aim)

    def backward(self, task: Task) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Add up the gradient of this rank's micro-batches; return the sum of their losses, and their errors and t."""
        losses = list[Tensor]()
        samples = list[tuple[Tensor, Tensor]]()
        accumulate = self.config.accumulate
        if self.rounded:
            self.rounded.round()
        for i in range(accumulate):
            micro_batch = task.share(self.ranks.rank * accumulate + i, self.micro_batches)
            with nullcontext() if i == accumulate - 1 else self.ranks.apart(self.network):
                with autocast(self.chosen):
                    measured = self.measure(self.network, micro_batch)
                measured.loss.backward(self.each)
            if self.rounded:
                self.rounded.move_gradients()
            losses.append(measured.loss.detach())
            samples.append((measured.errors, micro_batch.t))
        return sum(losses[1:], losses[0]), samples

    def _drawn(self, fetched: Iterator[StoredBatch], start: int, beside: torch.cuda.Stream | None) -> Iterator[Task]:
        """Yield the tasks of the steps, drawn in the CUDA stream `beside` if there is one."""
        streams = Streams(self.seed, device=self.device)
        if beside:
            beside.wait_stream(torch.cuda.current_stream())
        for step in range(start, self.config.steps):
            streams.begin(step)
            with torch.cuda.stream(beside):  # does nothing without a GPU
                task = self.draw(next(fetched), streams)
            if beside:
                beside.synchronize()
                for value in task:
                    if isinstance(value, Tensor):  # its memory stays until the step that reads it has ended
                        value.record_stream(torch.cuda.current_stream())
            yield task


def in_a_thread(tasks: Iterator[Task]) -> Generator[Task, None, None]:
    """Yield the tasks; a thread, on the same GPU, draws each one while the one before it is in use."""
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def begin(threads: int) -> None:
        torch.set_num_threads(threads)
        if gpu is not None:
            torch.cuda.set_device(gpu)

    with ThreadPoolExecutor(1, initializer=begin, initargs=(torch.get_num_threads(),)) as pool:
        waiting = pool.submit(next, tasks, None)
        while (task := waiting.result()) is not None:
            waiting = pool.submit(next, tasks, None)
            yield task
