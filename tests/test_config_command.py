"""`harness config` and `harness list studies|scales`: their output is valid for `--set`, `--scale` and STUDY."""

from __future__ import annotations

import json
import shlex

import pytest

from harness.ablation.design.looks import Looks
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_scales, load_study
from harness.cli import main
from harness.cli.config import settings
from harness.core.config import flatten, override, parse_assignments
from harness.core.files import write_json
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import facts_of


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("scale", [*load_scales()])
def test_the_printed_settings_of_a_scale_make_the_same_scale(scale: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line is valid for `--set`, on a configuration that shares only the data."""
    config = load_scale(scale)
    assignments = [f"{row['path']}={_typed(row['value'])}" for row in settings(config)]
    other = load_scale("digits" if scale != "digits" else "points")
    assert override(other, parse_assignments(assignments)) == config
    assert {row["path"] for row in settings(config)} == {*flatten(config)}


def _typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_the_table_is_valid_in_a_shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    lines = shown(capsys, "config", "--scale", "points").splitlines()[1:]
    words = [shlex.split(line)[0] for line in lines]
    assert override(load_scale("points"), parse_assignments(words)) == load_scale("points")
    assert 'evaluate.metrics=["sliced_wasserstein","mmd","energy","c2st"]' in words
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, shown(capsys, "config").splitlines())) <= 80


def test_types_choices_and_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["path"]: row for row in json.loads(shown(capsys, "config", "--json", "--scale", "points"))}
    expected = {
        "train.clip_norm": ("number or null", [], "[1e-150, 1e+150]"),
        "train.precision": ("choice", ["auto", "fp32", "tf32", "bf16"], None),
        "evaluate.nfe": ("list, each a whole number", [], "[0, 10000]"),
        "loss": ("loss", ["mse", "pseudo_huber"], None),
        "evaluate.extractor": ("text", ["clip", "digits", "dinov2", "inception", "values"], None),
        "objective.normalise_weight": ("true or false", [], None),
    }
    found = {path: (rows[path]["type"], rows[path]["choices"], rows[path]["range"]) for path in expected}
    assert found == expected
    assert rows["train.steps"]["value"] == load_scale("points").train.steps


def test_the_settings_of_a_run(tiny_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["path"]: row["value"] for row in json.loads(shown(capsys, "config", "--json", tiny_run.name))}
    assert (rows["train.steps"], rows["backbone.channels"], rows["train.optimizer"]) == (12, 8, "adamw")
    assert main(["config", tiny_run.name, "--scale", "points"]) == 2


def test_two_runs_are_compared(
    tiny: RunConfig, tiny_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By names or addresses; a field that one component lacks has no value there."""
    other = override(tiny, {"weighting": "min_snr", "seed": 7})
    monkeypatch.setenv("COLUMNS", "120")
    arms = {"uniform": tiny, "min_snr": other}
    Plan("weighting", "digits", "Which?", "uniform", arms, Looks((8,)), tuple(range(8)), "fid", 2, 0.1, ()).write()
    for config in (other, override(tiny, {"seed": 7})):
        run = Run.of(config)
        run.describe(lambda _: None)
        write_json(run.folder / "environment.json", {"commits": ["abc"], "name": run.name, **facts_of(run.config)})
    found = json.loads(shown(capsys, "config", "--json", tiny_run.name, Run.of(other).name))
    assert found == [
        {"path": "weighting", "first": "uniform", "second": "min_snr"},
        {"path": "weighting.gamma", "second": 5.0},
        {"path": "seed", "first": 0, "second": 7},
    ]
    lines = shown(capsys, "config", "weighting/uniform/7", "weighting/min_snr/7").splitlines()
    assert [line.split() for line in lines] == [
        ["path", "weighting/uniform/7", "weighting/min_snr/7"],
        ["weighting", "uniform", "min_snr"],
        ["weighting.gamma", "5.0"],
    ]
    assert shown(capsys, "config", tiny_run.name, tiny_run.name) == "no setting differs\n"
    assert main(["config", *["weighting/uniform/7"] * 3]) == 2
    assert capsys.readouterr().err == "error: weighting/uniform/7: one run too many. Give one run, or two to compare.\n"


def test_studies_and_scales_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has one line; the line of a scale describes its training."""
    studies = {row["name"]: row for row in json.loads(shown(capsys, "list", "studies", "--json"))["studies"]}
    assert studies["weighting"]["about"] == load_study("weighting").question
    assert studies["tuning"]["command"] == "tune"
    assert "scales" not in studies
    scales = json.loads(shown(capsys, "list", "scales", "--json"))["scales"]
    assert [row["name"] for row in scales] == [*load_scales()]
    assert all(row["about"] for row in scales)
    assert scales[0]["facts"] == "digits, unet, 660 steps, FID"
    monkeypatch.setenv("COLUMNS", "80")
    for kind in ("studies", "scales"):
        assert max(map(len, shown(capsys, "list", kind).splitlines())) <= 80
    assert main(["list", "scale"]) == 2
    assert "Did you mean 'scales'?" in capsys.readouterr().err
