"""Flows that learn the pairs of earlier flows: names, refusals, the pairs, and the predictions of theory."""

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import ot
import pytest
import torch
from scipy import stats
from typed import tensor

from harness.ablation.design import arm_settings, rounds
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study, load_scale, load_study
from harness.cli import main
from harness.core.config import override, to_dict
from harness.core.errors import ConfigError, Diverged, Stopped, Unsolvable, UserError
from harness.core.rng import Streams
from harness.data.base import load
from harness.evaluation.flow_metrics import straightness
from harness.flow.sampling import Generated
from harness.runs import reflow as reflow_module
from harness.runs import train as train_module
from harness.runs.config import Reflow, RunConfig
from harness.runs.folder import Run
from harness.runs.identity import training_digest
from harness.runs.pairs import PairSet
from harness.runs.sample import paths, restore
from harness.runs.train import ensure, make_pairs, train
from harness.runs.validate import check
from harness.training.distributed import Ranks

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.fixture
def small(tiny: RunConfig, tiny_run: Run) -> RunConfig:
    """`tiny`, already trained, with rounds of 50 pairs, made 20 at a time."""
    return override(tiny, {"reflow.number": 50, "reflow.nfe": 4, "reflow.batch_size": 20, "evaluate.nfe": [1]})


def quiet(text: str) -> None:
    pass


def never() -> bool:
    return False


def after(calls: int) -> Callable[[], bool]:
    """Return a stop signal that is true at its call number `calls`."""
    asked = iter(range(1, calls))
    return lambda: next(asked, None) is None


# The name of a run


def test_a_chain_of_parents_ends_at_the_flow_of_the_data(small: RunConfig) -> None:
    third = override(small, {"reflow.rounds": 2})
    second = third.parent
    assert second == override(small, {"reflow.rounds": 1})
    assert second is not None
    assert second.parent == small
    assert small.parent is None
    assert [config.rectified for config in (small, second, third)] == [1, 2, 3]
    distilled = override(third, {"reflow.distil": True})
    assert distilled.parent == third
    assert distilled.rectified == 3
    assert RunConfig.parse(json.loads(json.dumps(to_dict(distilled)))) == distilled


def test_a_given_teacher_gets_the_seed_of_its_student(small: RunConfig) -> None:
    config = override(small, {"reflow.teacher": small, "reflow.rounds": 1, "train.steps": 20, "seed": 4})
    assert config.parent == override(small, {"seed": 4})
    assert override(config, {"reflow.rounds": 2}).rectified == 3


def test_naming_the_default_teacher_changes_no_name(small: RunConfig) -> None:
    student = override(small, {"reflow.rounds": 1})
    assert training_digest(override(student, {"reflow.teacher": small})) == training_digest(student)


def test_settings_of_rounds_do_not_name_a_flow_without_rounds(small: RunConfig) -> None:
    assert training_digest(override(small, {"reflow.number": 7, "reflow.warm_start": False})) == training_digest(small)


MATTERS: dict[str, Any] = {
    "rounds": 3,
    "distil": True,
    "teacher": "longer",
    "warm_start": False,
    "number": 51,
    "solver": "midpoint",
    "time_grid": "quadratic",
    "nfe": 6,
    "guidance": {"scale": 2},
    "later_guidance": {"scale": 2},
    "average": "last",
    "batch_size": 25,
    "checkpoint": "best",
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Reflow) if field.name != "perceptual"])
def test_every_setting_names_the_run(small: RunConfig, name: str) -> None:
    base = override(small, {"reflow.rounds": 2 if name == "later_guidance" else 1, "objective.label_dropout": 0.1})
    value = override(small, {"train.steps": 20, "objective.label_dropout": 0.1}) if name == "teacher" else MATTERS[name]
    changed = override(base, {f"reflow.{name}": value})
    assert training_digest(changed) != training_digest(base)
    assert (Run.of(changed).pairs.folder == Run.of(base).pairs.folder) == (name == "warm_start")


def test_a_distilled_network_does_not_depend_on_weights_and_times_that_it_never_sees(small: RunConfig) -> None:
    base = override(small, {"reflow.distil": True, "reflow.teacher": small})
    for changes in ({"weighting": "min_snr"}, {"time_sampler": "logit_normal"}, {"objective.normalise_weight": False}):
        assert training_digest(override(base, changes)) == training_digest(base)
        flow = override(small, {"reflow.rounds": 1, "reflow.teacher": small})
        assert training_digest(override(flow, changes)) != training_digest(flow)


def test_the_evaluation_does_not_name_it(small: RunConfig) -> None:
    base = override(small, {"reflow.rounds": 1})
    assert training_digest(override(base, {"evaluate.average": "last", "evaluate.nfe": [3]})) == training_digest(base)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reflow.solver": "euler_maruyama"},
         r"reflow\.solver: euler_maruyama adds noise while it samples, .*\. Choose heun\."),
        ({"reflow.nfe": 5}, r"reflow\.nfe: heun spends 2 calls a step and cannot spend 5\. Use 4\."),
        ({"reflow.guidance.scale": 2}, r"reflow\.guidance: the teacher is told no classes\. .*"),
        ({"reflow.average": {"name": "ema", "decay": 0.5}}, r"reflow\.average\.decay: training keeps .*"),
        ({"prediction": "score"}, r"prediction: score needs .* pairs does not give\. Choose prediction=velocity\."),
        ({"evaluate.solver": "euler_maruyama"}, r"evaluate\.solver: .* Choose evaluate\.solver=euler\."),
        ({"evaluate.metrics": ["field_error"]},
         r"evaluate\.metrics\[0\]: the best field is known only for independent pairs .*"),
        ({"reflow.rounds": 0, "reflow.teacher": "base"},
         r"reflow\.teacher: without rounds or distil nothing is learned from it\. .*"),
        ({"reflow.teacher": "base", "dataset": "eight_gaussians"}, r"dataset: must be the teacher's: .*"),
        ({"reflow.teacher": "base", "noise": "laplace"}, r"noise: must be the teacher's: .*"),
        ({"reflow.teacher": "base", "coupling": "exact_ot"},
         r"coupling: must be the teacher's: the pairs replace it\. .*"),
        ({"reflow.teacher": "base", "interpolant": "gvp"}, r"interpolant: must be the teacher's: .*"),
        ({"reflow.teacher": "base", "objective.label_dropout": 0.1},
         r"objective\.label_dropout: the teacher knows no classes, .*"),
        ({"reflow.distil": True},
         r"evaluate\.nfe: a distilled network has learned t = 1 only, .* with evaluate\.nfe=\[1\]\."),
        ({"reflow.distil": True, "evaluate.solver": "heun", "evaluate.nfe": [2]},
         r"evaluate\.solver: a distilled network has learned t = 1"),
        ({"reflow.distil": True, "evaluate.time_grid": "quadratic", "evaluate.nfe": [1]},
         r"evaluate\.time_grid: a distilled network"),
        ({"evaluate.checkpoint": "best"}, r"evaluate\.checkpoint: training on pairs has no held-out loss.* to last\."),
        ({"reflow.rounds": 21}, r"reflow\.rounds: 21 is outside \[0, 20\]"),
        ({"reflow.distil": True, "evaluate.nfe": [1], "evaluate.metrics": ["curvature"]},
         r"evaluate\.metrics\[0\]: curvature measures a"),
    ],
    ids=str,
)  # fmt: skip
def test_meaningless_rounds_are_refused(tiny: RunConfig, changes: dict[str, Any], message: str) -> None:
    base = override(tiny, {"reflow.number": 50})
    changes = {path: base if value == "base" else value for path, value in changes.items()}
    with pytest.raises(ConfigError, match=f"^{message}"):
        override(base, {"reflow.rounds": 1, **changes})


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise", "edm"])
@pytest.mark.parametrize("interpolant", ["linear", "fm_ot", "polynomial", "gvp", "cosine", "vp"])
def test_one_step_must_be_able_to_give_a_sample(tiny: RunConfig, interpolant: str, prediction: str) -> None:
    """x1 - v(x1, 1) is x0 only on straight paths, and only if the output at t = 1 determines x0."""
    changes = {
        "interpolant": interpolant,
        "prediction": prediction,
        "reflow.distil": True,
        "evaluate.nfe": [1],
        "prediction.t_max": 1,
    }
    if interpolant in ("linear", "fm_ot") and prediction != "noise":
        override(tiny, changes)
    else:
        with pytest.raises(
            ConfigError, match=r"^(reflow\.distil: .* one Euler step from t = 1 gives no sample|prediction\.t_max: )"
        ):
            override(tiny, changes)


def test_one_step_must_not_be_clamped(tiny: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"^reflow\.distil: .* another prediction with prediction\.t_max=1\.$"):
        override(tiny, {"prediction": "data", "prediction.t_max": 0.98, "reflow.distil": True, "evaluate.nfe": [1]})


def test_a_distilled_network_cannot_be_a_teacher(small: RunConfig) -> None:
    distilled = override(small, {"reflow.distil": True})
    with pytest.raises(ConfigError, match=r"^reflow\.teacher: it is distilled to one step"):
        override(small, {"reflow.teacher": distilled, "reflow.rounds": 1})


def test_a_network_that_does_not_fit_the_teachers_is_refused_before_anything_is_trained(small: RunConfig) -> None:
    wider = override(small, {"reflow.teacher": small, "reflow.rounds": 1, "backbone.channels": 16})
    with pytest.raises(
        ConfigError,
        match=r"^backbone: the network does not fit the teacher's: .* Set .* reflow\.warm_start=false\.$",
    ):
        check(wider)
    check(override(wider, {"reflow.warm_start": False}))


def test_pairs_that_the_disk_cannot_hold_are_refused_before_the_teacher_is_trained(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.of(override(small, {"seed": 1, "reflow.rounds": 1, "reflow.number": 10_000_000}))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**10, 0, 10**9))
    with pytest.raises(
        UserError,
        match=r"^reflow\.number: 10,000,000 pairs of 512 bytes need 5\.12 GB more in .*, where 1 GB are free\.",
    ):
        train(run, quiet, never)
    assert run.parent is not None
    assert not run.parent.folder.exists()


# The pairs


def arrays(pairs: PairSet) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in sorted(pairs.folder.glob("*.npy"))}


def test_pairs_are_noise_and_where_the_teachers_flow_takes_it(small: RunConfig) -> None:
    """Compared with Heun's method written out here, with the teacher's network; the noise is compared with the normal
    distribution.
    """
    run = Run.of(override(small, {"reflow.rounds": 1, "reflow.number": 40, "reflow.nfe": 4}))
    train(run, quiet, never)
    assert run.parent is not None
    network = restore(run.parent).network
    found = arrays(run.pairs)
    x = torch.from_numpy(found["x1"])
    assert stats.kstest(found["x1"].ravel(), "norm").pvalue > 1e-3
    with torch.no_grad():
        for t in (1.0, 0.5):
            now = torch.full((40,), t)
            then = torch.full((40,), t - 0.5)
            first = network(x, now)
            x = x - 0.25 * (first + network(x - 0.5 * first, then))
    np.testing.assert_allclose(found["x0"], x.numpy(), atol=2e-5)
    about = run.pairs.about
    assert (about["teacher"], about["number"], about["calls"]) == (run.parent.name, 40, 4)


def test_the_student_begins_with_the_teachers_average_and_learns_the_pairs(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.of(override(small, {"reflow.rounds": 1}))
    given: dict[str, Any] = {}

    def fit(config: Any, seed: int, network: Any, objective: Any, *rest: Any) -> None:
        given.update(network=network, objective=objective)
        raise Stopped

    assert run.parent is not None
    monkeypatch.setattr(train_module, "fit", fit)
    with pytest.raises(Stopped):
        train(run, quiet, never)
    averaged = restore(run.parent).network.state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in given["network"].state_dict().items())
    data = load(run.config.dataset)
    found = arrays(run.pairs)
    task = given["objective"].task(data.encode(tensor(data.train)[:20]), Streams(0, 0))
    rows = np.abs(found["x0"][:, None] - found["x1"][:, None] - -task.target.numpy()).reshape(50, 20, -1).max(-1)
    assert (rows.min(0) < 1e-6).all(), "every target x1 - x0 is that of one pair"


def test_a_student_without_a_warm_start_starts_as_if_it_had_no_teacher(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def fit(config: Any, seed: int, network: torch.nn.Module, *rest: Any) -> None:
        begun.append([weight.detach().clone() for weight in network.parameters()])
        raise Stopped

    run = Run.of(override(small, {"reflow.rounds": 1, "reflow.warm_start": False}))
    make_pairs(run, quiet, never)
    monkeypatch.setattr(train_module, "fit", fit)
    for of in (run, Run.of(override(small, {"train.steps": 13}))):
        with pytest.raises(Stopped):
            train(of, quiet, never)
    assert all(torch.equal(a, b) for a, b in zip(*begun, strict=True))


def test_a_distilled_network_sees_only_the_noise_and_learns_the_way_to_the_sample(small: RunConfig) -> None:
    run = Run.of(override(small, {"reflow.distil": True, "weighting": "min_snr"}))
    make_pairs(run, quiet, never)
    objective = train_module._objective(run)
    data = load(run.config.dataset)
    task = objective.task(data.encode(tensor(data.train)[:8]), Streams(0, 0))
    assert (task.t == 1).all()
    assert (objective.weight(task.t) == 1).all()
    found = arrays(run.pairs)
    row = np.abs(found["x1"] - task.xt[0].numpy()).reshape(50, -1).max(1).argmin()
    np.testing.assert_array_equal(task.xt[0].numpy(), found["x1"][row])
    np.testing.assert_allclose((task.xt - task.target)[0].numpy(), found["x0"][row], atol=1e-6)


def test_interrupted_pairs_continue_to_the_same_bytes(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.of(override(small, {"reflow.rounds": 1}))
    make_pairs(run, quiet, never)
    whole = {path.name: path.read_bytes() for path in run.pairs.folder.glob("*.npy")}
    shutil.rmtree(run.pairs.folder)
    with pytest.raises(Stopped, match="stopped after 20 of 50 pairs"):
        make_pairs(run, quiet, after(1))
    assert (run.pairs.done, run.pairs.about) == (20, {})
    with pytest.raises(ValueError, match="mmap"):  # an incomplete file is never used as complete
        np.load(run.pairs.folder / "x0.npy", mmap_mode="r")
    with open(run.pairs.folder / "x0.npy", "ab") as file:
        file.write(b"part of a batch")
    make_pairs(run, quiet, never)
    assert {path.name: path.read_bytes() for path in run.pairs.folder.glob("*.npy")} == whole
    made = {path: path.stat().st_mtime_ns for path in run.pairs.folder.iterdir() if path.name != "lock"}
    monkeypatch.setattr(reflow_module, "generate", None)  # a call would fail
    make_pairs(run, quiet, never)
    assert {path: path.stat().st_mtime_ns for path in run.pairs.folder.iterdir() if path.name != "lock"} == made


def test_a_round_and_a_distilled_run_of_the_same_flow_learn_the_same_pairs(small: RunConfig) -> None:
    """Either of them makes the pairs."""
    found = []
    for changes in ({"reflow.rounds": 1}, {"reflow.distil": True}):
        run = Run.of(override(small, changes))
        make_pairs(run, quiet, never)
        found.append(
            (run.pairs.folder, run.pairs.about["files"]["x0"]["sha256"], run.pairs.about["files"]["x1"]["sha256"])
        )
        shutil.rmtree(run.pairs.folder)
    assert found[0] == found[1]


@pytest.mark.parametrize("rows", [50, 45])
def test_facts_about_pairs_are_measured_even_if_only_they_were_missing(small: RunConfig, rows: int) -> None:
    run = Run.of(override(small, {"reflow.rounds": 1}))
    make_pairs(run, quiet, never)
    whole = {path.name: path.read_bytes() for path in run.pairs.folder.glob("*.npy")}
    (run.pairs.folder / "pairs.json").unlink()
    for array in run.pairs.arrays.values():
        array.path.write_bytes(array.path.read_bytes()[: array.size(rows)])
    make_pairs(run, quiet, never)
    assert run.pairs.about["calls"] == 4
    assert {path.name: path.read_bytes() for path in run.pairs.folder.glob("*.npy")} == whole


def test_workers_that_want_the_same_pairs_make_them_once(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker opens the lock separately, as a process does."""
    fill = Mock(wraps=reflow_module._fill)
    monkeypatch.setattr(reflow_module, "_fill", fill)
    runs = [Run.of(override(small, {"reflow.rounds": 1, "reflow.warm_start": warm})) for warm in (True, False)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: make_pairs(run, quiet, never), runs))
    assert fill.call_count == 1
    assert all(run.pairs.about for run in runs)


def test_a_rank_that_waits_for_the_pairs_of_the_first_can_be_stopped(small: RunConfig) -> None:
    run = Run.of(override(small, {"reflow.rounds": 1}))
    with pytest.raises(Stopped, match=r"^stopped while the first rank makes pairs$"):
        reflow_module.fill_pairs(run, lambda: True, Ranks(rank=1, number=2))
    assert not run.pairs.done


def test_pairs_that_find_no_room_name_their_file(small: RunConfig) -> None:
    pairs = Run.of(override(small, {"reflow.rounds": 1})).pairs
    pairs.folder.mkdir(parents=True)
    path = pairs.arrays["x0"].path
    with pairs.writer(20) as writer, open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), writer.files["x0"]._file.fileno())
        with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
            writer.add({"x0": np.zeros((20, 1, 8, 8), np.float32)})


@pytest.mark.parametrize("kind", ["not-finite", "unsolvable"])
def test_a_flow_that_gives_no_pairs_is_tried_once_and_the_reason_is_kept(
    small: RunConfig, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def generate(*args: Any, **more: Any) -> Iterator[Generated]:
        asked.append(args)
        if kind == "unsolvable":
            raise Unsolvable("dopri5 gave up.")
        nan = torch.full((20, 1, 8, 8), torch.nan)
        yield Generated(nan, None, 4, nan)

    run = Run.of(override(small, {"reflow.rounds": 1}))
    assert run.parent is not None
    monkeypatch.setattr(reflow_module, "generate", generate)
    reason = {"unsolvable": "dopri5 gave up.", "not-finite": "its samples at NFE 4 are not finite."}[kind]
    expected = {"unsolvable": Unsolvable, "not-finite": Diverged}[kind]
    for _ in range(2):
        with pytest.raises(
            expected,
            match=rf"^{run.parent.name} cannot make pairs: {re.escape(reason)} \(Remove .* to try again\.\)$",
        ):
            ensure(run.config, quiet, never)
    assert len(asked) == 1
    protocol = run.config.protocol()
    assert reason in str(run.failure(protocol))
    grandchild = Run.of(override(small, {"reflow.rounds": 2}))
    assert f"its teacher {run.name}: " in (said := str(grandchild.failure(protocol)))
    assert "cannot make pairs: " in said
    assert {type(each.failure(protocol)) for each in (run, grandchild)} == {expected}


def test_a_finished_student_needs_its_pairs_no_more(small: RunConfig) -> None:
    run = Run.of(override(small, {"reflow.rounds": 1}))
    train(run, quiet, never)
    shutil.rmtree(run.pairs.folder)
    ensure(run.config, quiet, never)
    assert not run.pairs.folder.exists()


def test_cells_reflow_like_images(small: RunConfig, needed: Callable[..., dict[str, Any]]) -> None:
    cells = {"name": "cells", **needed("cells")}
    changes = {
        "dataset": cells,
        "backbone": {"name": "mlp", "width": 16, "blocks": 1},
        "evaluate.extractor": "values",
        "train.batch_size": 8,
    }
    changes |= {"evaluate.num_samples": 30, "evaluate.metrics": ["energy", "straightness"], "reflow.rounds": 1}
    run = ensure(override(small, changes), quiet, never)
    assert arrays(run.pairs)["x0"].shape == (50, 20)
    values = run.evaluation(run.config.protocol())["values"]
    assert set(values) == {"energy", "straightness"}


def edit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


@pytest.mark.parametrize("damage", [edit, cut, Path.unlink], ids=["edited", "cut", "gone"])
@pytest.mark.parametrize("name", ["x0", "x1"])
def test_changed_pairs_are_refused(small: RunConfig, damage: Callable[[Path], None], name: str) -> None:
    run = Run.of(override(small, {"reflow.rounds": 1}))
    make_pairs(run, quiet, never)
    damage(run.pairs.folder / f"{name}.npy")
    with pytest.raises(
        UserError, match=rf"{name}\.npy: (was edited or cut short|is gone).* Remove .*{run.pairs.name}, .*again\.$"
    ):
        train(run, quiet, never)


def test_pairs_may_be_copied(small: RunConfig) -> None:
    run = Run.of(override(small, {"reflow.rounds": 1}))
    make_pairs(run, quiet, never)
    for path in run.pairs.folder.glob("*.npy"):
        path.write_bytes(path.read_bytes())
    train(run, quiet, never)
    assert run.finished


def test_a_teacher_that_knows_classes_gives_labelled_pairs_and_guidance_changes_them(small: RunConfig) -> None:
    changes = {"objective.label_dropout": 0.5, "reflow.rounds": 1}
    run = Run.of(override(small, changes))
    train(run, quiet, never)
    found = arrays(run.pairs)
    assert set(found) == {"x0", "x1", "y"}
    assert set(found["y"]) <= set(range(10))
    guided = Run.of(override(small, {**changes, "reflow.guidance.scale": 3, "reflow.nfe": 8}))
    plain = Run.of(override(small, {**changes, "reflow.nfe": 4}))
    make_pairs(guided, quiet, never)
    make_pairs(plain, quiet, never)
    one = arrays(guided.pairs)
    other = arrays(plain.pairs)
    assert np.array_equal(one["x1"], other["x1"])
    assert np.array_equal(one["y"], other["y"])
    assert not np.allclose(one["x0"], other["x0"])


def test_a_network_gets_the_right_classes_of_pairs(small: RunConfig) -> None:
    run = Run.of(override(small, {"objective.label_dropout": 0.0, "reflow.rounds": 1}))
    make_pairs(run, quiet, never)
    data = load(run.config.dataset)
    found = arrays(run.pairs)
    assert data.classes is not None
    task = train_module._objective(run).task(
        data.encode(tensor(data.train)[:30]), Streams(0, 0), tensor(data.classes)[:30]
    )
    assert task.y is not None
    target = task.target.numpy()
    rows = [np.abs(found["x1"] - found["x0"] - target[i]).reshape(50, -1).max(1).argmin() for i in range(30)]
    assert np.array_equal(found["y"][rows], task.y.numpy())
    assert not np.array_equal(data.classes[:30].numpy(), task.y.numpy())


# The predictions of theory (Liu et al. 2023)


POINTS = {
    "train.steps": 350, "train.batch_size": 128, "train.sample_every": 350, "train.checkpoint_every": 350,
    "reflow.number": 3000, "reflow.nfe": 20, "reflow.batch_size": 1000, "evaluate.nfe": [32],
    "evaluate.metrics": ["sliced_wasserstein"],
}  # fmt: skip


def flows(config: RunConfig, number: int) -> list[Run]:
    """Return the 1-rectified to the `number`-rectified flow."""
    runs = [Run.of(override(config, {"reflow.rounds": k})) for k in range(number + 1)]
    train(runs[-1], quiet, never)
    return runs


def measured(run: Run) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return the unscaled straightness S, |x1 - x0|^2 of each path [N], and the samples of a run's flow."""
    path = paths(run, restore(run), 32, 2000)
    moved = (path[-1] - path[0]).double().square().sum(1)
    return straightness(path)["straightness"] * moved.mean().item(), moved, path[-1]


@pytest.mark.slow
def test_one_round_makes_the_flow_to_a_round_gaussian_straight_and_its_cost_the_least() -> None:
    """From N(0, I) to N(0, 0.3^2 I) in two dimensions, the map 0.3 x is optimal: its cost is 2 (1 - 0.3)^2. Independent
    pairs cost 2 (1 + 0.3^2), but already the first flow makes this map; only its speed changes along the way.
    """
    base = override(load_scale("points"), POINTS | {"dataset": {"name": "gaussian_mixture", "components": 1}})
    (before, cost, _), (after, cost_after, samples) = (measured(run) for run in flows(base, 1))
    for costs in (cost, cost_after):
        assert costs.mean().item() == pytest.approx(2 * 0.7**2, rel=0.05)
    assert after < 0.003 * cost_after.mean().item()
    assert after < 0.01 * before
    assert samples.std(0).tolist() == pytest.approx([0.3, 0.3], rel=0.05)
    assert samples.mean(0).tolist() == pytest.approx([0, 0], abs=0.03)


@pytest.mark.slow
def test_rounds_keep_the_marginals_and_never_raise_the_cost() -> None:
    base = override(load_scale("points"), POINTS)
    found = [measured(run) for run in flows(base, 2)]
    real = load(base.dataset)
    between = ot.sliced_wasserstein_distance(
        tensor(real.train)[:2000].numpy(), tensor(real.held_out)[:2000].numpy(), seed=0
    )
    for _, _, samples in found[1:]:
        assert ot.sliced_wasserstein_distance(samples.numpy(), found[0][2].numpy(), seed=0) < between
    for (_, one, _), (_, other, _) in itertools.pairwise(found):
        half = 1.96 * (other - one).std().item() / math.sqrt(len(one))
        assert (other - one).mean().item() <= half + 0.02 * one.mean().item()
    independent = 2 + tensor(real.train).double().square().sum(1).mean().item()
    for k in range(1, len(found) + 1):
        assert min(s for s, _, _ in found[:k]) <= independent / k
    assert found[1][0] < 0.2 * found[0][0]


# Rounds as arms


def test_the_trials_of_a_seed_are_consecutive_if_one_arm_learns_anothers_pairs() -> None:
    plan = Plan.of(load_study("reflow"), "digits", load_scale("digits"), {}, 2, [])
    assert plan.trials()[:4] == [("1-rectified", 0), ("1-rectified", 1), ("2-rectified", 0), ("2-rectified", 1)]
    for arm, config in plan.arms.items():
        assert arm == f"{config.rectified}-rectified"
        measured = [metric.name for metric in config.evaluate.metrics]
        of_scale = [metric.name for metric in load_scale("digits").evaluate.metrics]
        assert measured == [*of_scale, "straightness", "curvature", "transport_cost"]
    assert Plan.read(plan.write()) == dataclasses.replace(
        plan, expected_nfe={k: list(v) for k, v in plan.expected_nfe.items()}
    )


def test_an_arms_teacher_is_found_by_its_run(tiny: RunConfig) -> None:
    longer = override(tiny, {"train.steps": 20})
    arms: dict[str, Any] = {"a": {"reflow.rounds": 1}, "b": {"reflow.rounds": 1, "reflow.teacher": longer}}
    plan = Plan.of(Study(question="?", baseline="a", arms=arms, name="mine"), "digits", tiny, {}, 1, [])
    assert arm_settings.described(plan)["b"] == f"reflow.teacher = run {training_digest(longer)}"


def test_distilled_arms_are_measured_without_metrics_of_flows() -> None:
    arms: dict[str, dict[str, Any]] = {
        "a": {"reflow.rounds": 1},
        "b": {"reflow.rounds": 1, "reflow.distil": True, "evaluate.nfe": [1]},
    }
    study = Study(question="?", baseline="a", arms=arms, metrics=("curvature",), name="mine")
    plan = Plan.of(study, "digits", load_scale("digits"), {}, 1, [])
    of_scale = len(load_scale("digits").evaluate.metrics)
    assert [len(config.evaluate.metrics) for config in plan.arms.values()] == [of_scale + 1, of_scale]


def test_a_flow_that_always_sees_classes_has_rounds_whose_flow_is_measured(small: RunConfig) -> None:
    teacher = override(small, {"objective.label_dropout": 0.0})
    train(Run.of(teacher), quiet, never)
    plan = rounds.plan_of([Run.of(teacher)], 1, False, {})
    assert [[metric.name for metric in config.evaluate.metrics] for config in plan.arms.values()] == [
        ["fid", *rounds.MEASURED]
    ] * 2


def test_an_expectation_for_an_unknown_arm_is_refused() -> None:
    with pytest.raises(UserError, match=r"^expected_nfe: 'c' is not an arm"):
        Study(question="?", baseline="a", arms={"a": {}, "b": {"seed": 1}}, expected_nfe={"c": (1, 2)})


def test_rounds_from_a_run_are_those_of_a_study(small: RunConfig) -> None:
    """The runs are shared: neither trains what the other has trained."""
    plan = rounds.plan_of([Run.of(small)], 2, True, {})
    assert list(plan.arms) == ["1-rectified", "2-rectified", "3-rectified", "3-rectified distilled"]
    for arm, rounded in zip(plan.arms, (0, 1, 2), strict=False):
        assert plan.run(arm, 0).name == Run.of(override(small, {"reflow.rounds": rounded})).name
    for number, config in enumerate(plan.arms.values()):
        assert config.parent is None or training_digest(config.parent) == training_digest(
            list(plan.arms.values())[number - 1]
        )


def test_changed_rounds_have_the_run_as_their_teacher(small: RunConfig) -> None:
    teacher = override(small, {"reflow.rounds": 1})
    train(Run.of(teacher), quiet, never)
    for changes in ({"train.steps": 20}, {"reflow.number": 60}, {"train.steps": 20, "reflow.nfe": 8}):
        plan = rounds.plan_of([Run.of(teacher)], 2, False, changes)
        assert list(plan.arms) == ["2-rectified", "3-rectified", "4-rectified"]
        parent = plan.run("3-rectified", 0).parent
        assert parent is not None
        assert parent.name == Run.of(teacher).name, changes
        for arm in ("3-rectified", "4-rectified"):
            assert override(plan.arms[arm], changes) == plan.arms[arm], changes


@pytest.mark.parametrize("path", ["seed", "reflow.rounds", "reflow.distil", "reflow.teacher"])
def test_settings_that_the_runs_decide_cannot_be_set(small: RunConfig, path: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(path)}: follows from the runs"):
        rounds.plan_of([Run.of(small)], 1, False, {path: 1})


@pytest.mark.parametrize(
    "evaluate",
    [
        {"evaluate.solver": "heun", "evaluate.nfe": [2, 4]},
        {"evaluate.time_grid": "quadratic"},
        {"objective.label_dropout": 0.1, "evaluate.guidance.scale": 2, "evaluate.nfe": [2]},
    ],
    ids=str,
)
def test_a_distilled_run_is_judged_by_one_step_whatever_the_flows_use(
    small: RunConfig, evaluate: dict[str, Any]
) -> None:
    config = override(small, evaluate)
    train(Run.of(config), quiet, never)
    *flows, distilled = rounds.plan_of([Run.of(config)], 1, True, {}).arms.values()
    assert all(flow.evaluate.solver == config.evaluate.solver for flow in flows)
    assert (distilled.evaluate.solver.name, distilled.evaluate.nfe, distilled.evaluate.guidance.scale) == (
        "euler",
        (1,),
        1,
    )
    assert len(distilled.evaluate.metrics) == 1


def test_rounds_may_drop_the_teachers_classes(small: RunConfig) -> None:
    """Guided pairs of a flow with classes, for a flow without classes, which could not make guided pairs."""
    teacher = override(small, {"objective.label_dropout": 0.1})
    train(Run.of(teacher), quiet, never)
    changes = {"objective.label_dropout": None, "reflow.guidance.scale": 2, "reflow.warm_start": False}
    plan = rounds.plan_of([Run.of(teacher)], 1, False, changes)
    assert plan.arms["2-rectified"].parent == plan.arms["1-rectified"]


def test_a_teacher_that_is_not_finished_is_refused(small: RunConfig) -> None:
    run = Run.of(override(small, {"seed": 1}))
    with pytest.raises(Stopped):
        train(run, quiet, after(5))
    with pytest.raises(
        UserError, match=r"is trained for \d+ of 12 steps\. Run `harness train` with its settings first\.$"
    ):
        rounds.plan_of([run], 1, False, {})


def test_a_run_gives_the_same_alone_and_as_a_descendants_ancestor(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(small, {"reflow.rounds": 1})
    found = []
    for results in ("results", "others"):  # the first folder already has the ancestor
        monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / results))
        run = ensure(config, quiet, never)
        found.append((run.evaluation(config.protocol())["values"], run.pairs.about["files"]["x0"]["sha256"]))
    assert found[0] == found[1]


@pytest.mark.parametrize("command", ["train", "ablate weighting"])
def test_settings_of_rounds_are_refused_without_rounds(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*command.split(), "--set", "reflow.nfe=10"]) == 2
    assert (
        "reflow.nfe: without a round it changes nothing. Set reflow.rounds=1 too, or leave it out."
        in capsys.readouterr().err
    )
