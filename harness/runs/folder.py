"""The run directory: configuration, progress and values of one run. Optuna and MLflow only index it.

    results/local/runs/<training digest>-s<seed>/
        config.json  environment.json  metrics.jsonl  checkpoints/  samples/
        evaluations/<protocol digest>.json  diverged.json  pruned.json  owner.json

The digest covers everything that training depends on and nothing else: no run is trained twice, and a change of
`evaluate` retrains nothing. If a run learns the pairs of another run (`reflow`), its configuration names this parent.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from harness.core.checkpoint import checkpoints, read_checkpoint, step_of
from harness.core.config import to_dict
from harness.core.errors import ConfigError, Diverged, NoValue, UserError
from harness.core.files import (
    last_line,
    locked,
    read_json,
    read_json_if_there,
    read_lines,
    results_folder,
    runs_folder,
    write_json,
)
from harness.core.provenance import commit
from harness.core.signals import Say
from harness.data.base import Data, load
from harness.evaluation.flow_metrics import FlowMetric
from harness.evaluation.protocol import Protocol
from harness.runs import lacking
from harness.runs.config import RunConfig
from harness.runs.contents import EVALUATED, TRAINED, WRITTEN_AGAIN, Environment, Evaluation, Line, Reason
from harness.runs.identity import changed, pairs_digest, require_named, training_digest
from harness.runs.index import index_of
from harness.runs.numbers import Judged, Trained
from harness.runs.pairs import PairSet

_NAME = re.compile(r"[0-9a-f]{12}-s\d+")


@dataclass(frozen=True)
class Run:
    """A run directory with its configuration."""

    config: RunConfig
    folder: Path

    @classmethod
    def of(cls, config: RunConfig, training: str | None = None) -> Self:
        """Return the run of a configuration, without writing anything; `training` is its digest if it is known."""
        return cls(config, runs_folder() / f"{training or training_digest(config)}-s{config.seed}")

    @classmethod
    def find(cls, name: str) -> Self:
        """Return an existing run, by its name or the path of its directory, with the configuration in config.json."""
        folder = runs_folder() / name if _NAME.fullmatch(name) else Path(name).resolve()
        place = folder / "config.json"
        if not place.is_file():
            near = difflib.get_close_matches(name, (p.parent.name for p in runs_folder().glob("*/config.json")), n=1)
            advice = f"Did you mean '{near[0]}'?" if near else "`harness runs` lists them."
            raise UserError(f"{name}: no such run. The runs are the folders in {runs_folder()}. {advice}")
        try:
            return cls(_config(place), folder)
        except ConfigError as error:
            plugins = ", ".join(cls._environment(folder).get("sources", {}))
            advice = f"Pass the --plugin that defines {plugins}." if plugins else WRITTEN_AGAIN
            raise UserError(f"{place}: {error} {advice}") from None

    @classmethod
    def open(cls, name: str, changes: Mapping[str, Any] | None = None) -> Self:
        """`find`, then `opened`."""
        return cls.find(name).opened(changes or {})

    def opened(self, changes: Mapping[str, Any]) -> Self:
        """Return the run with changes of `evaluate` and of settings that its name does not cover.

        `UserError` unless the folder's name follows from its content.
        """
        run = dataclasses.replace(self, config=changed(self.config, changes))
        require_named(run.config, run.folder, run.environment, "train.device" in changes)
        return run

    def require_home(self) -> None:
        """Raise `UserError` unless the folder is where `Run.of` finds it by its configuration, as later rounds do."""
        home = Run.of(self.config).folder
        if home.resolve() != self.folder.resolve():
            reason = f"must be at {home}, where rounds and sweeps look for it"
            raise UserError(
                f"{self.folder}: {reason}. Move it there, or set train.device to the device that it was trained on."
            )

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def data(self) -> Data:
        """The data to train on, read once per process."""
        return load(self.config.dataset)

    @property
    def classes(self) -> Tensor | None:
        """Classes of the training samples, int64 [N]; None if the network gets no classes."""
        return self.data.classes if self.config.conditional else None

    def lock(self, wait: bool = True) -> AbstractContextManager[bool]:
        """Return the lock of the only process that may write here."""
        return locked(self.folder / "lock", wait)

    @property
    def steps_done(self) -> int:
        """Last step in metrics.jsonl."""
        line = last_line(self.folder / "metrics.jsonl", Line)
        return line["step"] if line else 0

    def metrics(self, start: int = 0) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, without the first `start`."""
        return read_lines(self.folder / "metrics.jsonl", Line, start)

    def evaluation(self, protocol: Protocol) -> dict[str, Any]:
        """Return the results under a protocol: values {metric: {NFE as text: value}} and intervals; `precise` ones from
        more samples; by NFE: seconds in total and of sampling, (Unix) time, network calls per sample (mean and sd);
        failures by NFE or by flow metric (`NoValue.note`); commits."""
        path = self.evaluation_file(protocol)
        by_nfe: dict[str, Any] = {
            name: {} for name in ("values", "intervals", "precise", "seconds", "sampling_seconds", "time", "calls")
        }
        known = {"run": self.name, "protocol": protocol.plain, **by_nfe, "failures": {}, "commits": []}
        known |= read_json_if_there(path, Evaluation, EVALUATED)
        if unknown := {nfe for values in known["values"].values() for nfe in values} - known["time"].keys():
            raise UserError(f"{path}: cannot be read (its entry time.{min(unknown)} is missing). {EVALUATED}")
        if known["run"] != self.name or not protocol.is_that_of(known["protocol"]):
            raise UserError(f"{path}: belongs to another run or protocol. {EVALUATED}")
        return known

    def numbers(self, protocol: Protocol) -> Judged:
        """Return the numbers under a protocol."""
        return index_of(self.folder).judged(self, protocol)

    @property
    def trained(self) -> Trained:
        """The numbers of its training."""
        return index_of(self.folder).trained(self)

    def write_evaluation(self, protocol: Protocol, known: dict[str, Any]) -> None:
        """Write the results under a protocol, with the commit that measured them."""
        known["commits"] = sorted({*known["commits"], commit()})
        write_json(self.evaluation_file(protocol), known)

    def note_failure(self, protocol: Protocol, place: str, error: NoValue) -> None:
        """Write why an NFE or a flow metric (`place`) has no value; it is not measured again."""
        known = self.evaluation(protocol)
        self.write_evaluation(protocol, known | {"failures": {**known["failures"], place: error.note}})

    def evaluation_file(self, protocol: Protocol) -> Path:
        """Return the path of the results under a protocol."""
        return self.folder / "evaluations" / f"{protocol.digest}.json"

    def missing(self, protocol: Protocol) -> list[int]:
        """Return the NFEs at which a sample metric has no value under a protocol and has not failed."""
        return lacking.missing(self.config.evaluate, self.evaluation(protocol))

    def judged(self, protocol: Protocol) -> float:
        """Return the share of the evaluation under a protocol that is done; samples without metrics yet count."""
        if self.evaluated(protocol):
            return 1.0
        config = self.config.evaluate
        missing = self.missing(protocol)
        left = float(len(missing) + len(self.flow_missing(protocol)))
        if missing and (kept := checkpoints(self.kept_rows(protocol, missing[0]))):
            left -= min(1.0, step_of(kept[0]) * config.batch_size / config.samples_at(missing[0]))
        return 1 - left / (len(config.nfe) + len(config.flow_metrics))

    def kept_rows(self, protocol: Protocol, nfe: int) -> Path:
        """Return the folder in which an evaluation at one NFE keeps its samples until all metrics are known."""
        logits = "-logits" if any(metric.reads == "logits" for metric in self.config.evaluate.sample_metrics) else ""
        return self.folder / "evaluations" / f"{protocol.digest}-nfe-{nfe:04d}{logits}"

    def flow_missing(self, protocol: Protocol) -> list[FlowMetric]:
        """Return the flow metrics that have no value under a protocol and have not failed."""
        return lacking.flow_missing(self.config.evaluate, self.evaluation(protocol))

    def settled(self, protocol: Protocol) -> bool:
        """Whether nothing is left to measure under a protocol: each metric at each NFE has a value or has failed."""
        return self.numbers(protocol).settled

    def ended(self, protocol: Protocol) -> bool:
        """Whether a protocol gets no further values: training gave up, or nothing is left to measure."""
        return self.gave_up is not None or self.settled(protocol)

    def evaluated(self, protocol: Protocol) -> bool:
        """Whether every metric has a value at every NFE under a protocol."""
        return self.numbers(protocol).whole

    @property
    def environment(self) -> dict[str, Any]:
        """Commits that trained it, machine, number of parameters, mean weight, and the facts that its name covers
        (`facts_of`); empty before the run starts."""
        return self._environment(self.folder)

    @staticmethod
    def _environment(folder: Path) -> dict[str, Any]:
        return read_json_if_there(folder / "environment.json", Environment, WRITTEN_AGAIN)

    def describe(self, say: Say) -> None:
        """Write config.json if it is missing or damaged."""
        place = self.folder / "config.json"
        if not self._has_config:
            if place.exists():
                say(f"{place}: is damaged; it is written again.")
            write_json(place, to_dict(self.config))

    @property
    def _has_config(self) -> bool:
        """Whether config.json is readable; a metric or a solver of a plugin that is not loaded does not damage it."""
        try:
            _config(self.folder / "config.json")
        except UserError as error:
            return isinstance(error, ConfigError) and error.path.startswith("evaluate.")
        return True

    @property
    def described(self) -> bool:
        """Whether config.json is readable and environment.json exists."""
        return self._has_config and bool(self.environment)

    @property
    def parent(self) -> Run | None:
        """The run whose pairs this run learns; None if this run is trained on data."""
        return None if self.config.parent is None else Run.of(self.config.parent)

    @property
    def pairs(self) -> PairSet:
        """The pairs that this run learns; only for a run with a parent."""
        assert self.parent is not None
        folder = results_folder() / "local" / "pairs" / f"{pairs_digest(self.config)}-s{self.config.seed}"
        return PairSet(folder, self.config.reflow.number, self.data.shape, self.parent.config.conditional)

    @property
    def finished(self) -> bool:
        """Whether training has ended and its last checkpoint is intact."""
        return read_checkpoint(self.folder / "checkpoints", "cpu")[0] == self.config.train.steps

    def require_finished(self, step: int | None = None) -> None:
        """Raise `UserError` unless training has ended; `step` is the last intact checkpoint's, if it is known."""
        if not (self.finished if step is None else step == self.config.train.steps):
            done = self.steps_done if step is None else step
            steps = self.config.train.steps
            trained = f"is trained for {done} of {steps} steps" if done < steps else "its last checkpoint is missing"
            raise UserError(f"{self.name}: {trained}. Run `harness train` with its settings first.")

    @property
    def gave_up(self) -> NoValue | None:
        """Why its training or an earlier flow's gave up, or why its pairs cannot be made; None otherwise."""
        if (parent := self.parent) and (error := parent.gave_up):
            return error.told(f"its teacher {parent.name}: {error}")
        reason = read_json_if_there(f"{self.folder}/diverged.json", Reason, TRAINED).get("reason")
        return (self.pairs.failed if parent else None) or (Diverged(reason) if reason else None)

    def failure(self, protocol: Protocol) -> NoValue | None:
        """Return why some values under a protocol are missing and stay missing; None if none are."""
        if error := self.gave_up:
            return error
        places: dict[str, list[str]] = {}
        failed = self.numbers(protocol).failed
        for place, error in failed.items():
            places.setdefault(str(error), []).append(place)
        said = " ".join(
            f"at NFE {', '.join(nfes)}: {reason}" if nfes[0].isdigit() else reason for reason, nfes in places.items()
        )
        worst = sorted(failed.values(), key=lambda error: not isinstance(error, Diverged))
        return worst[0].told(said) if worst else None

    @property
    def pruned(self) -> str | None:
        """Why a search pruned it; None otherwise. Further training removes the mark."""
        return read_json_if_there(self.folder / "pruned.json", Reason, TRAINED).get("reason")


def _config(place: Path) -> RunConfig:
    """Return the configuration in a config.json; `UserError` if it is missing, damaged or invalid."""
    return RunConfig.parse(read_json(place, dict[str, Any], WRITTEN_AGAIN))
