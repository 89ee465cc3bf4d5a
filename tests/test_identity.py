"""A folder contains the run of its name, or one line says why not: edited, moved, copied, or from another version."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.ablation.design.study import load_scale
from harness.cli import main
from harness.core import registry
from harness.core.config import override, to_dict
from harness.core.errors import UserError
from harness.core.files import read_json, runs_folder, write_json
from harness.core.registry import load_plugin
from harness.data.base import load
from harness.runs.config import RunConfig
from harness.runs.contents import EVALUATED
from harness.runs.folder import Run
from harness.runs.identity import NUMERICS_VERSION, facts_of, leaving_the_name, training_digest
from harness.runs.sample import restore
from harness.runs.stored import same_training
from harness.runs.train import make_pairs, train

Edit = dict[str, Any]


@pytest.fixture
def points() -> RunConfig:
    """Eight Gaussians, a small network, a few steps."""
    changes = {
        "train.steps": 3,
        "train.sample_every": 3,
        "train.warmup_steps": 1,
        "train.device": "auto",
        "backbone.width": 8,
    }
    judged = {"evaluate.nfe": [2], "evaluate.num_samples": 40, "evaluate.metrics": ["sliced_wasserstein"]}
    return override(
        load_scale("points"), {**changes, **judged, "reflow.number": 20, "reflow.nfe": 2, "reflow.batch_size": 20}
    )


WRITTEN = {"commits": ["0123456789ab-dirty"], "parameters": 1, "weight_mean": 1.0}
"""Facts that training writes about itself and that do not enter the name."""


def kept(config: RunConfig, **facts: Any) -> Path:
    """Return a folder as training writes it, on a machine or with code that has other facts."""
    then = {**facts_of(config), **facts}
    folder = runs_folder() / f"{training_digest(config, then)}-s{config.seed}"
    write_json(folder / "config.json", to_dict(config))
    write_json(folder / "environment.json", {"name": folder.name, **WRITTEN, **then})
    return folder


def edit(path: Path, changes: Edit) -> None:
    """Change a JSON file at paths of keys."""
    whole = read_json(path)
    for key, value in changes.items():
        *above, last = key.split(".")
        inside = whole
        for name in above:
            inside = inside[name]
        inside[last] = value
    write_json(path, whole)


def refusal(name: str | Path, changes: Edit | None = None) -> str:
    with pytest.raises(UserError) as caught:
        Run.open(str(name), changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


EDITS: list[Edit] = [
    {"prediction": {"name": "data"}}, {"weighting": {"name": "min_snr", "gamma": 2.0}}, {"train.learning_rate": 0.5},
    {"train.steps": 4},
    {"train.threads": 2}, {"seed": 1}, {"noise": {"name": "laplace"}}, {"interpolant": {"name": "vp"}},
    {"dataset.number": 9000},
    {"backbone.width": 16}, {"coupling": {"name": "exact_ot"}}, {"objective.label_dropout": 0.1},
    {"train.optimizer.beta2": 0.9},
]  # fmt: skip


def test_an_edited_configuration_is_refused_until_it_is_restored(points: RunConfig) -> None:
    folder = kept(points)
    whole = (folder / "config.json").read_bytes()
    for changes in EDITS:
        edit(folder / "config.json", changes)
        assert f"{folder}: config.json gives the name " in refusal(folder.name), changes
        (folder / "config.json").write_bytes(whole)
        assert Run.open(folder.name) == Run(points, folder)


def test_settings_that_no_name_depends_on_may_be_edited(points: RunConfig) -> None:
    folder = kept(points)
    free: list[Edit] = [
        {"evaluate.nfe": [4]},
        {"train.log_every": 7},
        {"evaluate.batch_size": 3},
        {"reflow.number": 9},
        {"train.device": "cpu"},
    ]
    for changes in free:
        edit(folder / "config.json", changes)
        assert Run.open(folder.name).folder == folder


def test_an_edited_configuration_gives_no_value_and_its_command_restores_it(
    points: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.of(points)
    train(run, lambda _: None, lambda: False)
    edit(run.folder / "config.json", {"prediction": {"name": "data"}})
    assert main(["evaluate", run.name]) == 2
    assert "config.json gives the name" in capsys.readouterr().err
    assert not (run.folder / "evaluations").exists()
    (run.folder / "config.json").unlink()
    train(run, lambda _: None, lambda: False)
    assert Run.open(run.name) == run


def test_a_folder_may_be_copied_moved_and_linked_and_not_renamed(points: RunConfig, tmp_path: Path) -> None:
    folder = kept(points)
    there = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, there)
    assert Run.open(str(there)).folder == there
    (tmp_path / "best").symlink_to(there)
    assert Run.open(str(tmp_path / "best")).name == folder.name
    for name in ("mine", "0123456789ab-s0", folder.name.replace("-s0", "-s1")):
        there = there.rename(there.with_name(name))
        assert refusal(there) == f"{there}: was renamed: it is the run {folder.name}. Give the folder that name again."
    with pytest.raises(UserError, match=rf"must be at {folder}, where rounds and sweeps look for it\. Move it there"):
        same_training([Run(points, there)])


def test_a_run_of_other_numerics_names_the_commit(points: RunConfig) -> None:
    for version in (1, NUMERICS_VERSION + 1):
        folder = kept(points, numerics_version=version, data={"train": 1, "held_out": 1, "sha256": "abc"})
        reason = f"was trained with numerics version {version}, this code has {NUMERICS_VERSION}"
        assert refusal(folder) == f"{folder}: {reason}. Train it again, or use the code of commit 0123456789ab."
        environment = read_json(folder / "environment.json")
        if version == 1:  # version 1 did not write its number
            write_json(folder / "environment.json", {name: environment[name] for name in (*WRITTEN, "data")})
            assert reason in refusal(folder)


def test_a_run_of_another_device_is_used_if_the_device_is_chosen(points: RunConfig) -> None:
    there = {"device": "cuda", "precision": "bf16", "compile": "off", "channels_last": "on"}
    folder = kept(points, resolved=there)
    assert (
        ": was trained on cuda, and train.device means cpu here. Add --set train.device=cpu to use it here"
        in refusal(folder)
    )
    run = Run.open(folder.name, {"train.device": "cpu"})
    assert run.config.train.resolved_device() == "cpu"
    edit(folder / "config.json", {"train.learning_rate": 0.5})
    assert "config.json gives the name" in refusal(folder, {"train.device": "cpu"})
    also = kept(points, resolved=there, sources={"weighting.mine": "0123456789ab"})
    assert "its components' files were edited (" in refusal(also, {"train.device": "cpu"})


def test_a_plugin_that_was_edited_or_is_missing_is_named(
    points: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = dict(registry._MEMBERS["weighting"])
    monkeypatch.setitem(registry._MEMBERS, "weighting", members)
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom harness.components.weightings import Uniform\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Uniform, name='mine'):\n    '''Mine.'''\n"
    )
    load_plugin(path)
    folder = kept(override(points, {"weighting": "mine"}))
    path.write_text(path.read_text() + "# edited\n")
    assert "its components' files were edited (weighting.mine " in refusal(folder)
    del members["mine"]
    said = refusal(folder)
    assert said.startswith(f"{folder / 'config.json'}: weighting: 'mine' is not a known weighting.")
    assert said.endswith("Pass the --plugin that defines weighting.mine.")


@pytest.fixture
def pictures(points: RunConfig, tmp_path: Path) -> Callable[[str, int], RunConfig]:
    """`pictures(name, seed)`: a configuration on random pictures in a file of this name."""

    def made(name: str, seed: int) -> RunConfig:
        images = np.random.default_rng(seed).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
        np.savez(tmp_path / name, images=images)
        load.cache_clear()
        dataset = {"name": "npz", "path": str(tmp_path / name)}
        return override(
            load_scale("digits"), {"dataset": dataset, "train.batch_size": 8, "train.steps": 1, "evaluate.nfe": [2]}
        )

    return made


def test_moved_data_are_found_by_their_path_and_other_data_are_refused(
    pictures: Callable[[str, int], RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.of(pictures("a.npz", 0))
    train(run, lambda _: None, lambda: False)
    (tmp_path / "a.npz").rename(tmp_path / "moved.npz")
    pictures("others.npz", 1)
    command = ["sample", run.name, "--nfe", "2", "--number", "2", "--out", str(tmp_path / "s.npz")]
    out = capsys
    assert main(command) == 2
    assert f"dataset.path: {tmp_path / 'a.npz'} does not exist. Give" in out.readouterr().err
    assert main([*command, "--set", f"dataset.path={tmp_path / 'moved.npz'}"]) == 0
    assert main([*command, "--set", f"dataset.path={tmp_path / 'others.npz'}"]) == 2
    assert f"{run.folder}: it was trained on other data (sha256 " in out.readouterr().err
    for name in ("evaluate", "reflow", "lineage"):
        assert main([name, run.name, "--set", f"dataset.path={tmp_path / 'absent.npz'}"]) == 2
        assert f"dataset.path: {tmp_path / 'absent.npz'} does not exist." in out.readouterr().err
    assert main(["lineage", run.name, "--set", f"dataset.path={tmp_path / 'moved.npz'}"]) == 0


def test_other_places_move_too(pictures: Callable[[str, int], RunConfig], tmp_path: Path) -> None:
    """This covers the population of the noise, and the data of a student's named teacher."""
    base = pictures("a.npz", 0)
    population = override(base, {"noise": {"name": "population", "dataset": to_dict(pictures("b.npz", 1).dataset)}})
    student = override(base, {"reflow.teacher": override(base, {"train.learning_rate": 0.1}), "reflow.rounds": 1})
    folders = [kept(config) for config in (population, student)]
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).rename(tmp_path / f"moved-{name}")
    load.cache_clear()
    moved = {"dataset.path": str(tmp_path / "moved-a.npz")}
    said = refusal(folders[0], moved)
    assert said.startswith(f"noise.dataset.path: {tmp_path / 'b.npz'} does not exist.")
    assert said.endswith(" Or pass its new path: --set noise.dataset.path=...")
    assert (
        Run.open(str(folders[0]), {**moved, "noise.dataset.path": str(tmp_path / "moved-b.npz")}).name
        == folders[0].name
    )
    assert "its noise, coupling or perceptual loss had other files (" in refusal(
        folders[0], {**moved, "noise.dataset.path": str(tmp_path / "moved-a.npz")}
    )
    opened = Run.open(str(folders[1]), {**moved, "dataset.flip": False})
    assert opened.parent is not None
    assert opened.parent.config.dataset == opened.config.dataset
    edit(folders[1] / "config.json", {"reflow.teacher.train.learning_rate": 0.2})
    assert "its teacher was the run " in refusal(folders[1], moved)


def test_a_finished_run_accepts_only_changes_of_how_and_where(points: RunConfig) -> None:
    folder = kept(points)
    taken: list[Edit] = [
        {"train.log_every": 3},
        {"train.recompute": True},
        {"train.graph": "on"},
        {"evaluate.nfe": [8]},
        {"train.steps": points.train.steps},
    ]
    for changes in taken:
        assert Run.open(folder.name, changes).folder == folder
    refused: list[Edit] = [
        {"train.steps": 5},
        {"seed": 2},
        {"dataset.number": 50},
        {"train.log_every": 3, "weighting": "min_snr"},
    ]
    for changes in refused:
        path = list(changes)[-1]
        assert refusal(folder.name, changes) == (
            f"{path}: cannot be changed after training. Change evaluate.*, or train another run."
        )
    assert "Did you mean 'steps'?" in refusal(folder.name, {"train.step": 5})


def test_changes_that_change_the_name_together_are_found(points: RunConfig) -> None:
    """dopri5 alone is refused, because it cannot use exactly 2 calls."""
    changes = {"evaluate.solver": "dopri5", "train.log_every": 3, "evaluate.nfe": [0], "train.steps": 5}
    assert leaving_the_name(points, changes) == {"train.log_every": 3}


def test_an_evaluation_of_another_run_or_protocol_is_refused(points: RunConfig) -> None:
    runs = [Run.of(override(points, {"seed": seed})) for seed in (0, 1)]
    protocols = [run.config.protocol() for run in runs]
    other = dataclasses.replace(protocols[0], num_samples=41)
    path = runs[0].folder / "evaluations" / f"{other.digest}.json"
    for wrong in (runs[1].evaluation(other), runs[0].evaluation(protocols[0])):
        write_json(path, wrong)
        with pytest.raises(
            UserError,
            match=rf"^{path}: belongs to another run or protocol\. {EVALUATED}$",
        ):
            runs[0].evaluation(other)
    write_json(path, runs[0].evaluation(protocols[0]) | {"protocol": other.plain})
    assert runs[0].evaluation(other)["values"] == {}


def test_weights_of_another_run_are_refused(points: RunConfig) -> None:
    """Weights of another seed have the same shapes; both sampling and resuming refuse them."""
    runs = [Run.of(override(points, {"seed": seed})) for seed in (0, 1)]
    for run in runs:
        train(run, lambda _: None, lambda: False)
    shutil.rmtree(runs[0].folder / "checkpoints")
    shutil.copytree(runs[1].folder / "checkpoints", runs[0].folder / "checkpoints")
    said = (
        rf"safetensors: was written by the run {runs[1].name}, but lies in the folder of the run {runs[0].name}\. "
        r"Remove it\.$"
    )
    with pytest.raises(UserError, match=said):
        restore(runs[0])
    with pytest.raises(UserError, match=said):
        train(runs[0], lambda _: None, lambda: False)
    there = runs[1].folder.rename(runs[1].folder.parents[1] / runs[1].name)
    restore(Run.open(str(there)))


def test_pairs_from_other_runs_or_settings_are_refused(points: RunConfig) -> None:
    run = Run.of(override(points, {"reflow.rounds": 1}))
    make_pairs(run, lambda _: None, lambda: False)
    whole = run.pairs.about
    wrong: list[Edit] = [
        {"teacher": "0123456789ab-s0"},
        {"made.nfe": 4},
        {"made.guidance.scale": 2.0},
        {"number": 30},
        {"files": {}},
    ]
    for changes in wrong:
        edit(run.pairs.folder / "pairs.json", changes)
        name = next(iter(changes)).partition(".")[0]
        with pytest.raises(
            UserError,
            match=rf"pairs\.json: its entry '{name}' does not fit these pairs: .* Remove {run.pairs.folder}, ",
        ):
            make_pairs(run, lambda _: None, lambda: False)
        write_json(run.pairs.folder / "pairs.json", whole)
    make_pairs(run, lambda _: None, lambda: False)
