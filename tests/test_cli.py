"""The commands: help, one line for each mistake, and the way from training to samples."""

import argparse
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from harness import cli
from harness.ablation.design.folder import declared_in, declaring, studies_folder
from harness.ablation.design.study import load_scale
from harness.cli import evaluate, main, plans, sample
from harness.cli.arguments import parser, read
from harness.core.config import override, parse_assignments, to_dict
from harness.core.errors import Diverged
from harness.core.files import results_folder, write_json
from harness.core.registry import HOMES, build
from harness.flow.sampling import Generated
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.train import train

pytestmark = pytest.mark.usefixtures("unmeasured")
COMMANDS = [
    "status",
    "cluster-check",
    "list",
    "config",
    "explain",
    "new",
    "check",
    "data",
    "train",
    "sample",
    "export",
    "reproduce",
    "evaluate",
    "reflow",
    "runs",
    "papers",
    "lineage",
    "plan",
    "ablate",
    "tune",
    "table",
    "report",
    "compare",
    "variance",
    "publish",
    "toy",
    "gallery",
    "doctor",
    "ui",
]
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail; return the one line of its error."""

    def run(*arguments: str) -> str:
        try:
            code: object = main(arguments)
        except SystemExit as ended:  # argparse
            code = ended.code
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert code == 2
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture
def signals() -> Iterator[None]:
    """Restore the signal handlers, because commands that train install handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: harness")
    assert command or all(name in said for name in COMMANDS)


def test_the_bare_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for words in ([], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"harness {project['version']}\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_ends_with_examples_that_work(command: str) -> None:
    """The parser accepts them, and their studies, scales, settings and components exist."""
    known = parser()
    said = (known.commands[command] if command else known).format_help()
    examples = re.findall(r"^  (harness .*)$", said.partition("\nexamples:\n")[2], re.MULTILINE)
    assert examples
    for example in examples:
        _, *words = shlex.split(example)
        options = vars(read(words))
        assert command in ("", words[0])
        if study := options.get("study"):
            assert declared_in(study, "SEARCH" if words[0] == "tune" or study in declaring("SEARCH") else "STUDY")
        for scale in (*options.get("scales", []), options.get("scale") or "digits"):
            config = load_scale(scale)
        changes = parse_assignments(options.get("changes", []))
        if words[0] == "data":
            build("dataset", {"name": options["name"], **changes})
        else:
            override(config, changes)
        assert options.get("family") in (None, "studies", "scales", *HOMES)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_an_option_names_its_default(command: str) -> None:
    known = parser().commands[command]
    said = " ".join(known.format_help().split())
    given = {action.dest: action.default for action in known.arguments if action.option_strings}
    shown = [value for value in given.values() if value not in (None, False, [], argparse.SUPPRESS)]
    assert all(f"(default: {value})" in said for value in shown)
    assert shown or command not in ("train", "sample", "ui")
    assert all(action.help for action in known.arguments)


def test_an_example_of_a_default() -> None:
    known = parser().commands["sample"].format_help()
    assert "number of samples (default: 64)" in known
    assert "(default: the run's seed)" in " ".join(known.split())


@pytest.mark.parametrize("words", [["reflow", ""], ["explain", ""], ["check", ""], ["ui", "--host="]], ids=str)
def test_an_empty_word_is_not_a_default(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert f"argument 2: '{words[1]}' has no value" in capsys.readouterr().err


def test_help_comes_before_anything_heavy_is_imported() -> None:
    """For the whole program and for every command, each in a new process."""
    heavy = {"torch", "numpy", "mlflow", "optuna", "pandas", "matplotlib", "rich"}
    code = f"""
import contextlib, io, sys
from harness.cli import main as run
for command in {[[], *([name] for name in COMMANDS)]}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        run([*command, "--help"])
print(*sorted({heavy} & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


@pytest.mark.parametrize(("rank", "told"), [(None, 1), ("0", 1), ("1", 0)])
def test_a_command_says_that_it_loads_before_it_is_imported(
    rank: str | None, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several ranks, only the first prints this line."""
    events: list[str] = []

    def imported(name: str) -> SimpleNamespace:
        events.append(name)
        return SimpleNamespace(run=lambda options: events.append("run"))

    monkeypatch.setattr(cli, "announce", lambda line: events.append("said"))
    monkeypatch.setattr(cli.importlib, "import_module", imported)
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    assert main(["toy"]) == 0
    assert events == [*["said"] * told, "harness.cli.toy", "run"]


def test_an_unknown_scale_is_refused_before_anything_is_imported(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If the text of scales.py may not show all scales, the command decides."""
    imported = Mock(return_value=SimpleNamespace(run=lambda options: None))
    monkeypatch.setattr(cli.importlib, "import_module", imported)
    assert "'digit' is not a known scale. Did you mean 'digits'?" in refused("train", "--scale", "digit")
    assert not imported.called
    monkeypatch.setenv("HARNESS_STUDIES", str(tmp_path))
    assert "'digit' is not a known scale. Did you mean 'digits'?" in refused("train", "--scale", "digit")
    for text in ("SCALES = (", 'SCALES = {"a": 1, **MORE}', 'SCALES = {"a": 1}\nSCALES["digit"] = 2'):
        (tmp_path / "scales.py").write_text(text)
        assert main(["train", "--scale", "digit"]) == 0


def test_a_folder_of_ones_own_studies_needs_no_scales(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(studies_folder() / "weighting.py", tmp_path / "mine.py")
    monkeypatch.setenv("HARNESS_STUDIES", str(tmp_path))
    assert main(["plan", "mine", "--scale", "points"]) == 0
    assert "6 arms at the scale points" in capsys.readouterr().out
    monkeypatch.setenv("HARNESS_STUDIES", str(tmp_path / "absent"))
    said = f"HARNESS_STUDIES: {tmp_path / 'absent'} is not a folder. Set it to the folder of your studies"
    for command in ("plan mine", "train", "ablate mine", "papers", "list studies"):
        assert said in refused(*command.split())


@pytest.mark.parametrize("place", ["mine.py", "studies/mine.py"])
def test_the_name_of_a_file_in_this_folder_gets_its_path(
    place: str, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file of the working directory is executed only if its path is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / place).write_text("raise SystemExit('it ran')\nSTUDY = 1\n")
    assert f"'mine' is not a known study. Give the path of your file: {place}." in refused("plan", "mine")


def test_every_command_is_a_module_of_its_name() -> None:
    """Except `list`, which would hide Python's `list`."""
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    parts = {
        "__init__",
        "advice",
        "arguments",
        "completion",
        "in_python",
        "options",
        "parser",
        "plans",
        "shared",
        "values",
    }
    commands = {command.replace("-", "_") for command in COMMANDS}
    assert modules - parts == commands - {"list"} | {"components"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("trian", "'trian': no such command. Did you mean 'train'? See `harness --help`."),
        ("--versoin", "'--versoin': no such option. Did you mean '--version'? See `harness --help`."),
        ("--sed=5 train", "'--sed=5': no such option. Known: --help, --version, -h."),
        ("ablate weighting --sed 5", "'--sed': no such option. Did you mean '--seeds'? See `harness ablate --help`."),
        ("ablate weighting --seed=5", "'--seed=5': no such option. Did you mean '--seeds'?"),
        ("sample nothing --numb 5", "'--numb': no such option. Did you mean '--number'?"),
        ("train --scale points --seed 1", "'--seed' is a setting: --set seed=1. See `harness train --help`."),
        ("train --seed=1", "'--seed' is a setting: --set seed=1."),
        ("train --steps 200", "'--steps' is a setting: --set train.steps=200."),
        ("train --step 200", "'--step' is a setting: --set train.steps=200."),
        ("ablate weighting --lr -1", "'--lr' is a setting: --set train.learning_rate=-1."),
        ("train --learning-rate --scale points", "'--learning-rate' is a setting: --set train.learning_rate=VALUE."),
        (
            "train --batch-size 8",
            "'--batch-size' is a setting: --set train.batch_size=8 or --set evaluate.batch_size=8 or "
            "--set reflow.batch_size=8.",
        ),
        ("train --weighting min_snr", "'--weighting' is a setting: --set weighting=min_snr."),
        ("train --metrics fid", "'--metrics' is a setting: --set 'evaluate.metrics=[\"fid\"]'."),
        ("evaluate nothing --nfe 8,64", "'--nfe' is a setting: --set 'evaluate.nfe=[8,64]'."),
        ("evaluate nothing --batch-size 8", "'--batch-size' is a setting: --set evaluate.batch_size=8."),
        ("evaluate nothing --seed 1", "'--seed': no such option."),
        ("train --no-such-thing 1", "'--no-such-thing': no such option."),
        ("data digits --seed 1", "'--seed': no such option. Did you mean '--set'?"),
        ("ablate weighting solver", "'solver': one word too many. Leave it out."),
        ("train --scale digits train.steps=100", "'train.steps=100' is a setting: --set train.steps=100"),
        ("ablate", "the following arguments are required: STUDY. See `harness ablate --help`."),
        ("list weightings", "'weightings' is not a family. Did you mean 'weighting'?"),
        ("train --scale digit", "'digit' is not a known scale. Did you mean 'digits'?"),
        ("train --set weighting=min_snrr", "weighting: 'min_snrr' is not a known weighting. Did you mean 'min_snr'?"),
        (
            "train --set weighting=min_snr --set weighting.gama=1",
            "weighting.gama: min_snr has no such field. Did you mean 'gamma'?",
        ),
        ("train --set train.step=1", "train.step: is not a known field. Did you mean 'steps'?"),
        ("train --set trian.steps=1", "trian: is not a known field. Did you mean 'train'?"),
        ("train --set train.steps=many", "train.steps: expected a whole number, got 'many'."),
        ("train --set train.steps=1e3", "train.steps: expected a whole number, got 1000.0."),
        ("train --set train.learning_rate=-1", "train.learning_rate: -1.0 is outside [1e-150, 1e+150]"),
        ("train --set train.learning_rate=NaN", "train.learning_rate: expected a finite number"),
        ("train --set train.steps.x=1", "train.steps.x: steps is a single value."),
        ("train --set train.steps", "--set: 'train.steps' is not path=value."),
        ("train --set weighting=edm --set weighting.sigma_data=1e-300", "weighting.sigma_data: 1e-300 is outside ["),
        (
            "train --set evaluate.time_grid=edm_rho --set evaluate.time_grid.sigma_max=1e300",
            "evaluate.time_grid.sigma_max: 1e+300 is outside [",
        ),
        ("train --set time_sampler=beta --set time_sampler.a=1e300", "time_sampler.a: 1e+300 is outside (0, 100]"),
        ("train --set time_sampler=u_shaped --set time_sampler.a=2000", "time_sampler.a: 2000.0 is outside (0, 100]"),
        ("train --set .steps=1", "--set: '.steps=1' is not path=value."),
        ("train --set backbone.groups=5", "backbone.groups: 5 does not divide every width."),
        ("train --set backbone.multipliers=[1,1,1,1,1]", "backbone.multipliers: 5 levels do not halve 8x8 evenly."),
        ("train --set evaluate.nfe=8", "evaluate.nfe: expected a list, got 8."),
        (
            'train --set evaluate.metrics=["fdi"]',
            "evaluate.metrics[0]: 'fdi' is not a known metric. Did you mean 'fid'?",
        ),
        (
            "train --set evaluate.solver=heun --set evaluate.nfe=[3]",
            "evaluate.nfe: heun spends 2 calls a step and cannot spend 3.",
        ),
        (
            "train --set evaluate.solver=dopri5",
            "evaluate.nfe: dopri5 chooses its own steps and cannot spend exactly 1. Use 0;",
        ),
        ("train --set evaluate.nfe=[0]", "evaluate.nfe: euler spends 1 calls a step and cannot spend 0. Use 1."),
        (
            "train --set prediction=score --set noise=sparse",
            "prediction: score needs the score, which sparse noise does not give.",
        ),
        ("train --set prediction=score --set coupling=exact_ot", "Choose coupling=independent or prediction=velocity."),
        (
            "train --set evaluate.solver=euler_maruyama --set noise=laplace",
            "Choose noise=gaussian or evaluate.solver=euler.",
        ),
        (
            "train --set prediction=data --set prediction.t_min=0",
            "prediction.t_min: data gives no finite velocity at t = 0 on linear.",
        ),
        ("train --set objective.space=score", "objective.space: 'score' is not a choice."),
        ("train --set coupling=pairs", "coupling.path: pairs needs it. Give a value."),
        ('train --set coupling={"name":"pairs","path":"absent"}', "coupling.path: absent cannot be read"),
        ("train --set dataset=fashion", "dataset: 'fashion' is not a known dataset. Did you mean 'fashion_mnist'?"),
        ("train --set dataset=npz", "dataset.path: npz needs it. Give a value."),
        (
            "train --set dataset=npz --set dataset.path=/absent.npz",
            "dataset.path: /absent.npz does not exist. Give an .npz file",
        ),
        (
            "train --set train.batch_size=2000",
            "train.batch_size: 2000 is more than the 1438 training samples. Choose a smaller one.",
        ),
        (
            "train --set evaluate.extractor=values",
            "evaluate.metrics[0]: fid reads features, and evaluate.extractor gives values.",
        ),
        (
            'train --set evaluate.metrics=["sliced_wasserstein"]',
            "evaluate.metrics[0]: sliced_wasserstein reads values, and",
        ),
        (
            'train --set evaluate.metrics=["gene_mean"] --set evaluate.extractor=values',
            "evaluate.metrics[0]: gene_mean is for cells, and these data are image. Choose another.",
        ),
        (
            'train --set evaluate.metrics=["gene_mean"]',
            "evaluate.metrics[0]: gene_mean is for cells, and these data are image.",
        ),
        (
            'train --set evaluate.metrics=["label_accuracy"]',
            "label_accuracy needs a class-conditional network. Set objective.label_dropout, like 0.1.",
        ),
        ("train --set evaluate.guidance.scale=2", "evaluate.guidance: the network is told no classes. Train it with"),
        (
            "train --set objective.label_dropout=0.1 --set evaluate.guidance.scale=2",
            "evaluate.nfe: euler with this guidance cannot",
        ),
        ("train --set noise=population", "noise.dataset: population needs it. Give a value."),
        ("train --set backbone.preset=digit", "backbone.preset: 'digit' is not a preset. Did you mean 'digits'?"),
        ("train --set backbone=mlp", "backbone: mlp takes vectors [D], not [1, 8, 8]. Choose another backbone."),
        ("data nosuch", "dataset: 'nosuch' is not a known dataset. Known: "),
        ("train --plugin absent.py", "absent.py: no such file."),
        ("sample nothing", "nothing: no such run."),
        ("sample nothing --out picture.jpg", "--out: picture.jpg must end in .png or .npz."),
        ("sample nothing --number 0", "--number: 0 is less than 1."),
        ("sample nothing --number few", "invalid int value: 'few'"),
        ("sample nothing --seed few", "invalid int value: 'few'"),
        ("evaluate ../x", "../x: no such run."),
        ("plan weightin", "'weightin' is not a known study. Did you mean 'weighting'?"),
        ("plan tuning", "'tuning' is not a known study."),
        ("plan weighting --scale digit", "'digit' is not a known scale. Did you mean 'digits'?"),
        ("plan weighting --seeds 0", "--seeds: 0 is less than 1."),
        ("plan weighting --workers 0", "argument --workers: 0 must be a whole number of 1 or more."),
        (
            "plan weighting --set evaluate.num_reference=100000",
            "arm 'uniform': evaluate.num_reference: 100000 is more than the 1438 training samples.",
        ),
        ("ablate weightin", "'weightin' is not a known study. Did you mean 'weighting'?"),
        ("ablate absent.py", "absent.py: no such file."),
        ("ablate weighting --seeds 0", "--seeds: 0 is less than 1."),
        ("ablate weighting --max-hours 0", "'0' must be a number of hours above 0."),
        ("ablate weighting --max-hours nan", "'nan' must be a number of hours above 0."),
        ("ablate weighting --seeds 20 --until decided", "--until: --seeds 20 already sets the last look."),
        ("ablate weighting --until tomorrow", "argument --until: 'tomorrow' is not a choice. Known: decided."),
        ("ablate weighting --until decide", "argument --until: 'decide' is not a choice. Did you mean 'decided'?"),
        ("ablate weighting --seeds some", "invalid int value: 'some'"),
        ("ablate weighting --workers 0", "argument --workers: 0 must be a whole number of 1 or more."),
        ("ablate weighting --set weighting=min_snr", "weighting: every arm of 'weighting' replaces it"),
        (
            "ablate weighting --workers 1 --set evaluate.num_reference=100000",
            "arm 'uniform': evaluate.num_reference: 100000 is more than the 1438 training samples.",
        ),
        ("ablate weighting --set seed=3", "seed: a study sets its seeds itself."),
        ("tune tunin", "'tunin' is not a known search. Did you mean 'tuning'?"),
        ("tune weighting", "'weighting' is not a known search. Known: digits_scale, tradeoff, tuning."),
        ("tune tuning --scale points", "--scale: 'tuning' has no space for points. Known: "),
        ("tune tuning --trials 0", "argument --trials: 0 must be a whole number of 1 or more."),
        ("tune tuning --workers 0", "argument --workers: 0 must be a whole number of 1 or more."),
        ("tune tuning --seeds 0", "--seeds: 0 is less than 1."),
        ("tune tuning --seeds 1001", "--seeds: 1001 includes seed 1000, which the search uses. Take fewer."),
        ("tune tuning --set seed=3", "seed: a study sets its seeds itself."),
        ("tune tuning --set train.step=3", "train.step: is not a known field. Did you mean 'steps'?"),
        ("table weighting", "weighting-digits: nothing is measured yet. Looked in "),
        ("table weighting", " Run `harness ablate weighting --scale digits` first."),
        ("report weighting", "weighting-digits: nothing is measured yet. Looked in "),
        ("report weightin", "'weightin' is not a known study. Did you mean 'weighting'?"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(refused: Refused, command: str, said: str) -> None:
    assert said in refused(*command.split())
    assert not results_folder().exists()


@pytest.fixture
def untrained(tiny: RunConfig) -> Callable[..., str]:
    """Returns the name of a run directory with only a configuration."""

    def made(**changes: Any) -> str:
        run = Run.of(override(tiny, {path.replace("__", "."): value for path, value in changes.items()}))
        write_json(run.folder / "config.json", to_dict(run.config))
        return run.name

    return made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--set train.steps=5",
            "train.steps: cannot be changed after training. Change evaluate.*, or train another run.",
        ),
        ("--set seed=5", "seed: cannot be changed after training."),
        ("--seed -1", f"seed: -1 is outside [0, {2**128 - 1}]. Choose a value inside."),
        ("--label 3", "was trained without classes. Leave it out, or train with objective.label_dropout=0.1."),
        ("--label nosuch", "was trained without classes."),
        (
            "--set evaluate.guidance.scale=2",
            "evaluate.guidance: the network is told no classes. Train it with objective.label_dropout",
        ),
        (
            '--set evaluate.metrics=["label_accuracy"]',
            "evaluate.metrics[0]: label_accuracy needs a class-conditional network.",
        ),
    ],
)
def test_a_run_without_classes_refuses_a_class(
    refused: Refused, untrained: Callable[..., str], options: str, said: str
) -> None:
    name = untrained()
    line = refused("sample", name, *options.split())
    assert said in line
    assert "--label" not in options or line.startswith(f"error: --label: {name} ")


def test_a_finished_run_is_not_judged_by_an_impossible_protocol(refused: Refused, tiny: RunConfig) -> None:
    """Also not with guidance at an NFE that guidance cannot use exactly."""
    run = Run.of(override(tiny, {"objective.label_dropout": 0.1, "train.steps": 1}))
    train(run, lambda _: None, lambda: False)
    reads = (
        "sliced_wasserstein reads values, and evaluate.extractor gives features. "
        "Choose evaluate.extractor=values or another metric."
    )
    for changes, said in (
        ('evaluate.metrics=["fid","sliced_wasserstein"]', f"evaluate.metrics[1]: {reads}"),
        (
            'evaluate.metrics=["gene_mean"]',
            "evaluate.metrics[0]: gene_mean is for cells, and these data are image. Choose another.",
        ),
        (
            "evaluate.extractor=values",
            "evaluate.metrics[0]: fid reads features, and evaluate.extractor gives values. Choose an extractor",
        ),
        (
            "evaluate.num_reference=1439",
            "evaluate.num_reference: 1439 is more than the 1438 training samples. Give null or fewer.",
        ),
    ):
        assert refused("evaluate", run.name, "--set", changes).startswith(f"error: {said}")
    unspendable = "evaluate.nfe: euler with this guidance cannot spend 3 calls. Choose 2 or 4."
    assert refused("sample", run.name, "--nfe", "3", "--set", "evaluate.guidance.scale=2") == f"error: {unspendable}"
    assert not (run.folder / "evaluations").exists()


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("eleven", "--label: 'eleven' is not a class. Known: 0, 1, 2"),
        ("10", "--label: '10' is not a class."),
        ("-1", "--label: '-1' is not a class."),
    ],
)
def test_an_unknown_label_is_refused_with_the_known_ones(
    refused: Refused, untrained: Callable[..., str], label: str, said: str
) -> None:
    assert said in refused("sample", untrained(objective__label_dropout=0.1), f"--label={label}")


def test_an_unfinished_run_draws_nothing(refused: Refused, untrained: Callable[..., str]) -> None:
    name = untrained()
    for command in ("sample", "evaluate"):
        assert f"{name}: is trained for 0 of 12 steps." in refused(command, name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("class Mine(:", "line 1: SyntaxError"),
        ("import nowhere_to_be_found", "line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (
            "from harness.components.weightings import Weighting\nclass Mine(Weighting, name='uniform'): pass",
            "line 2: weighting 'uniform' is already taken by harness.components.weightings",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded(refused: Refused, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    line = refused("list", "--plugin", str(path))
    assert line.startswith(f"error: {path}, line ")
    assert said in line


def test_a_study_on_an_unknown_metric(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    arms = {"a": {}, "b": {"weighting": "min_snr"}}
    path.write_text(
        "from harness.ablation.design.study import Study\n"
        f"STUDY = Study(question='?', baseline='a', arms={arms}, metric='fdi')"
    )
    assert "'fdi' is not a known metric. Did you mean 'fid'?" in refused("ablate", str(path))


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_a_damaged_data_file(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    (tmp_path / "cifar10.npz").write_bytes(content)
    assert f"{tmp_path / 'cifar10.npz'}: cannot be read" in refused("train", "--scale", "cifar10")


def test_a_data_file_of_another_shape(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    images = np.zeros((2, 32, 32, 3), np.uint8)
    classes = np.zeros(2, np.uint8)
    np.savez(
        tmp_path / "cifar10.npz", x_train=images.transpose(0, 3, 1, 2), y_train=classes, x_test=images, y_test=classes
    )
    assert "holds uint8 [2, 3, 32, 32], not uint8 [N, 32, 32, 3]" in refused("train", "--scale", "cifar10")


def test_a_port_in_use(refused: Refused) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port: 127.0.0.1:{port} cannot be used (Address already in use)" in refused("ui", "--port", str(port))


def test_a_store_that_serves_pages_gets_no_second_server(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = "MLFLOW_TRACKING_URI: http://127.0.0.1:9 is a server that has pages. Open it in a browser."
    assert refused("ui") == f"error: {said}"


@pytest.mark.usefixtures("signals")
def test_a_store_out_of_reach_stops_training_before_it_begins(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    assert f"MLflow at sqlite:///{tmp_path}/file/mlflow.db cannot be reached" in refused("train")
    assert not (results_folder() / "local" / "runs").exists()


@pytest.mark.usefixtures("signals")
def test_from_training_to_samples(
    tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (results_folder() / "local").mkdir(parents=True)
    shutil.copy(empty_store, results_folder() / "local" / "mlflow.db")
    small = ["train.steps=4", "backbone.channels=8", "evaluate.nfe=[1,2]", "evaluate.num_samples=64"]
    sets = [word for change in small for word in ("--set", change)]
    assert main(["train", *sets]) == 0
    assert main(["train", *sets]) == 0
    (folder,) = (results_folder() / "local" / "runs").iterdir()
    assert capsys.readouterr().out.replace("\n", "").count(f"trained {folder.name}: ") == 2
    passed: list[tuple[str, int]] = []

    def show(items: Iterable[Any], title: str, total: int, to: Any) -> Iterator[Any]:
        passed.append((title, total))
        yield from items

    monkeypatch.setattr(plans, "shown", show)
    assert main(["evaluate", folder.name]) == 0
    said = capsys.readouterr().out
    assert all(f"at NFE {nfe}" in said for nfe in (1, 2))
    # 359 held-out images in batches of 100, then all 1,438 training images
    assert passed == [("features of the reference", 4), ("features of the reference", 15)]
    picture = tmp_path / "a.png"
    array = tmp_path / "a.npz"
    few = ["--number", "10", "--nfe", "2"]
    assert main(["sample", folder.name, *few, "--out", str(array)]) == 0
    assert main(["sample", str(folder), *few, "--set", "evaluate.solver=heun", "--out", str(picture)]) == 0
    assert "by heun" in capsys.readouterr().out
    assert {name: held.shape for name, held in np.load(array).items()} == {"samples": (10, 1, 8, 8)}
    assert Image.open(picture).size == (8 * 34 + 2, 2 * 34 + 2)
    drawn: dict[bytes, list[str]] = {}
    for seed in ("", "--seed 0", "--seed 7", "--seed 7", f"--seed {2**70}"):
        assert main(["sample", folder.name, *few, "--out", str(array), *seed.split()]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith(f"by euler, seed {seed[7:] or 0}")
        drawn.setdefault(np.load(array)["samples"].tobytes(), []).append(seed)
    assert sorted(drawn.values()) == [["", "--seed 0"], [f"--seed {2**70}"], ["--seed 7", "--seed 7"]]


@pytest.mark.usefixtures("signals")
def test_samples_of_a_class_with_guidance(tiny: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A class changes the samples of the same noise, with and without guidance; the file contains the classes."""
    run = Run.of(override(tiny, {"objective.label_dropout": 0.1, "train.steps": 4, "train.learning_rate": 0.01}))
    train(run, lambda _: None, lambda: False)
    options = {
        "any": [],
        "three": ["--label", "3"],
        "guided": ["--label", "3", "--set", "evaluate.guidance.scale=3"],
        "five": ["--label", "5"],
    }
    drawn = {}
    for name, more in options.items():
        out = tmp_path / f"{name}.npz"
        assert main(["sample", run.name, "--number", "40", "--nfe", "2", "--out", str(out), *more]) == 0
        with np.load(out) as arrays:
            drawn[name] = (arrays["samples"], arrays["classes"])
    assert {name: set(classes) for name, (_, classes) in drawn.items() if name != "any"} == {
        "three": {3},
        "guided": {3},
        "five": {5},
    }
    assert len(set(drawn["any"][1])) > 5
    assert len({samples.tobytes() for samples, _ in drawn.values()}) == 4
    assert capsys.readouterr().out.count("40 samples at NFE 2 by euler") == 4


def test_classes_without_names_are_written_as_numbers(tmp_path: Path) -> None:
    x = torch.zeros(2, 3)
    for names in ((), ("cat", "dog")):
        sample._write([Generated(x, torch.tensor([1, 0]), 1, x)] * 2, names, tmp_path / "drawn.npz")
        with np.load(tmp_path / "drawn.npz") as arrays:
            assert arrays["classes"].tolist() == [1, 0, 1, 0]
            assert (*arrays.get("class_names", ()),) == names


@pytest.mark.usefixtures("signals")
def test_reasons_for_missing_values_come_after_the_known_values(
    tiny_run: Run, score: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For every named run, whichever of them lacks a value."""
    protocol = tiny_run.config.protocol()
    score(tiny_run, protocol, {2: 12.5})
    monkeypatch.setattr(evaluate, "following", Mock(return_value=nullcontext()))
    monkeypatch.setattr(evaluate, "evaluate", Mock(side_effect=Diverged("at NFE 1: some are not finite.")))
    assert main(["evaluate", tiny_run.name, tiny_run.name]) == 2
    said = capsys.readouterr()
    assert said.err == "error: at NFE 1: some are not finite.\n"
    assert said.out.count(f"FID 12.5 at NFE 2, protocol {protocol.digest}\n") == 2


def test_the_calls_of_an_adaptive_solver_are_next_to_its_value(tiny: RunConfig) -> None:
    run = Run.of(override(tiny, {"evaluate.solver": "dopri5", "evaluate.nfe": [0]}))
    known = {"values": {"fid": {"0": 12.5}}, "intervals": {}, "precise": {}}
    known |= {"calls": {"0": {"mean": 44.25, "sd": 3.0}}}
    judge: Any = SimpleNamespace(protocol=run.config.protocol())
    said = f"FID 12.5 at 44.2 ± 3.0 calls chosen by dopri5, protocol {judge.protocol.digest}"
    assert evaluate._values(run, judge, known) == [said]


def test_the_components_of_a_family_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "weighting"]) == 0
    said = capsys.readouterr().out
    assert all(words in said for words in ("min_snr", "gamma = 5.0", "uniform"))


def test_a_process_ends_with_its_code_its_output_and_its_exit_functions() -> None:
    said = (
        "import atexit, sys; from harness.core.errors import leave;"
        "atexit.register(print, 'last'); print('first', end=' '); leave(3)"
    )
    ended = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "first last\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_reported() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "harness", "list"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: standard output: No space left on device.")


def test_the_process_ends_with_the_code_and_the_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "harness", "train", "--scale", "digit"], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: 'digit' is not a known scale. Did you mean 'digits'?\n"
