"""The tables of papers in studies/papers/: settings that exist, differences that are computed, and the page of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shlex
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.ablation.design.paper import (
    ABSENT,
    Compared,
    PaperTable,
    Row,
    agrees,
    at,
    compare,
    load_paper,
    paper_names,
    papers_folder,
    shown,
)
from harness.ablation.design.study import load_scale
from harness.ablation.report import paper_page
from harness.cli.papers import command
from harness.core.config import override, parse_assignments, to_dict
from harness.core.errors import ConfigError, UserError
from harness.flow.formulation import Formulation

ROWS = [(name, row) for name in paper_names() for row in load_paper(name).rows]
CONFIGURED = [(name, row) for name, row in ROWS if not load_paper(name).rows[row].cannot]
NUMBER_OF_ROWS = {
    "lipman2023_table1": 5,
    "liu2023_table1": 14,  # five flows by RK45 and distilled, three of them in one step, and the SDE
    "karras2022_table2": 12,
    "peebles2023_tables": 13,
    "ma2024_tables": 17,
    "esser2024_tables": 14,
    "tong2024_table5": 4,
    "sourcefm2025_table6": 8,
    "hang2023_table1": 8,
    "lee2024_cifar10": 5,
    "c2ot2025_moons": 4,
}


def test_every_published_table_is_here_with_its_rows() -> None:
    assert {name: len(load_paper(name).rows) for name in paper_names()} == NUMBER_OF_ROWS


@pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda value: value.replace(" ", "_"))
def test_every_row_has_settings_that_exist(name: str, row: str) -> None:
    """A row's configurations are valid, and each path that is stated or not stated is one of them."""
    table = load_paper(name)
    if table.rows[row].cannot:
        override(load_scale("digits"), table.rows[row].stated)
        return
    for config in table.configurations(row).values():
        plain = to_dict(config)
        for path in (*table.stated, *table.unstated):
            assert at(plain, path) is not ABSENT, path


def test_published_values_were_typed_twice() -> None:
    """Another person typed the second copy from the papers' tables without seeing the first."""
    ours = {name: {row: dict(own.published) for row, own in load_paper(name).rows.items()} for name in paper_names()}
    theirs = json.loads((Path(__file__).parent / "published_by_hand.json").read_text())
    given = {name: {row: values for row, values in rows.items() if values} for name, rows in ours.items()}
    plain = json.loads(json.dumps({name: rows for name, rows in given.items() if rows}))
    assert plain == theirs
    assert sum(len(values) for rows in theirs.values() for values in rows.values()) > 150


def test_the_page_is_current() -> None:
    assert (papers_folder() / "README.md").read_text() == paper_page.page()


TABLE = PaperTable(
    paper="Nobody 2026, table 1",
    scale="cifar10",
    stated={"train.batch_size": 128, "train.optimizer": {"name": "adam"}},
    unstated=("train.precision", "train.clip_norm"),
    rows={
        "as stated": Row(stated={"interpolant": "gvp"}),
        "another path": Row(stated={"interpolant": "gvp"}, ours={"interpolant": "linear"}),
        "half a recipe": Row(lacks={"their augmentation": "flips"}),
        "nothing": Row(cannot="it needs text"),
    },
)


def test_a_configuration_with_every_stated_setting_is_exact() -> None:
    assert compare(TABLE, "as stated") == Compared("exact", [], {"train.precision": "auto", "train.clip_norm": 1.0})


def test_a_difference_is_found_in_the_configuration_itself() -> None:
    assert compare(TABLE, "another path").why == ["`interpolant` gvp; here: linear"]
    assert compare(TABLE, "half a recipe")[:2] == ("differs", ["their augmentation; here: flips"])
    assert compare(TABLE, "nothing")[:2] == ("cannot", ["it needs text"])


ADAM = "adam (beta1 0.9, beta2 0.999, eps 1e-08)"


@pytest.mark.parametrize(
    ("path", "stated", "told"),
    [
        ("train.batch_size", 256, "256; here: 128"),
        ("train.clip_norm", None, "null; here: 1.0"),
        ("train.optimizer", {"name": "adam", "beta2": 0.99}, f"adam (beta2 0.99); here: {ADAM}"),
        ("train.optimizer", "adamw", f"adamw; here: {ADAM}"),
        ("train.optimizer.weight_decay", 0.1, "0.1; here: nothing"),
        ("backbone.multipliers", [1, 2, 2], "[1, 2, 2]; here: [1, 2, 2, 2]"),
        ("evaluate.metrics", ["kid"], "[kid]; here: [fid]"),
    ],
)
def test_each_kind_of_difference_is_told(path: str, stated: object, told: str) -> None:
    table = dataclasses.replace(TABLE, stated={path: stated})
    assert compare(table, "as stated")[:2] == ("differs", [f"`{path}` {told}"])


def test_an_evaluation_differs_too() -> None:
    table = dataclasses.replace(
        TABLE,
        stated={"evaluate.solver": "euler"},
        evaluations={"Euler": {}, "Heun": {"evaluate.solver": "heun", "evaluate.nfe": [2]}},
    )
    (why,) = compare(table, "as stated").why
    assert why.startswith("`evaluate.solver` euler; here: heun")


def test_a_component_by_its_name_alone_is_a_change_where_the_scale_has_other_parameters() -> None:
    """Its parameters are then its defaults: the command must set them too."""
    table = dataclasses.replace(TABLE, scale="cifar10_edm", stated={}, rows={"named": Row(stated={"weighting": "edm"})})
    assert load_scale("cifar10_edm").weighting != table.configurations("named")[""].weighting
    assert table.changes("named") == {"weighting": "edm"}


def test_settings_that_do_not_go_together_are_an_error() -> None:
    table = dataclasses.replace(TABLE, rows={"wrong": Row(stated={"evaluate.solver": "ancestral", "noise": "laplace"})})
    with pytest.raises(ConfigError, match="needs the score"):
        compare(table, "wrong")


def test_numbers_agree_up_to_rounding() -> None:
    assert agrees(2e-5, 1e-8 / 5e-4)
    assert agrees(1.0, 1)
    assert not agrees(1e-4, 1.1e-4)
    assert not agrees("gvp", 1)
    assert shown({"name": "gaussian", "std": 0.5}) == "gaussian (std 0.5)"


@pytest.mark.parametrize(("name", "row"), CONFIGURED, ids=lambda value: value.replace(" ", "_"))
def test_the_printed_commands_are_the_configurations(name: str, row: str) -> None:
    """Nothing that the comparison sees is missing in the command, and nothing else is in it."""
    table = load_paper(name)
    changes = table.changes(row)
    for evaluation, config in zip(table.evaluations.values(), table.configurations(row).values(), strict=True):
        _, _, _, scale, *words = shlex.split(command(table.scale, {**changes, **evaluation}))
        sets = [after for word, after in itertools.pairwise(words) if word == "--set"]
        assert override(load_scale(scale), parse_assignments(sets)) == config
        for path in changes:
            fewer = {other: value for other, value in changes.items() if other != path} | dict(evaluation)
            try:
                assert override(load_scale(scale), fewer) != config, path
            except ConfigError:  # the others need it
                continue


@pytest.mark.parametrize(("name", "row"), CONFIGURED, ids=lambda value: value.replace(" ", "_"))
def test_an_exact_row_says_of_each_part_whether_it_is_stated(name: str, row: str) -> None:
    table = load_paper(name)
    named = {path.partition(".")[0] for path in (*table.stated, *table.rows[row].stated, *table.unstated)}
    parts = {field.name for field in dataclasses.fields(Formulation)} - {"objective"}
    assert compare(table, row).status != "exact" or parts | {"dataset", "backbone", "train"} <= named


def test_a_section_of_the_page() -> None:
    table = dataclasses.replace(TABLE, name="nobody2026", ours={"train.steps": 7}, lacks={"their data": "others"})
    rows = {**table.rows, "as stated": dataclasses.replace(table.rows["as stated"], published={"FID": (4.0, 0.1)})}
    assert paper_page.section(dataclasses.replace(table, rows=rows)) == SECTION


SECTION = """## nobody2026

Nobody 2026, table 1. Scale `cifar10`: 1 cannot, 3 differs.

Every configuration differs in:

- their data; here: others

Every configuration changes in the scale `train.steps` 7.

| row | published | status | differs in | changes in the scale |
| --- | --- | --- | --- | --- |
| as stated | FID 4 ± 0.1 | differs | see above | `interpolant` gvp |
| another path |  | differs | `interpolant` gvp; here: linear |  |
| half a recipe |  | differs | their augmentation; here: flips |  |
| nothing |  | cannot | it needs text |  |

The authors do not state (our values): `train.precision` auto; `train.clip_norm` 1.0; `train.steps` 7."""


def test_a_change_that_one_row_has_otherwise_is_told_by_row() -> None:
    rows = {"usual": Row(), "longer": Row(stated={"train.steps": 9})}
    said = paper_page.section(dataclasses.replace(TABLE, ours={"train.steps": 7}, rows=rows))
    assert "Every configuration changes" not in said
    assert "| usual |  | exact |  | `train.steps` 7 |" in said
    assert "| longer |  | exact |  | `train.steps` 9 |" in said


def test_the_command_prints_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["papers", "tong2024_table5", "VP-FM"]) == 0
    said = capsys.readouterr().out
    assert "harness train --scale cifar10 --set interpolant=gvp --set evaluate.solver=euler" in said
    assert "- FID by clean-fid, legacy_tensorflow; here: FID by torch-fidelity" in said
    assert main(["papers", "karras2022_table2", "A, baseline, VP"]) == 0
    assert "harness train" not in capsys.readouterr().out
    assert main(["papers"]) == 0
    assert main(["papers", "lipman2023_table1"]) == 0
    assert "FM, OT path" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tong2024"], "'tong2024' is not a known table of a paper. Did you mean 'tong2024_table5'?"),
        (["tong2024_table5", "VP"], "'VP' is not a row of tong2024_table5. Known: "),
    ],
)
def test_an_unknown_table_and_an_unknown_row_are_told(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["papers", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_papers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_STUDIES", str(tmp_path))
    with pytest.raises(UserError, match=r"papers: does not exist\. Set HARNESS_STUDIES"):
        paper_names()
