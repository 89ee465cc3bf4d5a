"""Which rate?"""

from harness.ablation.design.search import Search
from harness.ablation.design.space import log

SEARCH = Search(
    question="Does a tuned rate help?",
    spaces={"points": {"train.learning_rate": log(1e-4, 1e-2)}},
    nfe=2,
    trials=2,
    rungs=2,
)
