import itertools
import json
import math
import os
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typed import tensor

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.report import tables
from harness.core import registry
from harness.core.checkpoint import checkpoints, read_checkpoint, step_of
from harness.core.config import override
from harness.core.errors import ConfigError, Diverged, Stopped, Unsolvable, UserError
from harness.core.files import runs_folder
from harness.core.registry import load_plugin
from harness.core.rng import Streams, stream
from harness.data.base import load
from harness.flow.objective import Objective, Step, Task
from harness.flow.sampling import Generated, Trained
from harness.runs import sample as sample_module
from harness.runs import train as train_module
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import judge_of, judge_rung
from harness.runs.sample import restore, samples
from harness.runs.train import ensure, train
from harness.runs.validate import check
from harness.training import trainer
from harness.training.diagnostics import Guard
from harness.training.trainer import Training

pytestmark = pytest.mark.usefixtures("unmeasured")
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
    return run.evaluation(run.config.protocol())["values"]["fid"]


def calls(run: Run) -> dict[str, dict[str, float]]:
    return run.evaluation(run.config.protocol())["calls"]


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_not_touched_again(tiny: RunConfig, tiny_run: Run) -> None:
    run = done(tiny)
    before = stamps(run.folder)
    assert done(tiny) == run
    assert stamps(run.folder) == before
    assert [line["step"] for line in run.metrics()] == [2, 4, 6, 8, 10, 12]
    assert fid(run).keys() == {"1", "2"}
    assert calls(run) == {nfe: {"mean": float(nfe), "sd": 0.0} for nfe in ("1", "2")}
    assert len(list((run.folder / "samples").glob("*.png"))) == 3


def test_another_nfe_is_added_and_nothing_trained(tiny: RunConfig, tiny_run: Run) -> None:
    run = done(tiny)
    trained = stamps(run.folder / "checkpoints")
    known = fid(run)
    more = done(override(tiny, {"evaluate.nfe": [1, 2, 4]}))
    assert more.folder == run.folder
    assert stamps(run.folder / "checkpoints") == trained
    assert [line["step"] for line in run.metrics()] == [2, 4, 6, 8, 10, 12]
    added = fid(more)
    assert added.pop("4") > 0
    assert added == known


def test_another_protocol_has_another_file(tiny: RunConfig, tiny_run: Run) -> None:
    one = done(tiny)
    other = done(override(tiny, {"evaluate.solver": "heun", "evaluate.nfe": [2]}))
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
        {"prediction": "data"},
        {"loss": "pseudo_huber"},
        {"coupling": "exact_ot"},
        {"interpolant": "vp"},
        {"time_sampler": "power"},
        {"noise": "matched"},
        {"backbone.dropout": 0.1},
        {"objective.normalise_weight": False},
        {"objective.label_dropout": 0.1},
        {"backbone.time_embedding": "fourier"},
        {"noise": {"name": "population", "dataset": "digits"}},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_of_training_name_the_run(tiny: RunConfig, change: dict) -> None:
    assert Run.of(override(tiny, change)).name != Run.of(tiny).name


@pytest.mark.parametrize(
    "change",
    [
        {"evaluate.nfe": [4]},
        {"evaluate.num_samples": 100},
        {"evaluate.solver": "euler_maruyama"},
        {"evaluate.time_grid": "quadratic"},
        {"train.log_every": 3},
        {"train.sample_every": 3},
        {"train.checkpoint_every": 5},
        {"train.precision": "fp32"},  # the value of `auto` on a CPU
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_of_how_it_is_carried_out_do_not_name_the_run(tiny: RunConfig, change: dict) -> None:
    assert Run.of(override(tiny, change)).name == Run.of(tiny).name


def test_guidance_and_evaluation_do_not_name_a_run_with_classes(tiny: RunConfig) -> None:
    told = override(tiny, {"objective.label_dropout": 0.1})
    for change in (
        {"evaluate.guidance.scale": 2},
        {"evaluate.metrics": ["label_accuracy"]},
        {"evaluate.extractor": "values"},
    ):
        assert Run.of(override(told, change)).name == Run.of(told).name


SOLVER_PLUGIN = """
from dataclasses import dataclass
from harness.components.solvers import Euler

@dataclass(frozen=True, kw_only=True)
class Mine(Euler, name="mine"):
    pass
"""


@pytest.fixture
def solver_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a user's solver, loaded; the registry forgets it afterwards."""
    monkeypatch.setitem(registry._MEMBERS, "solver", dict(registry._MEMBERS["solver"]))
    path = tmp_path / "my_solver.py"
    path.write_text(SOLVER_PLUGIN)
    load_plugin(path)
    return path


def test_a_users_solver_retrains_nothing(tiny: RunConfig, solver_plugin: Path) -> None:
    """A change of `evaluate` never retrains, and a plugin in `evaluate` is such a change."""
    mine = override(tiny, {"evaluate.solver": "mine"})
    assert Run.of(mine).name == Run.of(tiny).name


def test_an_edited_solver_is_another_protocol(tiny: RunConfig, solver_plugin: Path) -> None:
    """The values of an edited file are not mixed with the earlier ones: it has another protocol or another run."""

    def identity() -> tuple[str, str]:
        config = override(tiny, {"evaluate.solver": "mine"})
        return Run.of(config).name, config.protocol().digest

    before = identity()
    solver_plugin.write_text(SOLVER_PLUGIN + "# edited\n")
    assert identity() != before


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
    """Return the initial weights of a run, then the data, the network's input and the times of each step."""
    out: list[Tensor] = []
    original = Objective.task
    measure = Objective.measure

    def spy(
        self: Objective,
        x0: Tensor,
        streams: Streams,
        y: Tensor | None = None,
        t: Tensor | None = None,
        **look: Any,
    ) -> Task:
        made = original(self, x0, streams, y, t, **look)
        if t is None and streams.step >= 0:  # otherwise a look
            out.extend(v.clone() for v in (x0, made.xt, made.t))
        return made

    def first(self: Objective, network: nn.Module, task: Task) -> Step:
        if len(out) == 3:
            out[:0] = [p.detach().clone() for p in network.parameters()]
        return measure(self, network, task)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "task", spy)
        patch.setattr(Objective, "measure", first)
        train(Run.of(config), lambda _: None, lambda: False)
    return out


def test_arms_share_weights_batches_noise_and_times(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    base = override(tiny, {"train.steps": 4})
    other = override(base, {"weighting": "data_end", "train.learning_rate": 1e-3})
    one, two, reseeded = (seen(config, monkeypatch) for config in (base, other, override(base, {"seed": 1})))
    assert len(one) == len(list(base.backbone.build((1, 8, 8)).parameters())) + 3 * base.train.steps
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, reseeded, strict=True) if a.ndim == 4 and a.any())
    weights = [torch.cat([p.flatten() for p in restore(Run.of(c)).network.parameters()]) for c in (base, other)]
    assert not torch.equal(*weights)


def test_a_stopped_run_continues_without_leftover_files(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    asked = itertools.count()
    with pytest.raises(Stopped):
        ensure(tiny, said.append, lambda: next(asked) == 7)
    run = Run.of(tiny)
    leftover = run.folder / "checkpoints" / ".000000009-0123.safetensors.host-01234567.part"
    leftover.write_bytes(b"torn")
    os.utime(leftover, (0, 0))
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    broken = ensure(tiny, said.append, lambda: False)
    assert not leftover.exists()
    assert said == ["continues from step 7 of 12."]
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "whole"))
    whole = done(tiny)
    assert [(line["step"], line["loss"]) for line in broken.metrics()] == [
        (line["step"], line["loss"]) for line in whole.metrics()
    ]
    assert fid(broken) == fid(whole)


def test_a_stopped_evaluation_keeps_its_measurements(tiny: RunConfig, tiny_run: Run) -> None:
    asked = itertools.count()
    with pytest.raises(Stopped, match="evaluating"):
        ensure(
            tiny, lambda _: None, lambda: next(asked) == 16 + 4
        )  # batches of the reference, then two at NFE 1, with two checks for a stop each
    known = fid(tiny_run)
    assert known.keys() == {"1"}
    assert {"1": fid(done(tiny))["1"]} == known


def test_repeated_steps_of_training_are_marked(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a kill between the checkpoint and the divergence, when training repeats lines that it had logged."""
    config = override(tiny, {"train.on_divergence": "restore_and_lower_lr"})
    judged = itertools.count()
    guarded = Guard.__call__

    def judge(self: Guard, loss: Tensor, norm: Tensor, step: int) -> Tensor:
        if (asked := next(judged)) == 5:
            raise RuntimeError("killed")
        return guarded(self, loss, norm, step) if asked != 8 else torch.ones(())

    monkeypatch.setattr(Guard, "__call__", judge)
    with pytest.raises(RuntimeError):
        done(config)
    lines = done(config).metrics()
    assert [line["step"] for line in lines] == [2, 4, 3, 4, 6, 8, 10, 12]
    assert lines[2].keys() == {"step", "time", "learning_rate_factor"}
    rates = [line["learning_rate"] / config.train.rate(line["step"] - 1) for line in lines if "loss" in line]
    assert rates == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.5, 0.5])
    paces = [32 / line["samples_per_second"] for line in lines if "loss" in line]
    assert Run.of(config).trained.seconds == pytest.approx(sum(np.multiply(paces, [2, 2, 1, 2, 2, 2, 2])))


def test_the_best_weights_stay_the_best_where_training_goes_back(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "train.on_divergence": "restore_and_lower_lr",
        "train.steps": 6,
        "train.sample_every": 1,
        "train.ema_decay": None,
        "evaluate.average": "last",
    }
    config = override(tiny, changes)
    judged = itertools.count()
    guarded = Guard.__call__
    seen = list[list[Path]]()
    monkeypatch.setattr(Guard, "__call__", lambda *given: guarded(*given) if next(judged) != 5 else torch.ones(()))
    monkeypatch.setattr(trainer, "LOWERED", trainer.LOWEST)
    folder = Run.of(config).folder / "checkpoints" / "best"
    run = ensure(config, lambda _: seen.append(checkpoints(folder)), lambda: False)
    lines = [line for line in run.metrics() if "held_out_loss" in line]
    assert [line["step"] for line in lines] == [*range(1, 6), 4, 5, 6]
    assert min(line["held_out_loss"] for line in lines) == lines[4]["held_out_loss"]
    assert checkpoints(folder) == seen[0]
    assert [step_of(path) for path in seen[0]] == [5]


def test_a_run_that_diverged_is_not_trained_again(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = override(tiny, {"train.learning_rate": 1e30, "train.clip_norm": None})
    with pytest.raises(Diverged, match="diverged"):
        done(config)
    run = Run.of(config)
    assert isinstance(run.gave_up, Diverged)
    monkeypatch.setattr(train_module, "fit", lambda *_: pytest.fail("trained again"))
    with pytest.raises(Diverged, match=f"Remove {run.folder}"):
        done(config)


def test_samples_that_cannot_be_judged_end_one_way_of_sampling_and_no_other(
    tiny: RunConfig, tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second evaluation gives the message without sampling; the run stays valid for other protocols."""
    done(tiny)
    wild = override(tiny, {"evaluate.solver": "heun", "evaluate.nfe": [2]})
    with monkeypatch.context() as patch:
        unknown = Generated(torch.full((64, 1, 8, 8), torch.nan), None, 2, torch.zeros(64, 1, 8, 8))
        patch.setattr("harness.runs.judge.samples", lambda *_, **__: iter([unknown]))
        patch.setattr(
            "harness.evaluation.judge.features",
            lambda extractor, images, device: (images.flatten(1), images.flatten(1)),
        )
        with pytest.raises(Diverged, match="some are not finite"):
            ensure(wild, print, lambda: False)
    run = tiny_run
    protocols = [config.protocol() for config in (tiny, wild)]
    assert run.gave_up is None
    assert [bool(run.failure(protocol)) for protocol in protocols] == [False, True]
    with pytest.raises(Diverged, match="some are not finite"):
        ensure(wild, print, lambda: False)
    done(tiny)


def test_an_existing_run_opens_by_name_and_by_path(tiny_run: Run) -> None:
    assert Run.open(tiny_run.name) == Run.open(str(tiny_run.folder)) == tiny_run


@pytest.mark.parametrize("name", ["nothing", "0123456789ab-s0", "../x", "0123456789ab-s0/../../x", "", "."])
def test_an_unknown_run_is_refused(tiny: RunConfig, name: str) -> None:
    outside = runs_folder().parent / "x"
    outside.mkdir(parents=True)
    (outside / "config.json").write_text(json.dumps({"dataset": "digits"}))
    with pytest.raises(UserError, match=r"no such run\. The runs are the folders in"):
        Run.open(name)


def test_missing_or_wrong_weights_are_not_sampled(tiny_run: Run) -> None:
    best = Run.of(override(tiny_run.config, {"evaluate.checkpoint": "best"}))
    restore(best)
    shutil.rmtree(best.folder / "checkpoints" / "best")
    with pytest.raises(
        UserError, match=rf"^{best.name}: its best checkpoint is missing or damaged\. Set evaluate\.checkpoint=last\.$"
    ):
        restore(best)
    network = tiny_run.config.build(tiny_run.data).state_dict()
    sample_module._require_fit(Path("kept"), network, network)
    with pytest.raises(
        UserError, match=r"^kept: does not fit the run \(.*\)\. Remove it, then run the command that tra"
    ):
        sample_module._require_fit(Path("kept"), {**network, "more": torch.zeros(1)}, network)


def test_a_look_that_cannot_be_drawn_ends_no_training(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is reported; the look's other measurements are made."""
    said: list[str] = []
    trained = restore(tiny_run)
    objective = train_module._objective(tiny_run)
    callbacks = train_module._callbacks(tiny_run, objective, said.append, lambda: False, None)
    monkeypatch.setattr(train_module, "picture", Mock(side_effect=Unsolvable("dopri5 gave up.")))
    assert callbacks.look(trained.network, 5).keys() > {"straightness", "sample_spread"}
    assert said == ["no picture of step 5: dopri5 gave up."]


@pytest.mark.parametrize(("path", "measured"), [("cosine", True), ("ve", False), ("edm", False)])
def test_samples_of_even_steps_are_judged_only_on_paths_that_end_in_noise(
    path: str, measured: bool, tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the other paths, even steps do not lead to samples."""
    objective = train_module._objective(Run(override(tiny_run.config, {"interpolant": path}), tiny_run.folder))
    callbacks = train_module._callbacks(tiny_run, objective, lambda _: None, lambda: False, None)
    monkeypatch.setattr(train_module, "picture", Mock())
    assert ("sample_spread" in callbacks.look(restore(tiny_run).network, 5)) == measured


def test_an_unfinished_run_draws_nothing(tiny: RunConfig) -> None:
    asked = itertools.count()
    with pytest.raises(Stopped):
        ensure(tiny, lambda _: None, lambda: next(asked) == 5)
    with pytest.raises(UserError, match="trained for 5 of 12 steps"):
        restore(Run.of(tiny))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"backbone.multipliers": [1, 2, 2, 2, 2]}, "backbone.multipliers"),
        ({"evaluate.num_reference": 100_000}, "evaluate.num_reference"),
        ({"coupling": {"name": "pairs", "path": "nowhere"}}, "coupling.path"),
        ({"noise": {"name": "population", "dataset": "eight_gaussians"}}, "noise.dataset"),
        ({"train.batch_size": 1439}, "train.batch_size"),
        ({"dataset": "swiss_roll"}, "evaluate.extractor"),
        ({"evaluate.extractor": "values"}, "evaluate.metrics[0]"),
        (
            {"objective.label_dropout": 0.1, "evaluate.guidance.scale": 2},
            "evaluate.nfe",
        ),  # one call is less than a guided step
        (
            {"interpolant": "ve", "evaluate.time_grid": "edm_rho", "evaluate.nfe": [32]},
            "time_grid",
        ),  # two equal times
    ],
    ids=str,
)
def test_settings_that_would_end_training_are_refused_before(tiny: RunConfig, changes: dict, path: str) -> None:
    check(tiny)
    with pytest.raises(ConfigError) as caught:
        check(override(tiny, changes))
    assert caught.value.path in (path, f"evaluate.{path}")
    if path.startswith("backbone."):
        with pytest.raises(ConfigError, match=rf"^{path}: "):
            override(tiny, changes).build(load(tiny.dataset))
    assert not runs_folder().exists()


def test_pairs_of_another_shape_are_refused_before(tiny: RunConfig, tmp_path: Path) -> None:
    for name in ("x0", "x1"):
        np.save(tmp_path / f"{name}.npy", np.zeros((4, 1, 4, 4), np.float32))
    with pytest.raises(
        ConfigError,
        match=r"^coupling\.path: .* holds samples of shape \[1, 4, 4\], but the data have shape \[1, 8, 8\]",
    ):
        check(override(tiny, {"coupling": {"name": "pairs", "path": str(tmp_path)}}))


def test_an_adaptive_solver_is_evaluated_at_the_calls_it_takes(tiny: RunConfig) -> None:
    """NFE 0: the network's calls per sample are counted, over the samples; the picture during training uses the solver
    too.
    """
    some = {"evaluate.solver": {"name": "dopri5", "rtol": 0.01, "atol": 0.01}, "evaluate.num_samples": 80}
    config = override(tiny, {**some, "evaluate.nfe": [0], "train.steps": 4})
    run = done(config)
    assert fid(run).keys() == calls(run).keys() == {"0"}
    assert math.isfinite(fid(run)["0"])
    assert calls(run)["0"]["mean"] > 1
    drawn = list(samples(run, restore(run), 0, 80))
    assert [len(batch.x) for batch in drawn] == [32, 32, 16]
    spent = [batch.calls for batch in drawn for _ in batch.x]
    assert calls(run)["0"] == pytest.approx({"mean": statistics.fmean(spent), "sd": statistics.pstdev(spent)})
    assert len(list((run.folder / "samples").glob("*.png"))) == 2
    loose = done(override(config, {"evaluate.solver.rtol": 0.3, "evaluate.solver.atol": 0.3}))
    assert loose.folder == run.folder
    assert calls(loose)["0"]["mean"] < calls(run)["0"]["mean"]


@pytest.mark.parametrize("solvers", [("dopri5", "dopri5"), ("euler", "dopri5")], ids=str)
def test_a_study_at_no_fixed_nfe_is_reported(
    tiny: RunConfig, score: Any, tmp_path: Path, solvers: tuple[str, str]
) -> None:
    """NFE 0, alone and with others, has rows; the figure is drawn, although its NFE axis is logarithmic."""
    nfe = {"dopri5": [0], "euler": [1, 2]}
    arms = {arm: {"evaluate.solver": s, "evaluate.nfe": nfe[s]} for arm, s in zip("ab", solvers, strict=True)}
    study = Study(name="toy", question="Which?", baseline="a", arms=arms, nfe=0, smallest_difference=0.05, looks=(3,))
    plan = Plan.of(study, "digits", tiny, {}, None, [])
    for arm, seed in plan.trials():
        score(plan.run(arm, seed), plan.protocol(arm), {n: 10.0 + seed + n for n in plan.arms[arm].evaluate.nfe})
    report = tables.report(plan, {"resampled": {"fid": 1.5}, "held_out": {"fid": 2.0}, "gaussian": {"fid": 300.0}})
    assert {(row.arm, row.nfe) for row in report.summary.rows.itertuples() if row.n} >= {("b", 0)}
    paths = {path.suffix for path in tables.write(report, tmp_path, "harness ablate toy")}
    assert paths == {".md", ".csv", ".json", ".png"}


def test_the_calls_are_weighted_by_samples(tiny: RunConfig, tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of 32 samples with 7 calls, and one of 16 with 27 calls."""
    loose = {"evaluate.solver": {"name": "dopri5", "rtol": 0.1, "atol": 0.1}, "evaluate.num_samples": 80}
    config = override(tiny, {**loose, "evaluate.nfe": [0]})
    original = sample_module.generate

    def counted(*arguments: Any, **named: Any) -> Iterator[Generated]:
        return (batch._replace(calls=7 if len(batch.x) == 32 else 27) for batch in original(*arguments, **named))

    monkeypatch.setattr(sample_module, "generate", counted)
    assert calls(done(config))["0"] == pytest.approx({"mean": 11.0, "sd": 8.0})


@pytest.mark.parametrize("solver", ["euler_maruyama", "heun_sde"])
def test_stochastic_sampling_is_reproducible(tiny: RunConfig, tiny_run: Run, solver: str) -> None:
    """The run's seed also decides the noise of the steps; the samples start where deterministic ones start."""
    config = override(tiny, {"evaluate.solver": solver, "evaluate.nfe": [8]})
    run = done(config)
    trained = restore(run)

    def drawn(changes: dict[str, Any] | None = None, nfe: int = 8) -> Tensor:
        return torch.cat(
            [batch.x for batch in samples(Run(override(config, changes or {}), run.folder), trained, nfe, 64)]
        )

    first = drawn()
    again = drawn()
    assert torch.equal(first, again)
    assert not torch.equal(first[:32], first[32:])
    assert not torch.equal(first, drawn({"seed": 1}))
    assert not torch.equal(first, drawn({"evaluate.solver.scale": 3}))
    assert calls(run) == {"8": {"mean": 8.0, "sd": 0.0}}
    judged = fid(run)
    shutil.rmtree(run.folder / "evaluations")
    assert fid(done(config)) == judged


class Spy(nn.Module):
    """Records the inputs of a network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.given = list[tuple[Tensor, Tensor]]()

    def forward(self, x: Tensor, t: Tensor, *y: Tensor) -> Tensor:
        self.given.append((x.clone(), t.clone()))
        return self.network(x, t, *y)


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 1.0),
        ({"interpolant": "ve"}, 50.0),
        ({"interpolant": {"name": "ve", "sigma_max": 8}}, 8.0),
        ({"interpolant": "ve", "evaluate.solver": "dopri5", "evaluate.nfe": [0]}, 50.0),
        ({"interpolant": "ve", "noise": "matched"}, 50.0),
    ],
    ids=str,
)
def test_sampling_starts_at_sigma_of_one(tiny: RunConfig, changes: dict[str, Any], scale: float) -> None:
    """The network's first input is sigma(1) x1, with the x1 of the batch's stream, at t = 1."""
    config = override(tiny, changes)
    data = load(tiny.dataset)
    state = config.noise.fit(data.encode(tensor(data.train)))
    spy = Spy(config.backbone.build(data.shape))
    nfe = config.evaluate.nfe[-1]
    list(samples(Run.of(config), Trained(spy, config, state), nfe, 40))
    starts = [(x, t) for x, t in spy.given if (t == 1).all()]
    assert [len(x) for x, _ in starts[:1]] == [32]
    for i, size in enumerate((32, 8)):
        x1 = config.noise.sample((size, *data.shape), stream(config.seed, "evaluation", i), state)
        x = next(x for x, _ in starts if len(x) == size)
        torch.testing.assert_close(x, scale * x1)


def test_the_time_grid_decides_when_the_network_is_called(tiny: RunConfig) -> None:
    config = override(tiny, {"evaluate.time_grid": "quadratic", "evaluate.nfe": [4]})
    spy = Spy(config.backbone.build((1, 8, 8)))
    list(samples(Run.of(config), Trained(spy, config, {}), 4, 8))
    assert [t[0].item() for _, t in spy.given] == [1, 0.5625, 0.25, 0.0625]
    assert {len(t) for _, t in spy.given} == {8}


def test_guided_sampling_makes_its_counted_calls_on_the_same_run(tiny: RunConfig) -> None:
    """Two calls per step, both counted in `calls`; one call of the network computes both, and no training is added."""
    config = override(tiny, {"objective.label_dropout": 0.1, "evaluate.nfe": [4]})
    plain = done(config)
    guided = done(override(config, {"evaluate.guidance.scale": 2}))
    assert plain.folder == guided.folder
    assert calls(plain) == calls(guided) == {"4": {"mean": 4.0, "sd": 0.0}}
    assert fid(plain) != fid(guided)
    spy = Spy(config.build(load(config.dataset)))
    (batch,) = samples(guided, Trained(spy, guided.config, {}), 4, 8, label=7)
    assert batch.y is not None
    assert batch.y.tolist() == [7] * 8
    assert [t[0].item() for _, t in spy.given] == [1, 0.5]
    assert {len(x) for x, _ in spy.given} == {16}
    assert all(torch.equal(x[:8], x[8:]) for x, _ in spy.given)


@pytest.mark.parametrize("noise", ["gaussian", "matched"])
def test_a_grid_over_the_snr_counts_the_noises_variance(tiny: RunConfig, noise: str) -> None:
    """Like weights and times: the log SNR between two ends is 2 log(alpha / (sigma sd)), equally spaced."""
    grid = {"name": "log_snr", "low": -4, "high": 4}
    config = override(tiny, {"noise": noise, "evaluate.time_grid": grid, "evaluate.nfe": [8]})
    data = load(config.dataset)
    state = config.noise.fit(data.encode(tensor(data.train)))
    spy = Spy(config.backbone.build(data.shape))
    list(samples(Run.of(config), Trained(spy, config, state), 8, 8))
    t = torch.stack([t[0] for _, t in spy.given[1:]]).double()
    sd = config.noise.variance(state).sqrt().double()
    torch.testing.assert_close(
        2 * ((1 - t) / (t * sd)).log(), torch.linspace(-3, 3, 7, dtype=torch.float64), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("changes", [{"coupling": "class_conditional_ot"}, {"coupling": "exact_ot"}], ids=str)
def test_a_coupling_trains_and_lowers_the_transport_cost(
    tiny: RunConfig, tiny_run: Run, changes: dict[str, Any]
) -> None:
    """It gets the data's classes, and metrics.jsonl has the cost."""
    paired = Run.of(override(tiny, changes))
    train(paired, lambda _: None, lambda: False)
    costs = [[line["transport_cost"] for line in run.metrics()] for run in (tiny_run, paired)]
    assert all(b < a - 1 for a, b in zip(*costs, strict=True))
    assert all(line["coupling_seconds"] > 0 for line in paired.metrics())


def test_the_judged_weights_are_the_chosen_ones(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last weights, an average, and those of the look with the lowest held-out loss, here the second of three."""
    losses = iter([1.0, 0.5, 2.0])
    monkeypatch.setattr(Training, "held_out_loss", lambda self: next(losses))
    config = override(tiny, {"train.more_ema_decays": [0.2], "train.sample_every": 4})
    run = done(config)
    step, saved, _ = read_checkpoint(run.folder / "checkpoints", "cpu")
    best, kept, _ = read_checkpoint(run.folder / "checkpoints" / "best", "cpu")
    assert (best, step) == (8, 12)

    def weights(**changes: Any) -> dict[str, Tensor]:
        asked = Run(override(config, {f"evaluate.{name}": value for name, value in changes.items()}), run.folder)
        return dict(restore(asked).network.named_parameters())

    expected = [
        (weights(), saved, "averages/ema-0.9999"),
        (weights(average="last"), saved, "network"),
        (weights(average={"name": "ema", "decay": 0.2}), saved, "averages/ema-0.2"),
        (weights(checkpoint="best"), kept, "averages/ema-0.9999"),
        (weights(checkpoint="best", average="last"), kept, "network"),
    ]
    for found, tensors, place in expected:
        assert all(torch.equal(value, tensors[f"{place}/{name}"]) for name, value in found.items()), place


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_metrics_are_on_disk_before_a_checkpoint_vouches_for_them(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of calls guarantees that a power cut leaves no gap. A line falls between two checkpoints here."""
    run = Run.of(override(tiny, {"train.steps": 5, "train.checkpoint_every": 2, "train.log_every": 3}))
    metrics = run.folder / "metrics.jsonl"
    sync = os.fsync
    on_disk = [0]
    vouched: list[tuple[int, int]] = []

    def recorded(file: int) -> None:
        sync(file)
        place = Path(os.readlink(f"/proc/self/fd/{file}"))
        if place == metrics:
            on_disk.append(metrics.stat().st_size)
        elif place.parent == run.folder / "checkpoints":  # a thread writes it, while training writes further lines
            step = int(place.name.strip(".")[:9])
            lines = metrics.read_bytes().splitlines(keepends=True)
            vouched.append((on_disk[-1], sum(len(line) for line in lines if json.loads(line)["step"] <= step)))

    monkeypatch.setattr(os, "fsync", recorded)
    train(run, lambda _: None, lambda: False)
    assert len(vouched) == 3
    assert all(synced >= due for synced, due in vouched), vouched
    assert [due > 0 for _, due in vouched] == [False, True, True]
    assert [line["step"] for line in run.metrics()] == [3, 5]
    assert vouched[-1][0] == metrics.stat().st_size


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_looks_and_a_divergence_are_on_disk_before_what_follows(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look costs as much as its samples, and a diverged run is never trained again, so its lines must be on disk."""
    run = Run.of(override(tiny, {"train.learning_rate": 1e30, "train.warmup_steps": 0, "train.clip_norm": None}))
    synced: list[str] = []
    sync = os.fsync

    def recorded(file: int) -> None:
        sync(file)
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)

    monkeypatch.setattr(os, "fsync", recorded)
    (run.folder).mkdir(parents=True)
    (run.folder / "metrics.jsonl").write_text("")
    with pytest.raises(Diverged):
        train(run, lambda _: None, lambda: False)
    noted = next(name for name in synced if name.startswith(".diverged.json"))
    assert synced.index("metrics.jsonl") < synced.index(noted)
    fine = Run.of(tiny)
    trained = Trained(tiny.build(fine.data), tiny, {}, "cpu")
    fine.folder.mkdir()
    judge_rung(fine, trained, 3, judge_of(tiny), 1)
    assert synced[-1].startswith(".rungs.jsonl.")
