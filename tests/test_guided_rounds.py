"""Reflow of guided flows: pairs are guided once; their student is sampled, judged and used as a teacher without
guidance.
"""

import io
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from harness.ablation.design import rounds
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study, load_scale
from harness.ablation.execute.worker import PlanBoard, work
from harness.cli import main
from harness.cli import reflow as reflow_command
from harness.core.config import override
from harness.core.errors import ConfigError
from harness.data.base import load
from harness.flow.sampling import Trained
from harness.runs import reflow as reflow_module
from harness.runs import train as train_module
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.lineage import lineage
from harness.runs.students import guided_twice
from harness.runs.train import ensure, make_pairs, train

pytestmark = pytest.mark.usefixtures("unmeasured")
SPREAD = 0.1
ANGLES = np.arange(8) * math.pi / 4
CENTRES = math.sqrt(2 * (1 - SPREAD**2)) * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
"""The centres of `eight_gaussians`."""


@pytest.fixture
def told() -> RunConfig:
    """Eight Gaussians and a network with classes, judged with guidance after a few steps."""
    changes = {
        "objective.label_dropout": 0.1, "train.steps": 3, "train.sample_every": 3, "train.warmup_steps": 1,
        "train.device": "cpu",
        "backbone.width": 8, "reflow.number": 200, "reflow.nfe": 8, "reflow.batch_size": 100,
        "evaluate.num_samples": 40,
        "evaluate.metrics": ["sliced_wasserstein"], "evaluate.nfe": [2, 4], "evaluate.guidance.scale": 2,
    }  # fmt: skip
    return override(load_scale("points"), changes)


def quiet(text: str) -> None:
    pass


def never() -> bool:
    return False


class Exact(nn.Module):
    """The velocity of the eight Gaussians, or of one of them if there is a class."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(
            np.stack([exact(a, b, k) for a, b, k in zip(x.double().numpy(), t.tolist(), y.tolist(), strict=True)])
        ).float()


def exact(x: np.ndarray, t: float, k: int) -> np.ndarray:
    """Return E[x1 - x0 | x_t = x] of component k, or of all for k = -1: each x_t is normal with mean (1 - t) m."""
    variance = (1 - t) ** 2 * SPREAD**2 + t**2
    away = x - (1 - t) * CENTRES
    velocities = -CENTRES + (t - (1 - t) * SPREAD**2) / variance * away
    if k >= 0:
        return velocities[k]
    weights = np.exp(-((away**2).sum(1) - (away**2).sum(1).min()) / (2 * variance))
    return weights @ velocities / weights.sum()


def guided_end(x1: np.ndarray, k: int, scale: float) -> np.ndarray:
    """Return the end of the guided flow from x1, by SciPy."""

    def field(t: float, x: np.ndarray) -> np.ndarray:
        without = exact(x, t, -1)
        return without + scale * (exact(x, t, k) - without)

    return solve_ivp(field, (1, 0), x1, rtol=1e-8, atol=1e-8).y[:, -1]


def test_pairs_are_the_guided_flows_ends_once(told: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher of a second round has learned guided pairs, so it makes pairs without guidance: here with the flow of
    one Gaussian, x1 -> m + sd x1.
    """
    state = told.noise.learn(load(told.dataset))
    monkeypatch.setattr(train_module, "train", lambda *_: None)
    monkeypatch.setattr(reflow_module, "restore", lambda run: Trained(Exact(), told, state))
    making = {
        "reflow.guidance.scale": 2.5,
        "reflow.solver": "dopri5",
        "reflow.nfe": 0,
        "reflow.number": 12,
        "evaluate.guidance.scale": 1,
    }
    found = []
    calls = []
    for more in (
        {"reflow.rounds": 1},
        {"reflow.rounds": 2},
        {"reflow.rounds": 1, "reflow.distil": True, "evaluate.nfe": [1]},
    ):
        run = Run.of(override(told, {**making, **more}))
        make_pairs(run, quiet, never)
        found.append([np.load(run.pairs.folder / f"{name}.npy") for name in ("x0", "x1", "y")])
        calls.append(run.pairs.about["made"]["guidance"]["scale"])
    assert calls == [2.5, 1, 1]
    (x0, x1, y), *later = found
    ends = np.stack([guided_end(a, k, 2.5) for a, k in zip(x1.astype(float), y, strict=True)])
    np.testing.assert_allclose(x0, ends, atol=2e-3)
    assert np.abs(x0 - (CENTRES[y] + SPREAD * x1)).max() > 0.02, "guidance moves them"
    for x0, x1, y in later:
        np.testing.assert_allclose(x0, CENTRES[y] + SPREAD * x1, atol=2e-3)


def test_rounds_are_guided_once_by_default(told: RunConfig) -> None:
    train(Run.of(told), quiet, never)
    cases: list[tuple[dict[str, Any], list[float], list[float]]] = [
        ({"reflow.guidance.scale": 2}, [2, 1, 1, 1], [2, 1, 1]),
        ({"reflow.guidance.scale": 3, "train.steps": 4}, [2, 1, 1, 1], [3, 1, 1]),
        ({}, [2, 2, 2, 1], [1, 1, 1]),
        ({"reflow.later_guidance.scale": 2}, [2, 2, 1, 1], [1, 2, 2]),
        ({"reflow.guidance.scale": 2, "evaluate.guidance.scale": 1}, [1, 1, 1, 1], [2, 1, 1]),
        ({"reflow.guidance.scale": 2, "evaluate.guidance.scale": 3}, [3, 3, 3, 1], [2, 1, 1]),
    ]
    for changes, judged, made in cases:
        arms = list(rounds.plan_of([Run.of(told)], 2, True, changes).arms.values())
        assert [config.evaluate.guidance.scale for config in arms] == judged, changes
        assert [config.pairs_sampling.guidance.scale for config in arms[1:]] == made, changes
        twice = [guided_twice(config) is not None for config in arms]
        assert twice == [False, *[changes.get("evaluate.guidance.scale") == 3] * 2, False], changes
        options = Namespace(runs=[Run.of(told).name], rounds=2, distil=True, plugin=[])
        options.changes = [f"{path}={value}" for path, value in changes.items()]
        reflow_command._planned(options, Console(file=(log := io.StringIO()), width=500))
        assert log.getvalue().count("- advice for ") == sum(twice), changes


def test_rounds_from_a_guided_student_are_not_guided_again(told: RunConfig) -> None:
    student = override(told, {"reflow.rounds": 1, "reflow.guidance.scale": 2, "evaluate.guidance.scale": 1})
    train(Run.of(student), quiet, never)
    for changes in ({}, {"train.steps": 4}, {"reflow.number": 300}):
        plan = rounds.plan_of([Run.of(student)], 1, False, changes)
        assert list(plan.arms) == ["2-rectified", "3-rectified"]
        config = plan.arms["3-rectified"]
        assert (config.pairs_sampling.guidance.scale, config.evaluate.guidance.scale, config.learned_guidance) == (
            1,
            1,
            True,
        )
    with pytest.raises(
        ConfigError, match=r"^reflow\.guidance: it guides only .* Set reflow\.later_guidance to guide it\.$"
    ):
        rounds.plan_of([Run.of(student)], 1, False, {"reflow.guidance.scale": 3})
    again = rounds.plan_of([Run.of(student)], 1, False, {"reflow.later_guidance.scale": 3}).arms["3-rectified"]
    assert again.pairs_sampling.guidance.scale == 3


def test_guidance_that_a_scale_brings_is_not_added_in_silence(
    told: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """In `train` and in a study's arms, this is refused unless a change or the arm names the guidance."""
    rounded = ["--set", "reflow.rounds=1", "--set", "reflow.guidance.scale=2"]
    assert main(["train", "--scale", "digits_classes", *rounded]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: evaluate.guidance: the pairs that it learned are guided already, and "
        "evaluate.guidance.scale=2 guides it"
    )
    assert said.count("\n") == 1
    arm = {"reflow.rounds": 1, "reflow.guidance.scale": 2}
    for more, refused in (({}, True), ({"evaluate.guidance.scale": 1}, False), ({"evaluate.guidance.scale": 3}, False)):
        study = Study(question="?", baseline="a", arms={"a": {}, "b": {**arm, **more}}, name="mine")
        if refused:
            with pytest.raises(
                ConfigError, match=r"^arm 'b'\.evaluate\.guidance: the pairs that it learned are guided already"
            ):
                Plan.of(study, "points", told, {}, 1, [])
        else:
            assert (
                Plan.of(study, "points", told, {}, 1, []).arms["b"].evaluate.guidance.scale
                == more["evaluate.guidance.scale"]
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reflow.later_guidance.scale": 2}, "reflow.later_guidance.scale: without a second round it changes nothing."),
        (
            {"reflow.later_guidance.scale": 2, "reflow.rounds": 2, "objective.label_dropout": 0.0},
            "reflow.later_guidance: the teacher always",
        ),
    ],
    ids=str,
)
def test_guidance_of_no_later_round_is_refused(
    changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"reflow.rounds": 1, "objective.label_dropout": 0.1, **changes}
    assert (
        main(
            [
                "train",
                "--scale",
                "points",
                *(word for path, value in given.items() for word in ("--set", f"{path}={value}")),
            ]
        )
        == 2
    )
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_lineage_shows_each_flow_by_a_protocol_that_fits_it(
    told: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base is judged with guidance, the student without, and the distilled run with one step; also with another
    solver.
    """
    out = ["--out", str(tmp_path / "few.png")]
    for more in (
        {"reflow.guidance.scale": 2},
        {"reflow.guidance.scale": 3, "evaluate.solver": "heun", "evaluate.nfe": [4]},
    ):
        train(Run.of(told), quiet, never)
        plan = rounds.plan_of([Run.of(told)], 1, True, more)
        work(PlanBoard(plan), never)
        last = plan.run(list(plan.arms)[-1], 0)
        links = {link.title: link for link in lineage(last)}
        solver = plan.arms["1-rectified"].evaluate.solver.name
        ways = {"1-rectified": f"{solver}, guidance 2", "2-rectified": solver, "2-rectified distilled": "euler"}
        for arm, way in ways.items():
            values = plan.run(arm, 0).evaluation(plan.protocol(arm))["values"]["sliced_wasserstein"]
            first = min(values, key=int)
            assert f"sampled by {way}" in links[arm].facts
            assert any(f"{values[first]:.3g} at NFE {first}" in fact for fact in links[arm].facts), arm
            assert links[arm].picture is not None
        assert (
            main(["sample", plan.run("2-rectified", 0).name, "--nfe", "4", "--set", "evaluate.guidance.scale=2", *out])
            == 0
        )
        assert "the pairs that it learned are guided already" in capsys.readouterr().out


def test_an_unguided_student_is_judged_as_it_was(told: RunConfig) -> None:
    """With the guidance of its scale, like the flow before it."""
    student = override(told, {"reflow.rounds": 1})
    assert not student.learned_guidance
    run = ensure(student, quiet, never)
    assert run.evaluation(student.protocol())["protocol"]["guidance"]["scale"] == 2
