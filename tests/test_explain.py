"""The effective weight, compared with closed forms, and notes about equal arms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.cli import main
from harness.core.config import override
from harness.core.registry import HOMES, build, names
from harness.runs.config import RunConfig
from harness.runs.explain import LOG_SNR, Explained, alike, percent

SNR = LOG_SNR.exp()


@pytest.fixture
def explained(tiny: RunConfig) -> Any:
    def make(**changes: Any) -> Explained:
        return Explained.of(
            override(tiny, {"time_sampler": "uniform", **{k.replace("__", "."): v for k, v in changes.items()}})
        )

    return make


def proportional(curve: Tensor, expected: Tensor, rtol: float = 2e-3) -> None:
    middle = len(LOG_SNR) // 2
    torch.testing.assert_close(curve / curve[middle], expected / expected[middle], rtol=rtol, atol=0)


def test_the_velocity_on_the_straight_path(explained: Any) -> None:
    """Kingma & Gao 2023, table 1: uniform times and the velocity error weight the noise error by exp(-lambda / 2)."""
    proportional(explained().effective_weight(), (-LOG_SNR / 2).exp())


def test_noise_prediction_with_uniform_times(explained: Any) -> None:
    """w = 1 on the noise error: only the density of lambda, sech^2(lambda / 4) for t = sigmoid(-lambda / 2)."""
    proportional(explained(prediction="noise").effective_weight(), 1 / torch.cosh(LOG_SNR / 4) ** 2)


def test_min_snr_as_its_authors_mean_it(explained: Any) -> None:
    """min(SNR, gamma) on the data error is min(1, gamma / SNR) on the noise error, times the density of lambda."""
    for prediction in ("data", "velocity"):
        curve = explained(prediction=prediction, weighting={"name": "min_snr", "gamma": 5}).effective_weight()
        proportional(curve, (5 / SNR).clamp(max=1) / torch.cosh(LOG_SNR / 4) ** 2)


def test_the_error_that_a_weighting_is_stated_for_is_written_out(explained: Any) -> None:
    """If it is another error than the measured one, the mean is that of the product."""
    lines = {part: formula for part, formula, _ in explained(weighting="min_snr").lines()}
    ratio = "the error of the data, for which w is stated, over the error of the network's output"
    assert lines["k(t)"] == f"{ratio}; t clamped to [0.01, 0.99]"
    turn = 1 / (1 + 5**0.5)
    mean = 5 * turn**3 / 3 + (1 - turn) ** 3 / 3  # the mean of min(5 t^2, (1 - t)^2)
    found = re.fullmatch(
        r"E \[w\(t\) k\(t\)\^2 / (0\.\d+) loss\(e\)\], e the error of the network's output", lines["objective"]
    )
    assert found
    assert float(found[1]) == pytest.approx(mean, rel=1e-4)
    plain = {part: formula for part, formula, _ in explained(weighting="clipped_snr").lines()}
    assert "k(t)" not in plain
    assert plain["objective"].startswith("E [w(t) / ")


def test_the_effective_share_is_written_out(explained: Any) -> None:
    made = explained(weighting="data_end")
    assert made.effective_share() == pytest.approx(5 / 9)
    (said,) = (formula for part, formula, _ in made.lines() if part == "effective share")
    assert said == "56 % of a batch: (E W)^2 / E W^2, W the whole weight of loss(e)"
    assert [percent(share) for share in (1, 0.0996, 0.0994, 0.00297)] == ["100 %", "10 %", "9.9 %", "0.3 %"]


def test_edm_as_its_authors_mean_it(explained: Any) -> None:
    """Karras et al. 2022 with F's error unweighted: N(ln s; -1.2, 1.2^2) (s^2 + d^2) / d^2, as in
    Kingma & Gao's table.
    """
    made = explained(
        interpolant={"name": "ve", "sigma_min": 0.002, "sigma_max": 200},
        prediction={"name": "edm", "sigma_data": 0.5},
        time_sampler="edm_lognormal",
    )
    log_s = -LOG_SNR / 2
    normal = (-((log_s + 1.2) ** 2) / (2 * 1.2**2)).exp()
    proportional(made.effective_weight(), normal * ((2 * log_s).exp() + 0.25) / 0.25)


def test_levels_that_the_path_does_not_have_are_left_out(explained: Any) -> None:
    curve = explained(interpolant={"name": "ve", "sigma_min": 0.1, "sigma_max": 10}).effective_weight()
    reached = LOG_SNR.abs() < 2 * np.log(10) - 0.05
    assert curve[reached].isfinite().all()
    assert curve[LOG_SNR.abs() > 2 * np.log(10) + 0.05].isnan().all()


INVERSE = 1 + 1 / SNR
ENDING = {
    # interpolant and prediction with uniform times, its levels, and the weight of the noise error derived by hand
    "ve": ({"name": "ve", "sigma_min": 0.1, "sigma_max": 10}, "velocity", -2 * np.log(10), 2 * np.log(10), 1 / SNR),
    "ve of a narrow range": (
        {"name": "ve", "sigma_min": 0.5, "sigma_max": 3},
        "velocity",
        -2 * np.log(3),
        2 * np.log(2),
        1 / SNR,
    ),
    "fm_ot": ({"name": "fm_ot", "sigma_min": 0.1}, "velocity", -np.inf, 2 * np.log(10), SNR**-0.5),
    "fm_ot, much": ({"name": "fm_ot", "sigma_min": 0.33}, "velocity", -np.inf, -2 * np.log(0.33), SNR**-0.5),
    "vp_ddpm": (  # B = t + t^2 = log(1 + 1 / SNR), and dt / d lambda = -1 / (beta (1 + SNR))
        {"name": "vp_ddpm", "beta_min": 1, "beta_max": 3},
        "noise",
        -np.log(np.expm1(2)),
        np.inf,
        1 / ((1 + SNR) * (1 + 4 * INVERSE.log()).sqrt()),
    ),
    "vp": ("vp", "noise", -np.inf, np.inf, (1 + SNR) ** -0.5 * SNR / (1 + SNR)),  # t (1 - t^2), t^2 = 1 / (1 + SNR)
    "gvp": ("gvp", "noise", -np.inf, np.inf, 1 / torch.cosh(LOG_SNR / 2)),
}


def test_the_first_and_the_last_level_of_a_path_that_ends_weigh_as_they_should(explained: Any) -> None:
    for name, (interpolant, prediction, low, high, expected) in ENDING.items():
        curve = explained(interpolant=interpolant, prediction=prediction).effective_weight()
        reached = (low < LOG_SNR) & (high > LOG_SNR)
        assert torch.equal(curve.isfinite(), reached), name
        middle = len(LOG_SNR) // 2
        ratio = (curve / curve[middle] / (expected / expected[middle]))[reached]
        assert (ratio - 1).abs().max() < 1e-6, f"{name}: {ratio[[0, -1]].tolist()} at the first and the last level"


def test_the_noise_counts_in_the_signal_to_noise_ratio(explained: Any) -> None:
    """An SNR weight uses the noise's variance: with half the noise, the same t has another lambda, and the same lambda
    has the same weight.
    """
    matched = explained(noise="matched", prediction="noise", time_sampler="edm_lognormal")
    gaussian = explained(prediction="noise", time_sampler="edm_lognormal")
    proportional(matched.effective_weight(), gaussian.effective_weight())


def test_density_and_weight_are_the_same_expected_objective(explained: Any) -> None:
    arms = {
        "times": explained(time_sampler="logit_normal"),
        "weight": explained(weighting="logit_normal"),
        "plain": explained(),
    }
    assert alike(arms) == ["times, weight: the same expected objective; only the variance of its gradient differs."]


def test_an_objective_is_one_network_s_on_one_data_set(explained: Any) -> None:
    for change in ({"backbone__channels": 64}, {"dataset__encoded": [0, 1]}):
        times: dict[str, dict[str, Any]] = {"plain": {}, "drawn": {"time_sampler": "stratified"}}
        arms = {name: explained(**own) for name, own in times.items()}
        arms |= {f"{name}, changed": explained(**own, **change) for name, own in times.items()}
        words = "the same expected objective; only the variance of its gradient differs."
        assert alike(arms) == [f"plain, drawn: {words}", f"plain, changed; drawn, changed: {words}"], change


def test_predictions_in_one_space_share_the_weight_alone(explained: Any) -> None:
    arms = {
        "v": explained(),
        "x0": explained(prediction="data", objective__space="velocity"),
        "x0 plain": explained(prediction="data"),
    }
    assert alike(arms) == ["v, x0: the same weight over log SNR, on different formulations."]


def test_importance_correction_is_uniform_again(explained: Any) -> None:
    arms = {
        "uniform": explained(),
        "corrected": explained(time_sampler={"name": "u_shaped", "importance_correct": True}),
    }
    assert alike(arms)[0].startswith("uniform, corrected: the same expected objective")


def test_another_loss_is_another_objective(explained: Any) -> None:
    assert alike({"mse": explained(), "huber": explained(loss="pseudo_huber")})[0].startswith(
        "mse, huber: the same weight"
    )


def test_a_loss_that_is_not_squared_is_another_in_another_space(explained: Any) -> None:
    """On the straight path, the data error is t times the velocity error, so their squares differ by t^2."""
    for loss, words in (("mse", "same expected objective"), ("pseudo_huber", "same weight over log SNR")):
        arms = {
            "data": explained(loss=loss, objective__space="data"),
            "velocity": explained(loss=loss, weighting={"name": "noise_end", "power": 2}),
        }
        (said,) = alike(arms)
        assert said.startswith(f"data, velocity: the {words}"), loss


def test_a_round_is_explained_by_its_pairs_and_a_distilled_run_by_one_time(explained: Any) -> None:
    """One Euler step uses only t = 1: the page has no times and weights, and no level has a weight."""
    small = {"reflow__rounds": 1, "reflow__number": 5000, "reflow__nfe": 8, "evaluate__nfe": [1]}
    rounded = explained(**small)
    distilled = explained(**small, reflow__distil=True)
    for made, teacher in ((rounded, 1), (distilled, 2)):
        lines = {part: formula for part, formula, _ in made.lines()}
        assert lines["pairs"] == f"5,000 of the {teacher}-rectified flow, by heun at NFE 8"
        assert not any(part.startswith("coupling") for part in lines)
        assert any(part.startswith("time_sampler") for part in lines) == (made is rounded)
    assert lines["x_t"] == "sigma x1, at t = 1 only"
    assert lines["objective"] == "E [loss(e)], e the error of the network's output"
    assert rounded.effective_weight().isfinite().any()
    assert distilled.effective_weight().isnan().all()
    assert (rounded.effective_share(), distilled.effective_share()) == (1, 1)
    assert explained(**small, reflow__distil=True, weighting="data_end").effective_share() == 1


def test_arms_that_differ_elsewhere_get_no_note(explained: Any) -> None:
    assert alike({"a": explained(), "b": explained(train__learning_rate=1e-4)}) == []


def test_the_command_writes_formulas_with_numbers_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curve.png"
    assert main(["explain", "--set", "weighting.name=min_snr", "--out", str(out)]) == 2  # a name is not a field
    assert main(["explain", "--set", "weighting=min_snr", "--set", "weighting.gamma=7", "--out", str(out)]) == 0
    assert "min(SNR(t), 7)" in capsys.readouterr().out
    assert Image.open(out).size[0] > 500


def test_the_command_compares_the_arms_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "time_sampler", "--out", str(tmp_path / "curve.png")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "stratified, uniform, low_discrepancy: the same expected objective" in said
    assert "logit_normal, logit_normal_weight: the same expected objective" in said
    assert re.search("│ uniform +│ 100 % +│", said)


def test_the_command_tells_which_share_of_a_batch_counts_in_each_arm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the weighting study, whose errors are of the velocity on the straight path."""
    assert main(["explain", "weighting", "--out", str(tmp_path / "curve.png")]) == 0
    found = dict(re.findall(r"│ (\w+) +│ ([\d.]+) % +│", capsys.readouterr().out))
    expected = {"uniform": "100", "min_snr": "56", "clipped_snr": "49", "data_end": "56", "noise_end": "56"}
    assert found == expected | {"inverse_snr": "0.3"}


def test_a_picture_with_a_wrong_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--out", "curve.pdf"]) == 2
    assert "must end in .png" in capsys.readouterr().err


def test_list_for_machines_holds_every_component(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {family: [m["name"] for m in members] for family, members in listed.items()} == {f: names(f) for f in HOMES}
    assert all(member["about"] for members in listed.values() for member in members)


def test_list_for_machines_says_what_a_member_computes(capsys: pytest.CaptureFixture[str]) -> None:
    """A formula names the parameters instead of their values; ranges and presets are those that the program takes."""
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    found = {(family, member["name"]): member for family, members in listed.items() for member in members}
    assert found["weighting", "min_snr"]["formula"] == "min(SNR(t), gamma)"
    assert found["metric", "autocorrelation"]["formula"].count("x_{i + lag}") == 1
    assert found["average", "posthoc"]["ranges"] == {"width": "(0, 0.25)"}
    for (family, name), member in found.items():
        for preset, fields in member["presets"].items():
            assert build(family, {"name": name, "preset": preset}) == build(family, {"name": name, **fields})
    assert found["backbone", "dit"]["presets"]["XL/2"] == {"width": 1152, "depth": 28, "heads": 16, "patch": 2}


def test_list_for_people_shows_parameters_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "weighting"]) == 0
    said = capsys.readouterr().out
    assert "gamma = 5.0" in said
    assert "Hang et al." in said
    assert "on the data error" in " ".join(re.sub("[│├┼┤─]", " ", said).split())
