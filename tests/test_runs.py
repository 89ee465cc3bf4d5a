import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness import registry, runs
from harness.config import override
from harness.data.base import load
from harness.errors import ConfigError, Diverged, Stopped, UserError
from harness.evaluation.protocol import Protocol
from harness.files import runs_folder
from harness.objective import Objective
from harness.registry import load_plugin
from harness.runs import Run, RunConfig, check, ensure, restore

PLUGIN = """
from dataclasses import dataclass
import torch
from harness.components.weightings import Weighting

@dataclass(frozen=True, kw_only=True)
class Mine(Weighting, name="mine"):
    def weight(self, t, interpolant):
        return torch.ones_like(t)
"""


def done(config: RunConfig) -> Run:
    return ensure(config, lambda _: None, lambda: False)


def fid(run: Run) -> dict[str, float]:
    return run.evaluation(Protocol.of(run.config.evaluate, load(run.config.dataset)))["values"]["fid"]


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_not_touched_again(tiny: RunConfig) -> None:
    run = done(tiny)
    before = stamps(run.folder)
    assert done(tiny) == run
    assert stamps(run.folder) == before
    assert [line["step"] for line in run.metrics()] == [2, 4, 6, 8, 10, 12]
    assert fid(run).keys() == {"1", "2"}
    assert len(list((run.folder / "samples").glob("*.png"))) == 3


def test_another_nfe_is_added_and_nothing_trained(tiny: RunConfig) -> None:
    run = done(tiny)
    trained, known = stamps(run.folder / "checkpoints"), fid(run)
    more = done(override(tiny, {"evaluate.nfe": [1, 2, 4]}))
    assert more.folder == run.folder
    assert stamps(run.folder / "checkpoints") == trained
    assert [line["step"] for line in run.metrics()] == [2, 4, 6, 8, 10, 12]
    added = fid(more)
    assert added.pop("4") > 0
    assert added == known


def test_another_protocol_is_another_file(tiny: RunConfig) -> None:
    one, other = done(tiny), done(override(tiny, {"evaluate.solver": "heun", "evaluate.nfe": [2]}))
    assert one.folder == other.folder
    assert len(list((one.folder / "evaluations").iterdir())) == 2
    assert fid(one)["2"] != fid(other)["2"]


@pytest.mark.parametrize(
    "change",
    [
        {"train.steps": 13},
        {"train.precision": "bf16"},
        {"train.threads": 2},
        {"weighting": "min_snr"},
        {"interpolant": "vp"},
        {"time_sampler": "power"},
        {"noise": "matched"},
        {"backbone.dropout": 0.1},
        {"objective.normalise_weight": False},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_training_depends_on_names_the_run(tiny: RunConfig, change: dict) -> None:
    assert Run.of(override(tiny, change)).name != Run.of(tiny).name


@pytest.mark.parametrize(
    "change",
    [
        {"evaluate.nfe": [4]},
        {"evaluate.num_samples": 100},
        {"train.log_every": 3},
        {"train.sample_every": 3},
        {"train.checkpoint_every": 5},
        {"train.precision": "fp32"},  # what auto means on a CPU
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_training_does_not_depend_on_leaves_the_name(tiny: RunConfig, change: dict) -> None:
    assert Run.of(override(tiny, change)).name == Run.of(tiny).name


def test_an_edited_plugin_names_another_run(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._MEMBERS, "weighting", dict(registry._MEMBERS["weighting"]))
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    load_plugin(path)
    config = override(tiny, {"weighting": "mine"})
    name = Run.of(config).name
    assert name not in (Run.of(tiny).name, path.write_text(PLUGIN + "# edited\n"))
    assert Run.of(config).name != name


def seen(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The initial weights of a run, then the data, the network's input and the times of each step."""
    out: list[Tensor] = []
    original = Objective.__call__

    def spy(self: Objective, network: nn.Module, x0: Tensor, seed: int, step: int) -> Tensor:
        def probe(x: Tensor, t: Tensor) -> Tensor:
            out.extend(v.clone() for v in (x0, x, t))
            return network(x, t)

        if not out:
            out.extend(p.detach().clone() for p in network.parameters())
        return original(self, probe, x0, seed, step)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", spy)
        runs.train(Run.of(config), lambda _: None, lambda: False)
    return out


def test_arms_share_weights_batches_noise_and_times(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    other = override(tiny, {"weighting": "data_end", "train.learning_rate": 1e-3})
    one, two, reseeded = (seen(config, monkeypatch) for config in (tiny, other, override(tiny, {"seed": 1})))
    assert len(one) == len(list(tiny.backbone.build((1, 8, 8)).parameters())) + 3 * tiny.train.steps
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, reseeded, strict=True) if a.ndim == 4 and a.any())
    weights = [torch.cat([p.flatten() for p in restore(Run.of(c)).network.parameters()]) for c in (tiny, other)]
    assert not torch.equal(*weights)


def test_a_stopped_run_continues_with_its_litter_removed(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    calls = itertools.count()
    with pytest.raises(Stopped):
        ensure(tiny, said.append, lambda: next(calls) == 7)
    run = Run.of(tiny)
    leftover = run.folder / "checkpoints" / ".000000009-0123.safetensors.4194999"  # no process has this number
    leftover.write_bytes(b"torn")
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    broken = ensure(tiny, said.append, lambda: False)
    assert not leftover.exists()
    assert said == [f"{run.name} continues from step 7 of 12."]
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "whole"))
    whole = done(tiny)
    assert [(line["step"], line["loss"]) for line in broken.metrics()] == [(line["step"], line["loss"]) for line in whole.metrics()]
    assert fid(broken) == fid(whole)


def test_an_evaluation_that_is_stopped_keeps_what_is_measured(tiny: RunConfig) -> None:
    calls = itertools.count()
    with pytest.raises(Stopped, match="evaluating"):
        ensure(tiny, lambda _: None, lambda: next(calls) == tiny.train.steps + 2)  # two batches at NFE 1, then one question
    run = Run.of(tiny)
    known = fid(run)
    assert known.keys() == {"1"}
    assert {"1": fid(done(tiny))["1"]} == known


def test_a_run_that_diverged_is_not_trained_again(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = override(tiny, {"train.learning_rate": 1e30, "train.clip_norm": None})
    with pytest.raises(Diverged, match="diverged"):
        done(config)
    run = Run.of(config)
    assert run.diverged
    monkeypatch.setattr(runs, "fit", lambda *_: pytest.fail("trained again"))
    with pytest.raises(Diverged, match=f"Remove {run.folder}"):
        done(config)


def test_an_existing_run_opens_by_name_and_by_path(tiny: RunConfig, tmp_path: Path) -> None:
    run = done(tiny)
    assert Run.open(run.name) == Run.open(str(run.folder)) == run


@pytest.mark.parametrize("name", ["nothing", "0123456789ab-s0", "../x", "0123456789ab-s0/../../x", "", "."])
def test_an_unknown_run_is_refused(tiny: RunConfig, name: str) -> None:
    outside = runs_folder().parent / "x"
    outside.mkdir(parents=True)
    (outside / "config.json").write_text(json.dumps({"dataset": "digits"}))
    with pytest.raises(UserError, match=r"no such run\. The runs are the folders in"):
        Run.open(name)


def test_an_unfinished_run_draws_nothing(tiny: RunConfig) -> None:
    calls = itertools.count()
    with pytest.raises(Stopped):
        ensure(tiny, lambda _: None, lambda: next(calls) == 5)
    with pytest.raises(UserError, match="trained for 5 of 12 steps"):
        restore(Run.of(tiny))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"backbone.multipliers": [1, 2, 2, 2, 2]}, "backbone.multipliers"),
        ({"evaluate.num_reference": 100_000}, "evaluate.num_reference"),
    ],
)
def test_what_training_would_trip_over_is_refused_before(tiny: RunConfig, changes: dict, path: str) -> None:
    check(tiny)
    with pytest.raises(ConfigError) as caught:
        check(override(tiny, changes))
    assert caught.value.path == path
    assert not runs_folder().exists()
