"""A user's file with a mistake is refused before any training, in one line that says where it is and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from harness.ablation.design.study import load_scale
from harness.cli import main
from harness.core import declared, registry, tried
from harness.core.config import override
from harness.core.declared import check_declared, is_own, place_of
from harness.core.errors import UserError, guarded
from harness.core.registry import HOMES, build, load_plugin, names
from harness.data.base import load
from harness.runs import probe as probes
from harness.runs.config import RunConfig
from harness.runs.probe import probe
from harness.runs.validate import check
from harness.testing import promises

HEAD = '''from dataclasses import dataclass, field
import sys
import numpy as np, torch
from torch import nn
from harness.{module} import {base}

@dataclass(frozen=True, kw_only=True)
class Mine({base}, name="mine"):
    """Mine."""
'''
WEIGHTING = HEAD.format(module="components.weightings", base="Weighting")
WEIGHT = "    def weight(self, t, interpolant):\n        return {}\n"
GOOD = WEIGHTING + "    level: float = 2.0\n\n" + WEIGHT.format("torch.full_like(t, self.level)")
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes each plugin into a new file; the registry forgets all of them afterwards."""
    before = {family: dict(members) for family, members in registry._MEMBERS.items()}

    def forget() -> None:
        for family, members in before.items():
            registry._MEMBERS[family].clear()
            registry._MEMBERS[family].update(members)

    def write(content: str) -> Path:
        forget()
        path = tmp_path / f"plugin{len(list(tmp_path.glob('plugin*')))}.py"
        path.write_text(content)
        return path

    yield write
    forget()


REFUSED = {
    "sys.exit": ("import sys\nsys.exit()", "line 2: the file calls sys.exit, which would end the command"),
    "exit with 0": (GOOD + "raise SystemExit(0)", "line 14: the file calls sys.exit"),
    "an interrupt of its own": ("\nraise KeyboardInterrupt", "line 2: KeyboardInterrupt. Correct the file."),
    "no component": ("x = 1", "declares no component. Give one a name"),
    "a name without a family": (
        "from harness.core.registry import Component\nclass W(Component, name='w'): pass",
        "line 2: W belongs to no family. Derive it from a family's class, like Weighting.",
    ),
    "a family": (
        "from harness.core.registry import Component\nclass W(Component, family='weighting'): pass",
        "line 2: W: no file can add or replace a family.",
    ),
    "a name twice": (GOOD + GOOD, "line 21: weighting 'mine' is already taken by this file. Choose another name."),
    "a number for a name": (GOOD.replace('"mine"', "5"), "line 8: Mine: 5 is not a valid name."),
    "a name that --set cannot hold": (GOOD.replace('"mine"', '"a=b"'), "line 8: Mine: 'a=b' is no"),
    "a decorated function": ("from dataclasses import dataclass\n@dataclass\ndef f(): pass", "line 2: AttributeError"),
    "no decorator": (GOOD.replace("@dataclass(frozen=True, kw_only=True)\n", ""), "weighting 'mine' is not a data"),
    "not frozen": (GOOD.replace("frozen=True, ", ""), "line 7: TypeError: cannot inherit non-frozen dataclass"),
    "no method": (WEIGHTING, "line 7: Mine has no method weight(self, t, interpolant), which every Weigh"),
    "a misspelt method": (GOOD.replace("def weight", "def wheight"), "If 'wheight' is meant, rename it."),
    "no method but a value": (WEIGHTING + "    weight = 2.0", "Mine.weight is 2.0. Every weighting has a"),
    "a method of another name, called as it should be": (
        GOOD.replace("def weight", "def importance"),
        "If 'importance' is meant, rename it.",
    ),
    "too few parameters": (
        GOOD.replace("t, interpolant)", "t)"),
        "Mine.weight takes (self, t), but is called with (self, t, interpolant). Use these parameters.",
    ),
    "too many parameters": (GOOD.replace("interpolant)", "interpolant, z)"), "takes (self, t, interpolant, z)"),
    "a field without a type": (
        GOOD.replace("level: float = 2.0", "level = 2.0"),
        "Mine.level has no type, so it is not a field. Write level: float = 2.0",
    ),
    "a mutable default": (GOOD.replace("float = 2.0", "list = []"), "ValueError: mutable default <class 'list'>"),
    "a mutable field": (
        GOOD.replace("float = 2.0", "dict = field(default_factory=dict)"),
        "line 7: Mine.level: a configuration cannot hold <class 'dict'>.",
    ),
    "a misspelt type": (
        "from __future__ import annotations\n" + GOOD.replace("float", "flaot"),
        "the types of Mine's fields cannot be read: NameError: name 'flaot' is not defined.",
    ),
    "an unset constant": (
        HEAD.format(module="evaluation.metric", base="SampleMetric") + "    def compare(self, samples, real): pass",
        "Mine has no lower_is_better, which every Metric needs.",
    ),
    "neither kind of metric": (
        HEAD.format(module="evaluation.metric", base="Metric") + "    def compare(self, samples, reference): pass",
        "Mine: derive it from SampleMetric or FlowMetric, not from Metric itself.",
    ),
    "neither kind of metric, by a class between": (
        "from harness.evaluation.metric import Metric\nclass Between(Metric): pass\n"
        "class Mine(Between, name='mine'): pass",
        "Mine: derive it from SampleMetric or FlowMetric, not from Metric itself.",
    ),
    "half a solver": (
        HEAD.format(module="components.solvers", base="Solver") + "    calls_per_step = 1\n    def step(self): pass",
        "Mine has no method integrate(self, field, x, times, generator), which every Solver needs.",
    ),
}  # fmt: skip


def test_a_file_that_declares_something_else_is_refused(write: Write) -> None:
    """The registry is as before."""
    for what, (content, said) in REFUSED.items():
        path = write(content)
        with pytest.raises(UserError) as caught:
            load_plugin(path)
        line = str(caught.value)
        assert line.startswith(str(path)), what
        assert said in line, (what, line)
        assert "\n" not in line, what


def test_a_file_that_fails_during_the_import_registers_nothing(write: Write) -> None:
    path = write(GOOD + "1 / 0\n")
    with pytest.raises(UserError, match=r"line 14: ZeroDivisionError: division by zero\. Correct the file\.$"):
        load_plugin(path)
    assert "mine" not in names("weighting")
    path.write_text(GOOD)
    load_plugin(path)
    assert build("weighting", "mine").weight(torch.ones(2), None).tolist() == [2, 2]


def test_ctrl_c_during_the_import_of_a_file_stops_the_command(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor i in range(10**6): pass\n")
    assert main(["list", "loss", "--plugin", str(path)]) == 130
    assert capsys.readouterr().err.startswith("stopped.")


def test_a_class_without_a_file_is_named_by_its_module() -> None:
    """The class was typed into a prompt, or made by another program."""
    assert place_of(type("Mine", (), {"__module__": "elsewhere"})) == "elsewhere"


def test_the_harnesss_components_have_the_required_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each component of the harness passes the check of users' components: a check that refused it would refuse good
    work.
    """
    for family in HOMES:
        for name in names(family):
            member = registry._MEMBERS[family][name]
            monkeypatch.setattr(declared, "is_own", lambda cls, m=member: cls is not m and is_own(cls))
            check_declared(member)


VALUES: dict[str, tuple[str, str, str, str]] = {
    "a float": (
        "components.weightings Weighting",
        "    def weight(self, t, interpolant):\n        return 2.0\n",
        "weighting",
        "Mine.weight returns float 2.0, but should return a finite float32 tensor [4] with values of 0 or more.",
    ),
    "an array": (
        "components.weightings Weighting",
        "    def weight(self, t, interpolant):\n        return t.numpy()\n",
        "weighting",
        "returns ndarray, but",
    ),
    "a shape": (
        "components.weightings Weighting",
        "    def weight(self, t, interpolant):\n        return t[:, None]\n",
        "weighting",
        "returns float32 tensor [4, 1]",
    ),
    "a dtype": (
        "components.weightings Weighting",
        "    def weight(self, t, interpolant):\n        return t.float()\n",
        "weighting",
        "finite float64 tensor [4]",
    ),
    "NaN": (
        "components.weightings Weighting",
        "    def weight(self, t, interpolant):\n        return t * torch.nan\n",
        "weighting",
        "returns NaN or infinity",
    ),
    "below zero": (
        "components.weightings Weighting",
        "    def weight(self, t, interpolant):\n        return -t\n",
        "weighting",
        "Mine.weight returns -0.95, but",
    ),
    "an exception": (
        "components.weightings Weighting",
        "    def weight(self, t, interpolant):\n        return t / no\n",
        "weighting",
        "line 11: Mine.weight raises NameError: name 'no' is not defined.",
    ),
    "an exit": (
        "components.weightings Weighting",
        "    def weight(self, t, interpolant):\n        return sys.exit()\n",
        "weighting",
        "raises SystemExit.",
    ),
    "a path's number": (
        "components.interpolants Interpolant",
        "    def alpha(self, t): return 1.0\n    def sigma(self, t): return t\n",
        "interpolant",
        "Mine.alpha returns float 1.0",
    ),
    "a prediction's numbers": (
        "components.predictions Prediction",
        "    def coefficients(self, t, path, variance):\n        return 1.0, 2.0\n",
        "prediction",
        "returns float 1.0 for a coefficient",
    ),
    "one loss for all": (
        "components.losses Loss",
        "    def measure(self, error): return error.square().mean()\n",
        "loss",
        "Mine.measure returns float32 tensor [], but should return a finite float32 tensor [4] with values of 0",
    ),
    "one distance for all samples": (
        "components.perceptual Perceptual",
        "    def compare(self, samples, targets): return (samples - targets).square().mean()\n",
        "reflow.perceptual",
        "Mine.compare returns float32 tensor [], but should return a finite float32 tensor [4] with values of 0",
    ),
    "times beyond 1": (
        "components.time_samplers TimeSampler",
        "    def quantile(self, u, interpolant=None): return 2 * u\n"
        "    def density(self, t, interpolant=None): return t\n",
        "time_sampler",
        "with values of 0 to 1. Correct it.",
    ),
    "noise of another shape": (
        "components.noises Noise",
        "    def sample(self, shape, generator, state):\n        return torch.ones(3)\n",
        "noise",
        "Mine.sample returns float32 tensor [3]",
    ),
    "no triple": (
        "components.couplings Coupling",
        "    def pair(self, x0, x1, generator, y=None): return x0, x1\n",
        "coupling",
        "but should return a Pair of data, noise and classes.",
    ),
    "no step": (
        "components.solvers OneStepSolver",
        "    calls_per_step = 1\n    def step(self, field, x, t, dt): pass\n",
        "evaluate.solver",
        "Mine.integrate returns None",
    ),
    "too few times": (
        "components.time_grids TimeGrid",
        "    def place(self, u, steps, interpolant): return u\n"
        "    def times(self, steps, interpolant): return torch.linspace(1, 0, steps)\n",
        "evaluate.time_grid",
        "Mine.times returns float32 tensor [4]",
    ),
    "no network": (
        "components.backbones.base Backbone",
        "    def build(self, data_shape, num_classes=0): pass\n",
        "backbone",
        "Mine.build returns None, but should return a torch.nn.Module.",
    ),
    "an embedding of one number": (
        "components.backbones.embeddings TimeEmbedding",
        "    def build(self, dim):\n        return nn.Identity()\n",
        "backbone.time_embedding",
        "returns float32 tensor [4] for",
    ),
    "no optimizer": (
        "training.optimizers Optimizer",
        "    def build(self, weights): return list(weights)\n",
        "train.optimizer",
        "but should return a torch.optim.Optimizer.",
    ),
    "a share below zero": (
        "training.schedules Schedule",
        "    def share(self, step, warmup, steps): return -1.0\n",
        "train.schedule",
        "Mine.share returns -1 for step",
    ),
    "no term": (
        "components.averages Average",
        "    def terms(self, decays, steps): return [('ema', 1.0)]\n",
        "evaluate.average",
        "Mine.terms returns tuple for a part, but should return a Term.",
    ),
    "no data": ("data.base Dataset", "    def load(self): return [1, 2]\n", "dataset", "Mine.load returns list"),
    "data in float64": (
        "data.base Dataset",
        "    def load(self):\n        from harness.data.base import Data\n"
        "        x = torch.arange(100.0).view(50, 2).double()\n"
        "        return Data(x, x[:9], lambda v: v, lambda v: v, 'points')\n",
        "dataset",
        "Mine.load returns float64 tensor [4, 2] for encoded samples",
    ),
    "a metric's text": (
        "evaluation.metric SampleMetric",
        "    lower_is_better = True\n    reads = 'either'\n    def compare(self, samples, reference): return 'x'\n",
        "evaluate.metrics",
        "returns str 'x', but should return a number",
    ),
    "features alone": (
        "evaluation.extractors Extractor",
        "    dimensions = 8\n    def load(self, device):\n        return lambda images: images.float().mean((1, 3))\n",
        "evaluate.extractor",
        "a pair of features",
    ),
}
"""{wrong value: (base class of the family, methods, path that uses it, message)}."""


def test_the_values_of_a_component_are_tried_before_training(write: Write, tiny: RunConfig) -> None:
    """A wrong value of every family."""
    families = set()
    for what, (home, body, path, said) in VALUES.items():
        module, base = home.split()
        file = write(HEAD.format(module=module, base=base) + body)
        load_plugin(file)
        if path == "dataset":  # both are equal, and the first would be cached
            load.cache_clear()
        families.add("metric" if path.endswith("metrics") else path.rpartition(".")[2])
        with pytest.raises(UserError) as caught:
            check(override(tiny, {path: ["mine"] if path.endswith("metrics") else "mine"}))
        line = str(caught.value)
        assert line.startswith(str(file)), (what, line)
        assert said in line, (what, line)
        assert "\n" not in line, what
    load.cache_clear()
    assert families == set(HOMES)


@pytest.mark.parametrize(
    ("home", "body", "said"),
    [
        ("components.weightings Weighting", "    def weight(self, t, interpolant): return 2.0\n", "float 2.0, but"),
        ("components.losses Loss", "    def measure(self, error): return error.mean()\n", "float32 tensor [], but"),
        (
            "components.interpolants Interpolant",
            "    def alpha(self, t): return 1.0\n    def sigma(self, t): return t\n",
            "Mine.alpha returns float 1.0, but should return a finite float64 tensor [4]",
        ),
    ],
)  # fmt: skip
def test_check_reports_the_value_of_a_method_and_the_required_one(
    write: Write, home: str, body: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    module, base = home.split()
    path = write(HEAD.format(module=module, base=base) + body)
    assert main(["check", str(path)]) == 2
    broken = [line for line in capsys.readouterr().out.splitlines() if line.startswith("broken: ")]
    assert len(broken) == 1
    assert str(path) in broken[0]
    assert said in broken[0]


def test_a_nearby_file_that_declares_an_unknown_name_is_named(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hint is a forgotten --plugin; if no file declares the name, the hint is the nearest name."""
    path = write(GOOD)
    monkeypatch.chdir(path.parent)
    assert main(["explain", "--set", "weighting=mine"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: weighting: 'mine' is not a known weighting. {path.name} declares one of that name. " + (
        f"Add --plugin {path.name}.\n"
    )
    assert main(["explain", "--set", "weighting=min_sn"]) == 2
    assert "Did you mean 'min_snr'?" in capsys.readouterr().err


def test_values_inside_values_are_tried_too(tiny: RunConfig) -> None:
    """The state that a noise learns, and the classes that a coupling gives to a network with classes."""
    learned = Mock(spec=["learn"], learn=lambda data: {"mean": 1.0})
    paired = Mock(spec=["pair"], pair=lambda x0, x1, generator, y: (x0, x1, y.float()))
    told = override(tiny, {"objective.label_dropout": 0.1})
    for family, component, config, said in (
        ("noise", learned, tiny, "Mock.learn returns float 1.0 for mean, but should return a tensor"),
        (
            "coupling",
            paired,
            told,
            "Mock.pair returns float32 tensor [4] for the classes, but should return a finite int64 tensor [4]",
        ),
    ):
        with pytest.raises(UserError) as caught:
            probes.PROBES[family](component, config, load(tiny.dataset))
        assert said in str(caught.value)
    probes.PROBES["coupling"](paired, tiny, load(tiny.dataset))  # its network has no classes


def test_components_that_training_samples_cannot_try_are_accepted(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics of a flow or of logits, which do not exist yet, and features of images if the data are not images."""
    for module in (probes, tried):
        monkeypatch.setattr(module, "is_own", lambda cls: False)
    points = override(load_scale("points"), {"evaluate.metrics": ["sliced_wasserstein"]})
    for config, family, name in (
        (tiny, "metric", "straightness"),
        (tiny, "metric", "isc"),
        (points, "metric", "sliced_wasserstein"),
        (points, "extractor", "digits"),
    ):
        probes.PROBES[family](build(family, name), config, load(config.dataset))


def test_a_good_component_is_accepted_without_a_change_of_random_numbers(write: Write, tiny: RunConfig) -> None:
    load_plugin(write(GOOD))
    before = torch.get_rng_state()
    check(override(tiny, {"weighting": "mine"}))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_the_harnesss_components_pass_the_checks_of_users_components(
    monkeypatch: pytest.MonkeyPatch, tiny: RunConfig
) -> None:
    """A check that refused one of them would refuse good work."""
    data = load(tiny.dataset)
    for module in (probes, tried):
        monkeypatch.setattr(module, "is_own", lambda cls: False)
    probe(tiny, data)
    for family in ("interpolant", "prediction", "weighting", "loss", "time_sampler", "solver", "time_grid", "schedule"):
        for name in names(family):
            probes.PROBES[family](build(family, name), tiny, data)


def test_an_exception_of_a_plugin_during_the_work_is_one_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """HARNESS_TRACEBACK=1 shows its traceback; the harness's exceptions are raised unchanged."""
    for body, said in (("{}['late']", "KeyError: 'late'"), ("sys.exit(0)", "it calls sys.exit, which ends the work")):
        path = write(WEIGHTING + WEIGHT.format(body))
        load_plugin(path)
        weighting: Any = build("weighting", "mine")
        assert guarded(partial(weighting.weight, torch.ones(1), None)) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: {path}, line 11: {said}")
        assert "HARNESS_TRACEBACK=1" in line
        assert line.count("\n") == 1
    monkeypatch.setenv("HARNESS_TRACEBACK", "1")
    assert guarded(lambda: weighting.weight(torch.ones(1), None)) == 2
    assert "Traceback" in capsys.readouterr().err
    for call in (lambda: 1 // 0, lambda: tried.attempted(build("loss", "mse"), "measure", lambda: 1 // 0)):
        with pytest.raises(ZeroDivisionError):
            guarded(call)


def test_check_does_not_end_with_the_component_that_exits(write: Write) -> None:
    load_plugin(write(WEIGHTING + WEIGHT.format("sys.exit()")))
    last, kept = promises(build("weighting", "mine"))[-1]
    assert "line 11: Mine.weight raises SystemExit." in last
    assert not kept
