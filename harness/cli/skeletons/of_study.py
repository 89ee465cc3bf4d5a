"""Tests that every arm of the study `mine` can be trained and judged; it trains nothing."""

from pathlib import Path

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_study
from harness.runs.validate import check

SCALE = "points"


def test_every_arm_can_be_trained() -> None:
    """`SCALE` is one that loads fast. Set it to the scale that you use."""
    study = load_study(str(Path(__file__).with_name("mine.py")))
    plan = Plan.of(study, SCALE, load_scale(SCALE), {}, None, ())
    for config in plan.arms.values():
        check(config)
