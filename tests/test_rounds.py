"""Rounds of reflow as plans, and the weights that make their pairs."""

import pytest
import torch

from harness.ablation.design import rounds
from harness.ablation.execute.worker import PlanBoard, work
from harness.core.config import override, to_dict
from harness.core.errors import ConfigError
from harness.flow.sampling import generate
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.reflow import teacher_of
from harness.runs.sample import averaged
from harness.runs.train import make_pairs, train

pytestmark = pytest.mark.usefixtures("unmeasured")


def quiet(text: str) -> None:
    pass


def never() -> bool:
    return False


@pytest.fixture
def points() -> RunConfig:
    """Eight Gaussians, a few steps of a small network with a look after every second step."""
    return RunConfig.parse(
        {
            "dataset": {"name": "eight_gaussians"},
            "backbone": {"name": "mlp", "width": 8, "blocks": 1},
            "train": {
                "steps": 8, "batch_size": 32, "warmup_steps": 1, "learning_rate": 0.05, "ema_decay": 0.5,
                "sample_every": 2, "checkpoint_every": 2, "log_every": 2, "device": "cpu",
            },
            "evaluate": {
                "nfe": [1, 2], "num_samples": 40, "batch_size": 40, "extractor": "values",
                "metrics": [{"name": "sliced_wasserstein"}],
            },
            "reflow": {"number": 24, "nfe": 2, "batch_size": 24},
        }
    )  # fmt: skip


def test_pairs_are_made_by_the_weights_that_are_named(points: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best weights are those of a look in the middle: pairs drawn from them by hand are the same."""
    losses = iter((3.0, 1.0, 2.0, 2.5))
    monkeypatch.setattr("harness.training.trainer.Training.held_out_loss", lambda self: next(losses))
    train(Run.of(points), quiet, never)
    made = {}
    for checkpoint in ("last", "best"):
        run = Run.of(override(points, {"reflow.rounds": 1, "reflow.checkpoint": checkpoint}))
        make_pairs(run, quiet, never)
        assert teacher_of(run).config.evaluate.checkpoint == checkpoint
        trained = averaged(Run.of(override(points, {"evaluate.checkpoint": checkpoint})))
        sampling = run.config.reflow
        (batch,) = generate(trained, sampling, 2, (2,), 24, (0, "pairs", 2))
        made[checkpoint] = (run.pairs.name, batch.x)
        stored = torch.from_file(str(run.pairs.folder / "x0.npy"), size=run.pairs.arrays["x0"].size(24) // 4)
        assert torch.equal(stored[-48:].view(24, 2), batch.x)
    assert made["last"][0] != made["best"][0]
    assert not torch.equal(made["last"][1], made["best"][1])


def test_a_later_teacher_has_no_best_weights(points: RunConfig) -> None:
    config = override(points, {"reflow.rounds": 2, "reflow.checkpoint": "best"})
    assert config.pairs_sampling.checkpoint == "last"
    assert config.parent
    assert config.parent.pairs_sampling.checkpoint == "best"
    plain = override(points, {"reflow.rounds": 2})
    assert "checkpoint" not in to_dict(plain.reflow, digested=True)
    assert Run.of(config).name != Run.of(plain).name


def test_an_nfe_that_later_pairs_cannot_use_is_refused_at_its_path(points: RunConfig) -> None:
    """With guidance, the first round takes two calls per step, the second one: 41 is odd, and Heun takes two."""
    told = {"dataset": "checkerboard"}
    labelled = {"objective.label_dropout": 0.1, "reflow.guidance.scale": 2.0}
    with pytest.raises(ConfigError, match=r"^reflow\.nfe: heun spends 2 calls a step and cannot spend 41"):
        override(points, {**told, **labelled, "reflow.rounds": 2, "reflow.nfe": 41})


def test_steps_that_no_round_reaches_are_refused(points: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "require_finished", lambda self: None)
    for path in ("train.warmup_steps", "train.snapshot_every"):
        with pytest.raises(ConfigError, match=rf"^{path}: .* (training of 8|last step \(8\))"):
            rounds.plan_of([Run.of(points)], 1, False, {path: 9})


def test_rounds_are_compared_by_a_metric_that_all_have(points: RunConfig) -> None:
    """A distilled network has no flow, so metrics of flows do not count, even if one comes first."""
    metrics = [{"name": "straightness"}, {"name": "sliced_wasserstein"}]
    run = Run.of(override(points, {"evaluate.metrics": metrics}))
    train(run, quiet, never)
    plan = rounds.plan_of([run], 1, True, {})
    assert plan.metric == "sliced_wasserstein"
    work(PlanBoard(plan), never)
    assert plan.unfinished() == []


def test_an_arm_that_is_not_judged_by_the_metric_ends_too(points: RunConfig) -> None:
    run = Run.of(points)
    train(run, quiet, never)
    plan = rounds.plan_of([run], 1, False, {})
    plan.arms["2-rectified"] = override(plan.arms["2-rectified"], {"evaluate.metrics": ["mmd"]})
    board = PlanBoard(plan)
    work(board, never)
    assert board.finished()
