"""Whether every arm of the study mine can be trained and judged; nothing is trained."""

from pathlib import Path

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_study
from harness.runs.validate import check

SCALE = "points"


def test_every_arm_can_be_trained() -> None:
    """At a scale that loads in a moment; name yours."""
    study = load_study(str(Path(__file__).with_name("mine.py")))
    plan = Plan.of(study, SCALE, load_scale(SCALE), {}, None, ())
    for config in plan.arms.values():
        check(config)
