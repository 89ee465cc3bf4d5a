"""The page of a study: it loads nothing, says what the tables say, and survives any name."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from reader import Parsed, require_alone
from rich.console import Console
from test_tables import REFERENCES, made_up, planned, row
from three_arms import measure
from three_arms import planned as three_arms

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.report import page, page_figures, page_samples, tables
from harness.ablation.report.findings import Report
from harness.ablation.report.records import records
from harness.cli import main, plans
from harness.cli.shared import own_folder
from harness.core import svg
from harness.core.appending import Lines
from harness.core.config import flatten
from harness.core.files import results_folder
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import judge_of
from harness.training.diagnostics import BINS

COMMAND = "harness ablate toy --set 'a=<b>' && echo $HOME"
HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a & b &amp; c", "it's $x$ `y`", "two\nlines",
    "{{ 7 * 7 }} {% raw %}", "]]></style></svg>", "x" * 300,
)  # fmt: skip


def reported(plan: Plan, score: Any) -> Report:
    """Return the report of made-up values of any arms; every third arm has the baseline's level."""
    rng = np.random.default_rng(0)
    level = {arm: 10 * (1 - 0.1 * (i % 3)) for i, arm in enumerate(plan.arms)}
    for arm, seed in plan.trials():
        value = level[arm] * math.exp(rng.normal(0, 0.01))
        score(plan.run(arm, seed), plan.protocol(arm), {1: value, 2: value / 2})
    return tables.report(plan, REFERENCES)


def named(base: RunConfig, names: tuple[str, ...], seeds: int = 4) -> Plan:
    arms = {name: {"train.learning_rate": 1e-3 * (i + 1)} for i, name in enumerate(names)}
    study = Study(
        name="toy", question="Which <b>name</b> & why?", baseline=names[0], arms=arms, nfe=2, smallest_difference=0.05,
        looks=(seeds,),
    )  # fmt: skip
    return Plan.of(study, "digits", base, {}, seeds, [])


def picture(run: Run, protocol: str, nfe: int, size: tuple[int, int] = (8, 8)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (nfe, 20, 30)).save(content, "png")
    path = run.folder / "samples" / f"{protocol}-nfe-{nfe:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    return content.getvalue()


@pytest.fixture
def three(tiny: RunConfig, score: Any) -> Report:
    """Arms a, b and c with four seeds; b is better, c is a tie."""
    plan = planned(tiny)
    values = made_up(plan)
    for arm, seed in plan.trials():
        score(plan.run(arm, seed), plan.protocol(arm), {nfe: values[arm, seed, nfe] for nfe in (1, 2)})
    return tables.report(plan, REFERENCES)


def rendered(report: Report) -> str:
    return page.rendered(report, COMMAND, Path("toy.html"))


def test_the_page_loads_nothing(three: Report) -> None:
    picture(three.plan.run("b", 0), three.plan.protocol("b").digest, 2)
    text = rendered(three)
    require_alone(text)
    assert not re.search("https?://", text)
    assert len(Parsed(text).of("svg")) > 5
    for change in ('<img src="http://x/y.png">', "<style>@import 'x';</style>", '<script src="x"></script>'):
        with pytest.raises(AssertionError):
            require_alone(text.replace("</main>", f"{change}</main>"))


def test_its_numbers_are_the_summarys(three: Report) -> None:
    parsed = Parsed(rendered(three))
    (rows,) = [rows for rows in parsed.tables if rows[0][-1] == "verdict"]
    assert [line[0] for line in rows[1:]] == ["a", "b", "c"]
    found = {line[0]: dict(zip(rows[0], line, strict=True)) for line in rows[1:]}
    assert {arm: line["verdict"] for arm, line in found.items()} == {"a": "baseline", "b": "better", "c": "tie"}
    for arm in "bc":
        known = row(three, arm)
        assert found[arm]["difference"] == f"{known.difference:+.1%}"
        assert found[arm]["interval"] == f"{known.low:+.1%} to {known.high:+.1%}"
        assert found[arm]["at"] == "97.5 %"
    by_nfe = parsed.table("arm", "1", "2")
    assert by_nfe[1][2].startswith(f"{row(three, 'b')['mean']:.3f}")
    ratios = {line[0]: line[1:] for line in parsed.table("arm", "0", "1", "2", "3")}
    values = made_up(three.plan)
    assert ratios["c"] == [f"{values['c', seed, 2] / values['a', seed, 2]:.3f}" for seed in three.plan.seeds]
    assert [len(line) for line in parsed.table("seeds for +5%")] == [6, 6]


def test_the_answer_stands_above_everything(three: Report) -> None:
    parsed = Parsed(rendered(three))
    head = " ".join(parsed.said["header"][0].split())
    assert head.startswith("toy-digits Which end? better: b tie: c b is better, ")
    assert "It has the best mean, " in head
    assert parsed.said["h1"] == ["Which end?"]
    assert "partial" not in head
    for heading in ("Verdicts", "Plan and power", "Values against NFE", "Paired seeds", "Effective objectives", "Cost"):
        assert heading in parsed.said["h2"]


def test_every_setting_the_notes_and_the_command_are_there(three: Report) -> None:
    parsed = Parsed(rendered(three))
    assert parsed.said["pre"] == [COMMAND]
    facts = dict(zip(parsed.said["dt"], parsed.said["dd"], strict=True))
    assert (facts["plan"], facts["commits"], facts["baseline"]) == (three.plan.digest, "abc", "a")
    assert {"torch", "processor", "date", "numerics version"} <= facts.keys()
    for arm in three.plan.arms:
        flat = {path: value for path, value in flatten(three.plan.arms[arm], run_only=False).items() if path != "seed"}
        (found,) = [rows for rows in parsed.tables if rows[0][0] in flat and ["weighting", flat["weighting"]] in rows]
        assert [path for path, _ in found] == [*flat]
    assert any("chance of a wrong verdict" in " ".join(line.split()) for line in parsed.said["li"])


def test_the_same_report_gives_the_same_bytes(three: Report) -> None:
    path = page.write(three, results_folder(), COMMAND)
    assert path == results_folder() / "reports" / "toy-digits.html"
    assert path.read_text() == rendered(three)


def test_names_are_text_and_never_markup(tiny: RunConfig, score: Any) -> None:
    plan = named(tiny, HOSTILE)
    report = reported(plan, score)
    for arm in plan.arms:
        picture(plan.run(arm, 0), plan.protocol(arm).digest, 2)
    report.notes.append("a note with <img src=y>")
    text = rendered(report)
    require_alone(text)
    parsed = Parsed(text)
    assert len(parsed.of("script")) == 1
    assert len(parsed.of("img")) == len(HOSTILE)
    assert [line[0] for line in next(rows for rows in parsed.tables if rows[0][-1] == "verdict")[1:]] == [*HOSTILE]
    assert {button.strip() for button in parsed.said["button"]} == {name.strip() for name in HOSTILE}
    assert parsed.said["h1"] == ["Which <b>name</b> & why?"]
    assert "a note with <img src=y>" in parsed.said["li"]
    labels = [said for said in parsed.said["text"] if "alert" in said]
    assert any("<script>alert(1)</script>" in said for said in labels)


def test_twelve_arms_have_a_curve_each_and_a_key_to_find_it(tiny: RunConfig, score: Any) -> None:
    plan = named(tiny, tuple(f"arm {i}" for i in range(12)))
    text = rendered(reported(plan, score))
    values = Parsed(text.partition('aria-label="Primary metric against NFE"')[2].partition("</svg>")[0])
    keys = {str(attributes["data-key"]) for _, attributes in values.elements if "data-key" in attributes}
    assert keys == {f"arm-{i}" for i in range(12)}
    parsed = Parsed(text)
    buttons = {str(attributes["data-key"]) for attributes in parsed.of("button")}
    assert buttons == keys
    rows = [attributes["data-key"] for attributes in parsed.of("tr") if "data-key" in attributes]
    assert {*rows} == keys
    ids = [str(attributes["id"]) for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    used = [str(attributes["href"])[1:] for attributes in parsed.of("use")]
    assert {*used} <= {*ids}


def test_a_reference_far_from_all_arms_does_not_flatten_the_curves(three: Report) -> None:
    """Means lie from 4 to 10: the score of 2.25 is near, those of 1.5 and 300 are not."""
    (axes,) = page_figures._values(three).axes
    assert axes.get_xlabel() == "NFE\nbeyond the axis: resampled real 1.5, Gaussian noise 300"
    low, high = axes.get_ylim()
    assert 1.5 < low < 2.25
    assert 10 < high < 20


def test_an_unfinished_study_is_marked(tiny: RunConfig, score: Any) -> None:
    plan = planned(tiny)
    values = made_up(plan)
    for arm, seed in [trial for trial in plan.trials() if trial[1] < 2]:
        score(plan.run(arm, seed), plan.protocol(arm), {nfe: values[arm, seed, nfe] for nfe in (1, 2)})
    parsed = Parsed(rendered(tables.report(plan, REFERENCES)))
    assert parsed.said["strong"] == ["partial: 6 of 12 trials have ended"]
    assert "undecided: b, c" in " ".join(parsed.said["header"][0].split())
    assert "No power yet: it needs a complete look." in parsed.said["p"]


def test_samples_come_from_the_first_seed_at_the_primary_nfe(three: Report) -> None:
    plan = three.plan
    wanted = {arm: picture(plan.run(arm, 0), plan.protocol(arm).digest, 2) for arm in "ab"}
    picture(plan.run("a", 0), plan.protocol("a").digest, 1)
    picture(plan.run("b", 0), "0" * 12, 2)
    picture(plan.run("c", 1), plan.protocol("c").digest, 2)
    parsed = Parsed(rendered(three))
    sent = {str(image["alt"]): str(image["src"]).partition(",")[2] for image in parsed.of("img")}
    assert {name: base64.b64decode(own) for name, own in sent.items()} == {
        f"samples of {arm}": wanted[arm] for arm in "ab"
    }
    said = [" ".join(caption.split()) for caption in parsed.said["figcaption"]]
    assert said == ["a NFE 2", "b NFE 2", "c no picture: seed 0 has no samples under this protocol"]


def test_a_damaged_picture_is_left_out_and_a_large_one_is_reduced(
    three: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = three.plan
    picture(plan.run("a", 0), plan.protocol("a").digest, 1, (2000, 1000))
    path = plan.run("b", 0).folder / "samples" / f"{plan.protocol('b').digest}-nfe-0002.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 50)
    one, other, _ = page_samples.samples(plan)
    small = Image.open(io.BytesIO(base64.b64decode(one.address.partition(",")[2])))
    assert (small.format, small.size, one.told) == ("PNG", (720, 360), "NFE 1")
    assert (other.address, other.told) == ("", f"no picture: {path.name} cannot be read")
    assert f"{path}: cannot be read (" in capsys.readouterr().err


def test_the_loss_by_noise_level_is_the_mean_at_the_end_of_finished_runs(three: Report) -> None:
    plan = three.plan
    assert records(plan).losses == {}
    assert "No finished run has a record of it." in Parsed(rendered(three)).said["p"]
    (first, second, *_), steps = BINS, plan.arms["a"].train.steps
    for seed, ends in ((0, (1.0, 2.0)), (1, (3.0, 4.0))):
        values = ((1, 99.0), (steps - 1, ends[0]), (steps, ends[1]))
        with Lines(plan.run("a", seed).folder / "metrics.jsonl") as lines:
            for step, value in values:
                losses = {f"loss_by_log_snr/{first}": value, f"loss_by_log_snr/{second}": math.inf}
                lines.add({"step": step, "time": 0.0, **losses})
    with Lines(plan.run("b", 0).folder / "metrics.jsonl") as lines:
        lines.add({"step": steps - 1, "time": 0.0, f"loss_by_log_snr/{first}": 5.0})
    last = [2.0, 4.0] if steps - 1 <= 0.9 * steps else [1.0, 2.0, 3.0, 4.0]
    by_arm = records(plan).losses
    assert by_arm == {"a": {first: pytest.approx(np.mean(last))}}
    assert "Loss by log SNR at the end of training" in rendered(dataclasses.replace(three, losses=by_arm))


def test_a_round_of_reflow_shows_its_lineage(tiny: RunConfig, score: Any) -> None:
    arms = {f"{k + 1}-rectified": {"reflow.rounds": k} for k in range(3)}
    study = Study(name="toy", question="?", baseline="1-rectified", arms=arms, nfe=2, looks=(3,))
    plan = Plan.of(study, "digits", tiny, {}, 3, [])
    chains = page_samples.chains(plan)
    assert [*chains] == ["3-rectified"]
    assert [step.link.kind for step in chains["3-rectified"]] == ["data", "flow", "pairs", "flow", "pairs", "flow"]
    parsed = Parsed(rendered(reported(plan, score)))
    assert [item["class"] for item in parsed.of("li") if "class" in item] == [
        "data", "flow", "pairs", "flow", "pairs", "flow",
    ]  # fmt: skip


def test_effects_have_verdicts_seeds_and_interactions(tiny: RunConfig, score: Any) -> None:
    axes: dict[str, Any] = {"weighting": ["uniform", "data_end"], "train.learning_rate": [1e-3, 2e-3]}
    study = Study(name="toy", question="?", axes=axes, nfe=2, looks=(4,))
    plan = Plan.of(study, "digits", tiny, {}, 4, [])
    parsed = Parsed(rendered(reported(plan, score)))
    names = [line[0] for line in next(rows for rows in parsed.tables if rows[0][-1] == "verdict")[1:]]
    assert {*plan.contrasts} <= {*names}
    keys = {str(attributes["data-key"]) for attributes in parsed.of("button")}
    assert keys == {*(f"arm-{i}" for i in range(4)), "effect-0", "effect-1"}
    assert any(figure.get("class") == "wide" for figure in parsed.of("figure"))


def test_a_figure_that_cannot_be_drawn_leaves_a_note(
    three: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: Any) -> Figure:
        raise ValueError("no such <thing>")

    monkeypatch.setattr(page_figures, "_forest", broken)
    path = page.write(three, tmp_path, COMMAND)
    parsed = Parsed(path.read_text())
    assert "This figure cannot be drawn (ValueError: no such <thing>)." in parsed.said["p"]
    assert "Ratio to the baseline, seed by seed" in path.read_text()
    why = "cannot be drawn (ValueError: no such <thing>). The work goes on without it."
    assert capsys.readouterr().err == f"{path}#forest: {why}\n"


def test_an_svg_takes_its_colours_from_the_page(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 2))
    axes = figure.subplots()
    (line,) = axes.plot([0, 1], [0, 1], "o-", color="black", mfc="white", label="a")
    line.set_gid("arm-7")
    axes.set(title='$x$ <y> & id="z"')
    axes.legend()
    one, other = (svg.inline(figure, name, 'a "b" <c>') for name in ("one", "other"))
    assert one == svg.inline(figure, "one", 'a "b" <c>')
    parsed = Parsed(one)
    assert parsed.of("svg") == [
        {"viewbox": "0 0 144 144", "role": "img", "aria-label": 'a "b" <c>', "fill": "currentColor"}
    ]
    assert "#000000" not in one
    assert "#ffffff" not in one
    assert "font-family" not in one
    assert one.count('data-key="arm-7"') == 1
    assert '$x$ <y> & id="z"' in parsed.said["text"]
    ids = [{str(own["id"]) for _, own in Parsed(text).elements if "id" in own} for text in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_every_look_writes_it_beside_the_users_tables_and_mlflow_gets_it(
    tiny: RunConfig, score: Any, tmp_path: Path
) -> None:
    """Publishing to another folder writes none."""
    plan = three_arms(tiny)
    measure(plan, score)
    console = Console(file=io.StringIO())
    judge = judge_of(plan.arms["a"])
    told = plans.report(plan, judge, own_folder(), COMMAND, console)
    path = own_folder() / "reports" / "toy-digits.html"
    assert path in told.files
    assert str(path) in console.file.getvalue()  # type: ignore[attr-defined]
    require_alone(path.read_text())
    told = plans.report(plan, judge, tmp_path / "committed", COMMAND, console)
    assert not [path for path in told.files if path.suffix == ".html"]
    assert not [*(tmp_path / "committed").rglob("*.html")]


def test_the_command_writes_it_again(
    tiny: RunConfig, score: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.cli.plans.load_scale", lambda name: tiny)
    file = tmp_path / "toy.py"
    arms = {"a": {}, "b": {"weighting": "data_end"}}
    file.write_text(
        "from harness import Study\n\n"
        f"STUDY = Study(question='Which?', baseline='a', arms={arms}, nfe=2, smallest_difference=0.1, looks=(3, 5))\n"
    )
    study = Study(name="toy", question="Which?", baseline="a", arms=arms, nfe=2, smallest_difference=0.1, looks=(3, 5))
    plan = Plan.of(study, "digits", tiny, {}, 3, [])
    for arm, seed in plan.trials():
        score(plan.run(arm, seed), plan.protocol(arm), {1: 4.0 + seed, 2: 3.0 + seed + (arm == "b") * (-1) ** seed})
    assert main(["report", str(file)]) == 0
    path = own_folder() / "reports" / "toy-digits.html"
    assert f"wrote {path}" in capsys.readouterr().out
    parsed = Parsed(path.read_text())
    assert parsed.said["pre"] == [f"harness ablate {file} --scale digits"]
    assert "partial" not in path.read_text().partition("</header>")[0].partition("<body>")[2]
    assert main(["report", str(file), "--seeds", "5"]) == 0
    assert Parsed(path.read_text()).said["strong"] == ["partial: 6 of 10 trials have ended"]


@pytest.mark.slow
def test_a_wheel_holds_the_templates(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    make = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    copy = tmp_path / "copy"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(
        lambda name: name.startswith(("harness/", "studies/", "MANIFEST", "pyproject", "README", "LICENSE")),
        names.split("\0"),
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((root / name).read_bytes())
    subprocess.run([sys.executable, "-c", make, str(tmp_path)], cwd=copy, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    found = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "/templates/" in name}
    assert found == {path.name for path in page.TEMPLATES.iterdir()}
