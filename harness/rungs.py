"""What a run's averaged network scores before its end, kept in the run directory: rungs.jsonl, a line a look."""

from __future__ import annotations

import json
import time

from harness.evaluation.judge import Batch, Judge
from harness.evaluation.protocol import Protocol
from harness.files import drop_torn_line, read_lines
from harness.pipeline import Trained, samples
from harness.runs import Run


def known_rungs(run: Run, protocol: Protocol, nfe: int) -> dict[int, dict[str, float]]:
    """{step: {metric: value}} of the looks taken under a protocol."""
    lines = read_lines(run.folder / "rungs.jsonl")
    return {line["step"]: line["values"] for line in lines if (line["protocol"], line["nfe"]) == (protocol.digest, nfe)}


def judge_rung(run: Run, trained: Trained, step: int, judge: Judge, nfe: int) -> dict[str, float]:
    """{metric: value} of the network at a step, measured unless it is known; `Diverged` when samples are not finite."""
    if (known := known_rungs(run, judge.protocol, nfe).get(step)) is not None:
        return known
    values = judge(Batch(batch.x, batch.y) for batch in samples(run, trained, nfe, run.config.evaluate.num_samples))
    drop_torn_line(run.folder / "rungs.jsonl")
    with open(run.folder / "rungs.jsonl", "a") as file:
        line = {"step": step, "time": time.time(), "protocol": judge.protocol.digest, "nfe": nfe, "values": values}
        file.write(json.dumps(line) + "\n")
    return values
