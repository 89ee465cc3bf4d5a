import dataclasses
import itertools
from collections.abc import Iterable

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
from harness.evaluation.extractors import features, load_extractor
from harness.evaluation.fidelity import FID
from harness.evaluation.judge import Batch, Judge
from harness.evaluation.protocol import EvaluateConfig
from harness.files import results_folder

CONFIG = EvaluateConfig(num_samples=300, batch_size=100, extractor="digits")


def frechet(a: Tensor, b: Tensor) -> float:
    return FID().compare(FID().summarise(a, None), FID().summarise(b, None))


def gaussian(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def data() -> Data:
    return load(Digits())


def batches(images: Tensor, size: int = 100) -> list[Batch]:
    return [Batch(part) for part in images.split(size)]


def joined(drawn: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """The samples and classes of all batches."""
    samples, classes, *_ = zip(*drawn, strict=True)
    return torch.cat(samples), torch.cat(classes)


def held_out(data: Data) -> list[Batch]:
    return batches(data.held_out[:300])


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
    ours = Judge(CONFIG, data, "cpu")(batches(noisy, 70))
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
    unseen = judge.held_out()
    assert unseen is not None
    scores = [judge(drawn)["fid"] for drawn in (judge.resampled(), unseen, judge.gaussian())]
    assert 0 < scores[0] < scores[1] < scores[2] / 20


@pytest.mark.parametrize("number", [1438, 250])
def test_resampling_draws_with_replacement(data: Data, number: int) -> None:
    judge = Judge(override(CONFIG, {"num_samples": number, "num_reference": 1438}), data, "cpu")
    drawn, classes = joined(judge.resampled())
    assert len(drawn) == number
    assert all(map(torch.equal, joined(judge.resampled()), (drawn, classes)))
    assert data.classes is not None
    among = {image.numpy().tobytes(): label for image, label in zip(data.train, data.classes, strict=True)}
    assert [among[image.numpy().tobytes()] for image in drawn] == classes.tolist()
    distinct = {image.numpy().tobytes() for image in drawn}
    expected = len(among) * (1 - (1 - 1 / len(among)) ** number)
    assert len(distinct) == pytest.approx(expected, abs=40)
    assert len(distinct) < number


def test_gaussian_noise_is_as_many_images_as_the_samples(data: Data) -> None:
    drawn, classes = joined(Judge(override(CONFIG, {"num_samples": 130}), data, "cpu").gaussian())
    assert (drawn.shape, drawn.dtype) == ((130, 1, 8, 8), torch.uint8)
    assert set(classes.tolist()) == set(range(10))


def test_every_metric_is_what_it_is_of_the_extractors_features(data: Data) -> None:
    """Of the samples and of the whole reference, by hand."""
    config = override(CONFIG, {"metrics": ["fid", "precision", "recall", {"name": "kid", "subset_size": 50, "subsets": 5}]})
    scores = Judge(config, data, "cpu")(held_out(data))
    extractor = load_extractor("digits", "cpu")
    samples, reference = (features(extractor, images, "cpu")[0].double() for images in (data.held_out[:300], data.train))
    for metric in config.metrics:
        own = metric.compare(metric.summarise(samples, None), metric.summarise(reference, None))
        assert scores.pop(metric.name) == pytest.approx(own, rel=1e-4, abs=1e-9)
    assert scores == {}


def test_label_accuracy_reads_the_classes_that_were_asked_for(data: Data) -> None:
    images, labels = digits()
    judge = Judge(override(CONFIG, {"metrics": ["label_accuracy"]}), data, "cpu")
    right, wrong = (
        judge([Batch(part, of) for part, of in zip(images[4::5].split(100), asked[4::5].split(100), strict=True)])["label_accuracy"]
        for asked in (labels, (labels + 1) % 10)
    )
    assert right > 0.97
    assert wrong < 0.03


def test_features_that_are_not_finite_are_no_score(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(CONFIG, data, "cpu")
    monkeypatch.setattr(FID, "compare", lambda *_: float("nan"))
    with pytest.raises(Diverged, match="cannot be judged"):
        judge(held_out(data))
