import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.utils.data import Dataset

from harness.config import override
from harness.data.base import Data, load
from harness.data.images import Digits, digits
from harness.errors import Diverged
from harness.evaluation.digits_classifier import WEIGHTS, DigitsClassifier
from harness.evaluation.fidelity import FID, load_extractor
from harness.evaluation.judge import Judge
from harness.evaluation.protocol import EvaluateConfig
from harness.files import results_folder

CONFIG = EvaluateConfig(num_samples=300, batch_size=100, extractor="digits")


def frechet(a: Tensor, b: Tensor) -> float:
    return FID().compare(FID().summarise(a), FID().summarise(b))


def gaussian(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def data() -> Data:
    return load(Digits())


def held_out(data: Data) -> list[Tensor]:
    return list(data.held_out[:300].split(100))


def test_a_set_against_itself_is_zero() -> None:
    features = gaussian(500, 8, 0)
    assert abs(frechet(features, features)) < 1e-6


def test_an_isotropic_scale_and_a_shift_give_the_closed_form() -> None:
    features, shift = gaussian(500, 8, 0), torch.arange(8.0).double()
    variance = features.var(0).sum().item()
    assert frechet(features, features + shift) == pytest.approx(140)  # 0 + 1 + 4 + ... + 49
    assert frechet(features, 3 * (features - features.mean(0)) + features.mean(0)) == pytest.approx(4 * variance)


def test_any_two_gaussians_give_the_closed_form() -> None:
    mixing = gaussian(8, 8, 1)
    a, b = gaussian(500, 8, 0) @ mixing, gaussian(700, 8, 2) * torch.linspace(0.5, 3, 8) + 1
    mean_a, mean_b, cov_a, cov_b = a.mean(0).numpy(), b.mean(0).numpy(), np.cov(a.numpy().T), np.cov(b.numpy().T)
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)


def test_the_bias_falls_as_one_over_n() -> None:
    reference, repetitions = gaussian(100_000, 8, 0), 40

    def bias(n: int) -> float:
        return float(np.mean([frechet(gaussian(n, 8, seed), reference) for seed in range(1, repetitions)]))

    biases = [bias(n) for n in (100, 200, 400)]
    assert [a / b for a, b in itertools.pairwise(biases)] == pytest.approx([2, 2], rel=0.15)


class Images(Dataset):
    """uint8 [3, 8, 8], as torch-fidelity takes them."""

    def __init__(self, images: Tensor):
        self.images = images.expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_torch_fidelity_agrees_on_the_same_images(data: Data) -> None:
    from torch_fidelity import calculate_metrics

    load_extractor("digits", "cpu")
    noisy = (data.held_out[:300].float() + 40 * torch.rand(300, 1, 8, 8)).clamp(0, 255).to(torch.uint8)
    theirs = calculate_metrics(
        input1=Images(noisy), input2=Images(data.train), fid=True, feature_extractor="harness-digits",
        cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    ours = Judge(CONFIG, data, "cpu")(noisy.split(70))
    assert ours["fid"] > 1
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], abs=1e-3)


def test_the_committed_classifier_reads_digits() -> None:
    from safetensors.torch import load_file

    classifier = DigitsClassifier()
    classifier.load_state_dict(load_file(WEIGHTS))
    images, labels = digits()
    unseen = torch.arange(len(images)) % 5 == 4
    with torch.no_grad():
        right = classifier(images[unseen]).argmax(1) == labels[unseen]
    assert right.double().mean() >= 0.98


def test_changed_data_under_one_name_change_the_reference(data: Data) -> None:
    changed = dataclasses.replace(data, train=255 - data.train)
    one, other = Judge(CONFIG, data, "cpu"), Judge(CONFIG, changed, "cpu")
    assert one.protocol.digest != other.protocol.digest
    assert not np.allclose(one.reference["fid"]["mu"], other.reference["fid"]["mu"])
    assert one(held_out(data))["fid"] < other(held_out(data))["fid"] / 10


def test_the_reference_is_kept_and_a_damaged_one_made_anew(data: Data) -> None:
    passes: list[int] = []

    def watch(batches, total):  # type: ignore[no-untyped-def]
        passes.append(total)
        return batches

    first = Judge(CONFIG, data, "cpu", watch)
    kept = Judge(CONFIG, data, "cpu", watch)
    assert passes == [15]  # 1,438 images by a hundred
    path = next((results_folder() / "local" / "references").rglob("fid.npz"))
    path.write_bytes(path.read_bytes()[:1000])
    mended = Judge(CONFIG, data, "cpu", watch)
    assert passes == [15, 15]
    for again in (kept, mended, Judge(CONFIG, data, "cpu", watch)):
        for key, value in first.reference["fid"].items():
            np.testing.assert_array_equal(again.reference["fid"][key], value)
    assert passes == [15, 15]


def test_the_yardsticks_stand_in_order(data: Data) -> None:
    judge = Judge(CONFIG, data, "cpu")
    assert 0 < judge(judge.resampled())["fid"] < judge(judge.gaussian())["fid"] / 20


@pytest.mark.parametrize("number", [1438, 250])
def test_resampling_draws_with_replacement(data: Data, number: int) -> None:
    judge = Judge(override(CONFIG, {"num_samples": number, "num_reference": 1438}), data, "cpu")
    drawn = torch.cat(list(judge.resampled()))
    assert len(drawn) == number
    assert torch.equal(torch.cat(list(judge.resampled())), drawn)
    among = {image.numpy().tobytes() for image in data.train}
    distinct = {image.numpy().tobytes() for image in drawn}
    assert distinct <= among
    expected = len(among) * (1 - (1 - 1 / len(among)) ** number)
    assert len(distinct) == pytest.approx(expected, abs=40)
    assert len(distinct) < number


def test_gaussian_noise_is_as_many_images_as_the_samples(data: Data) -> None:
    drawn = torch.cat(list(Judge(override(CONFIG, {"num_samples": 130}), data, "cpu").gaussian()))
    assert (drawn.shape, drawn.dtype) == ((130, 1, 8, 8), torch.uint8)


def test_features_that_are_not_finite_are_no_score(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(CONFIG, data, "cpu")
    monkeypatch.setattr(FID, "compare", lambda *_: float("nan"))
    with pytest.raises(Diverged, match="cannot be judged"):
        judge(held_out(data))
