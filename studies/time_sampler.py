"""Which times should a network be trained at, and does it matter how evenly they are drawn?

Expected before it ran: `uniform` is worse than `stratified`, whose loss varies less, and `low_discrepancy` is a tie
with it; densities with most times in the middle (`logit_normal`, `mode`, `cosmap`) are better or ties, those near the
noise (`shifted`) are worse.
"""

from harness.ablation.design.study import Study


def stratified(name: str) -> dict[str, object]:
    """Return an arm that differs from the baseline only in its density."""
    return {"time_sampler": {"name": name, "stratify": True}}


STUDY = Study(
    question="Which density of training times gives the best samples, and does stratifying them help?",
    baseline="stratified",
    arms={
        "stratified": {"time_sampler": "stratified"},
        "uniform": {"time_sampler": "uniform"},
        "low_discrepancy": {"time_sampler": "low_discrepancy"},
        "power": stratified("power"),
        "logit_normal": stratified("logit_normal"),
        # The same expected objective as `logit_normal`; only the variance of the loss differs.
        "logit_normal_weight": {"time_sampler": "stratified", "weighting": "logit_normal"},
        "mode": stratified("mode"),
        "cosmap": stratified("cosmap"),
        "beta": stratified("beta"),
        "u_shaped": stratified("u_shaped"),
        "edm_lognormal": stratified("edm_lognormal"),
        "shifted": stratified("shifted"),
    },
    nfe=32,
    smallest_difference=0.1,
)
