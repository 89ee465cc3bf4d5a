"""Judge a run's samples and its flow; each value is written to the run directory as soon as it is known."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from harness.core.config import override
from harness.core.drawing import spared
from harness.core.errors import Diverged, NoValue, Stopped
from harness.core.files import complete_lines, read_lines, write_atomic
from harness.core.signals import Stop
from harness.data.base import load, spaced
from harness.data.pictures import SHOWN, draw
from harness.evaluation.flow_metrics import SMALL_SET, Flow
from harness.evaluation.judge import Judge, SampleBatch, ShowProgress, unshown
from harness.evaluation.kept import KeptRows, Rows, first_of
from harness.evaluation.metric import Estimate
from harness.evaluation.protocol import Protocol
from harness.flow.sampling import Generated, NetworkField, Trained
from harness.runs.config import RunConfig
from harness.runs.contents import Look
from harness.runs.folder import Run
from harness.runs.sample import paths, samples
from harness.training.hardware import matmul_precision
from harness.training.inference import plain


def judge_of(config: RunConfig, show_progress: ShowProgress = unshown, stop: Stop = lambda: False) -> Judge:
    """Return the judge of a configuration, with its metrics, data and device."""
    with matmul_precision("fp32"):
        return Judge(config.evaluate, load(config.dataset), config.train.resolved_device(), show_progress, stop)


def evaluate(run: Run, trained: Trained, judge: Judge, stop: Stop) -> None:
    """Judge the run at every NFE without values, and its flow; values are written as soon as they are known.

    Raises `NoValue` at the end if a value is missing; the other values are kept.
    """
    torch.set_num_threads(run.config.train.threads)
    with run.lock(), threadpool_limits(run.config.train.threads), matmul_precision("fp32"):
        for nfe in run.missing(judge.protocol):
            _evaluate_at(run, trained, judge, nfe, stop)
        _evaluate_flow(run, trained, judge.protocol)
    require_values(run, judge.protocol)


def require_values(run: Run, protocol: Protocol) -> None:
    """Raise `NoValue` if a metric of the run's configuration failed."""
    if error := run.failure(protocol):
        raise error.told(f"{error} (Remove {run.evaluation_file(protocol)} to try again.)")


def _evaluate_at(run: Run, trained: Trained, judge: Judge, nfe: int, stop: Stop) -> None:
    """Judge the samples at one NFE; continues an interrupted evaluation.

    If this NFE has more samples than `num_samples`, the first `num_samples` are also judged separately.
    """
    config = run.config.evaluate
    number = config.samples_at(nfe)
    place = run.kept_rows(judge.protocol, nfe)
    started = time.perf_counter()
    kept = KeptRows(place)
    earlier = kept.batches * config.batch_size
    batches = samples(run, trained, nfe, number, first=kept.batches)
    try:
        found, rows = judge.estimates(_timed(batches, stop), kept, SHOWN[judge.data.kind])
        precise = found if number > config.num_samples else {}
        found = judge.scores(first_of(rows, config.num_samples)) if precise else found
    except NoValue as error:
        run.note_failure(judge.protocol, str(nfe), error)
        return kept.clear()
    place = run.folder / "samples" / f"{judge.protocol.digest}-nfe-{nfe:04d}.png"
    with spared():
        draw(judge.data, rows["shown"][: SHOWN[judge.data.kind]], place)
    seconds = time.perf_counter() - started + rows["seconds"][:earlier].sum().item()
    note(run, judge.protocol, nfe, rows, seconds, found, precise)
    kept.clear()


def note(
    run: Run, protocol: Protocol, nfe: int, rows: Rows, seconds: float, found: Mapping[str, Estimate],
    precise: Mapping[str, Estimate] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Write the estimates `found` from samples at an NFE, with the `seconds` that sampling and judging took.

    If `precise` is given, it is from all `rows`, and `found` is from the first of them.
    """
    known = run.evaluation(protocol)
    text = str(nfe)
    calls = rows["calls"].double()
    for metric, estimate in found.items():
        known["values"].setdefault(metric, {})[text] = estimate.value
        if estimate.interval:
            known["intervals"].setdefault(metric, {})[text] = estimate.interval
    for metric, estimate in precise.items():
        interval = {"interval": estimate.interval} if estimate.interval else {}
        more = {"samples": len(calls), "value": estimate.value, **interval}
        known["precise"].setdefault(metric, {})[text] = more
    known["seconds"][text] = seconds
    known["sampling_seconds"][text] = rows["seconds"].sum().item()
    known["time"][text] = time.time()
    known["calls"][text] = {"mean": calls.mean().item(), "sd": calls.std(correction=0).item()}
    run.write_evaluation(protocol, known)


def evaluate_numbers(run: Run, trained: Trained, judge: Judge, numbers: Sequence[int], stop: Stop) -> None:
    """Judge the run by the first n samples, for each n in `numbers`, at the only NFE of its configuration.

    The samples are drawn once. The values of each n are written under the protocol of an evaluation with n samples, and
    equal its values if n is a multiple of the batch size. Failures are written too.
    """
    runs = [Run(override(run.config, {"evaluate.num_samples": number}), run.folder) for number in sorted(numbers)]
    left = [(one, protocol) for one in runs if not one.settled(protocol := one.config.protocol())]
    if not left:
        return
    most, protocol = left[-1]
    (nfe,) = most.config.evaluate.nfe
    torch.set_num_threads(run.config.train.threads)
    with run.lock(), threadpool_limits(run.config.train.threads), matmul_precision("fp32"):
        started = time.perf_counter()
        kept = KeptRows(most.kept_rows(protocol, nfe))
        earlier = kept.batches * most.config.evaluate.batch_size
        batches = samples(most, trained, nfe, most.config.evaluate.num_samples, first=kept.batches)
        try:
            rows = judge.read(_timed(batches, stop), kept)
        except NoValue as error:
            for one, protocol in left:
                one.note_failure(protocol, str(nfe), error)
        else:
            drawing = time.perf_counter() - started + rows["seconds"][:earlier].sum().item()
            for one, protocol in left:
                _note_first(one, protocol, judge, rows, drawing)
        kept.clear()


def _note_first(run: Run, protocol: Protocol, judge: Judge, rows: Rows, drawing: float) -> None:
    """Score the configuration's number of samples, from the first; drawing all `rows` took `drawing` seconds."""
    (nfe,) = run.config.evaluate.nfe
    first = first_of(rows, run.config.evaluate.num_samples)
    started = time.perf_counter()
    try:
        found = judge.scores(first)
    except NoValue as error:
        return run.note_failure(protocol, str(nfe), error)
    share = len(first["read"]) / len(rows["read"])
    note(run, protocol, nfe, first, share * drawing + time.perf_counter() - started, found)


def _evaluate_flow(run: Run, trained: Trained, protocol: Protocol) -> None:
    """Measure the flow metrics without values."""
    if not (missing := run.flow_missing(protocol)):
        return

    alone = trained._replace(network=plain(trained.network))

    def field(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return NetworkField(alone, y)(x, t)

    path = functools.cache(functools.partial(paths, run, trained))
    variance = run.config.noise.variance(trained.noise_state)
    real = functools.cache(functools.partial(_real, run))
    held_out = functools.partial(_held_out, run)
    flow = Flow(path, field, run.config, variance, real, held_out, run.data.encode, run.config.seed)
    for metric in missing:
        try:
            with torch.no_grad():
                found = metric.estimate(flow)
            if not math.isfinite(found.value):
                raise Diverged(f"{metric.name} is {found.value}.")
        except NoValue as error:
            run.note_failure(protocol, metric.name, error)
            continue
        known = run.evaluation(protocol)
        text = str(metric.nfe)
        known["values"].setdefault(metric.name, {})[text] = found.value
        if found.interval:
            known["intervals"].setdefault(metric.name, {})[text] = found.interval
        known["time"].setdefault(text, time.time())
        run.write_evaluation(protocol, known)


def _real(run: Run) -> tuple[Tensor, Tensor | None]:
    """Return at most `SMALL_SET` encoded training samples on the device, and their classes if the network gets any."""
    data = run.data
    device = run.config.train.resolved_device()
    rows = spaced(SMALL_SET, len(data.train))
    classes = data.classes[rows].to(device) if run.config.conditional and data.classes is not None else None
    return data.encode(data.train[rows]).to(device), classes


def _held_out(run: Run, number: int) -> tuple[Tensor, Tensor | None]:
    """Stored held-out samples on the device, at most `number`, and their classes where the network is told some."""
    data = run.data
    device = run.config.train.resolved_device()
    rows = spaced(number, len(data.held_out))
    classes = data.held_out_classes if run.config.conditional else None
    return data.held_out[rows].to(device), None if classes is None else classes[rows].to(device)


def _timed(batches: Iterable[Generated], stop: Stop) -> Iterator[SampleBatch]:
    """Yield the batches for a judge, with the seconds that each took."""
    started = time.perf_counter()
    for x, y, calls, _ in batches:
        if x.is_cuda:
            torch.cuda.current_stream().synchronize()
        if stop():
            raise Stopped("stopped while evaluating")
        yield SampleBatch(x, y, calls, time.perf_counter() - started)
        started = time.perf_counter()


def known_rungs(run: Run, protocol: Protocol, nfe: int) -> dict[int, dict[str, float]]:
    """Return {step: {metric: value}} of the values that a search measured during training, under a protocol."""
    lines = read_lines(run.folder / "rungs.jsonl", Look)
    return {line["step"]: line["values"] for line in lines if (line["protocol"], line["nfe"]) == (protocol.digest, nfe)}


def judge_rung(run: Run, trained: Trained, step: int, judge: Judge, nfe: int) -> dict[str, float]:
    """Return {metric: value} of the network at a step, measured only once; `Diverged` if samples are not finite."""
    if (known := known_rungs(run, judge.protocol, nfe).get(step)) is not None:
        return known
    batches = samples(run, trained, nfe, run.config.evaluate.num_samples)
    with matmul_precision("fp32"):
        values = judge(SampleBatch(batch.x, batch.y) for batch in batches)
    path = run.folder / "rungs.jsonl"
    about = {"step": step, "time": time.time(), "protocol": judge.protocol.digest, "nfe": nfe}
    line = json.dumps({**about, "values": values}) + "\n"
    write_atomic(path, complete_lines(path) + line.encode())
    return values
