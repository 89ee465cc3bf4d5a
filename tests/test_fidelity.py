import dataclasses
import itertools
import math
import pickle
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.utils.data import Dataset
from typed import tensor

from harness.core.config import override
from harness.core.errors import ConfigError, Diverged, UserError
from harness.core.files import npz, results_folder
from harness.core.registry import build
from harness.data.base import Data, load
from harness.data.base import held_out as held_out_of
from harness.data.images import Digits, digits
from harness.evaluation import digits_classifier, extractors
from harness.evaluation.digits_classifier import WEIGHTS, DigitsClassifier
from harness.evaluation.extractors import features, load_extractor
from harness.evaluation.fidelity import FID, ExtrapolatedFID, HeldOutFID, LowestFID
from harness.evaluation.judge import Judge, SampleBatch
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.evaluation.yardsticks import judge_references

CONFIG = EvaluateConfig(num_samples=300, batch_size=100, extractor="digits")


def frechet(a: Tensor, b: Tensor) -> float:
    return FID().compare(FID().summarise(a, None), FID().summarise(b, None))


def gaussian(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def data() -> Data:
    return load(Digits())


def batches(images: Tensor, size: int = 100) -> list[SampleBatch]:
    return [SampleBatch(part) for part in images.split(size)]


def joined(drawn: Iterable[SampleBatch]) -> tuple[Tensor, Tensor]:
    """Return the samples and classes of all batches."""
    samples, classes, *_ = zip(*drawn, strict=True)
    return torch.cat(samples), torch.cat(classes)


def held_out(data: Data) -> list[SampleBatch]:
    return batches(tensor(data.held_out)[:300])


def test_a_set_against_itself_is_zero() -> None:
    features = gaussian(500, 8, 0)
    assert abs(frechet(features, features)) < 1e-6


def test_an_isotropic_scale_and_a_shift_give_the_closed_form() -> None:
    features = gaussian(500, 8, 0)
    shift = torch.arange(8.0).double()
    variance = features.var(0).sum().item()
    assert frechet(features, features + shift) == pytest.approx(140)  # 0 + 1 + 4 + ... + 49
    assert frechet(features, 3 * (features - features.mean(0)) + features.mean(0)) == pytest.approx(4 * variance)


def test_any_two_gaussians_give_the_closed_form() -> None:
    mixing = gaussian(8, 8, 1)
    a = gaussian(500, 8, 0) @ mixing
    b = gaussian(700, 8, 2) * torch.linspace(0.5, 3, 8) + 1
    mean_a = a.mean(0).numpy()
    mean_b = b.mean(0).numpy()
    cov_a = np.cov(a.numpy().T)
    cov_b = np.cov(b.numpy().T)
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)


def test_the_bias_falls_as_one_over_n() -> None:
    metric = FID()
    reference = metric.summarise(gaussian(100_000, 8, 0), None)

    def bias(n: int) -> float:
        return float(
            np.mean([metric.compare(metric.summarise(gaussian(n, 8, seed), None), reference) for seed in range(1, 40)])
        )

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
    noisy = (tensor(data.held_out)[:300].float() + 40 * torch.rand(300, 1, 8, 8)).clamp(0, 255).to(torch.uint8)
    theirs = calculate_metrics(
        input1=Images(noisy), input2=Images(tensor(data.train)), fid=True, feature_extractor="harness-digits",
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
    unseen = held_out_of(len(images), 5, labels)
    with torch.no_grad():
        right = classifier(images[unseen]).argmax(1) == labels[unseen]
    assert right.double().mean() >= 0.98


@pytest.mark.slow
def test_the_classifier_is_made_again_by_its_own_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With fewer steps, so it reads most digits, not all."""
    from safetensors.torch import load_file

    path = tmp_path / "classifier.safetensors"
    digits_classifier.make(path, steps=100)
    classifier = DigitsClassifier()
    classifier.load_state_dict(load_file(path))
    data = load(Digits())
    right = classifier(tensor(data.held_out)).argmax(1) == data.held_out_classes
    accuracy = right.double().mean().item()
    assert accuracy > 0.8
    said = f"held-out accuracy {accuracy:.4f}; wrote {path}, {path.stat().st_size} bytes\n"
    assert capsys.readouterr().out == said


def test_changed_data_under_one_name_change_the_reference(data: Data) -> None:
    changed = dataclasses.replace(data, train=255 - tensor(data.train))
    one = Judge(CONFIG, data, "cpu")
    other = Judge(CONFIG, changed, "cpu")
    assert one.protocol.digest != other.protocol.digest
    assert not np.allclose(one.reference["fid"]["mu"], other.reference["fid"]["mu"])
    assert one(held_out(data))["fid"] < other(held_out(data))["fid"] / 10


def test_the_reference_is_kept_and_a_damaged_one_is_made_again(data: Data) -> None:
    passes: list[int] = []

    def watch(batches, title, total):  # type: ignore[no-untyped-def]
        passes.append(total)
        yield from batches

    first = Judge(CONFIG, data, "cpu", watch)
    kept = Judge(CONFIG, data, "cpu", watch)
    assert passes == [15]  # 1,438 images in batches of a hundred
    path = next((results_folder() / "local" / "references").rglob("fid.npz"))
    path.write_bytes(path.read_bytes()[:1000])
    mended = Judge(CONFIG, data, "cpu", watch)
    assert passes == [15, 15]
    for again in (kept, mended, Judge(CONFIG, data, "cpu", watch)):
        for key, value in first.reference["fid"].items():
            np.testing.assert_array_equal(again.reference["fid"][key], value)
    assert passes == [15, 15]


def test_the_held_out_fid_compares_with_all_held_out_samples(data: Data) -> None:
    """By torch-fidelity's Frechet distance of the features, for any number of kept training samples."""
    judge = Judge(override(CONFIG, {"metrics": [FID(), HeldOutFID()]}), data, "cpu")
    unseen = tensor(data.held_out)
    copies = list(judge.resampled())
    read = [features(load_extractor("digits", "cpu"), images, "cpu")[0] for images in (joined(copies)[0], unseen)]
    scores = judge(copies)
    assert scores["held_out_fid"] == pytest.approx(frechet(*read), rel=1e-6)
    assert scores["fid"] < scores["held_out_fid"]
    assert judge(batches(unseen))["held_out_fid"] == pytest.approx(0, abs=1e-3)
    again = Judge(judge.config, data, "cpu")
    assert again(copies) == scores


def test_held_out_samples_are_kept_once_per_data_set(data: Data, tmp_path: Path) -> None:
    (tmp_path / "statistics.npz").write_bytes(npz(Judge(CONFIG, data, "cpu").reference["fid"]))
    config = override(CONFIG, {"reference": str(tmp_path / "statistics.npz"), "metrics": [FID(), HeldOutFID()]})
    assert data.held_out_classes is not None
    fewer = dataclasses.replace(
        data, held_out=tensor(data.held_out)[:200], held_out_classes=data.held_out_classes[:200]
    )
    samples = batches(tensor(data.train)[:300])
    first, other, again = (Judge(config, each, "cpu")(samples) for each in (data, fewer, data))
    assert first == again
    assert first["fid"] == other["fid"]
    assert first["held_out_fid"] != pytest.approx(other["held_out_fid"], rel=1e-2)


def test_the_score_of_noise_is_kept_by_how_it_is_decoded(data: Data) -> None:
    """The decoding is not in the protocol: the samples are scored as they are stored."""
    judges = [Judge(CONFIG, each, "cpu") for each in (data, load(Digits(encoded=(0.0, 1.0))), data)]
    assert len({judge.protocol.digest for judge in judges}) == 1
    first, other, again = (judge_references(judge) for judge in judges)
    assert first == again
    assert first["resampled"] == other["resampled"]
    assert first["gaussian"]["fid"] != pytest.approx(other["gaussian"]["fid"], rel=1e-2)


def test_a_held_out_fid_without_enough_held_out_samples_is_refused(data: Data) -> None:
    assert data.held_out_classes is not None
    few = dataclasses.replace(data, held_out=tensor(data.held_out)[:1], held_out_classes=data.held_out_classes[:1])
    with pytest.raises(ConfigError, match=r"held_out_fid has no value for 1 held-out samples\. Take 2 or more"):
        Judge(override(CONFIG, {"metrics": [HeldOutFID()]}), few, "cpu")


def test_a_kept_reference_of_another_content_is_made_again_with_a_note(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files are intact, but their arrays are not those of this reference."""
    config = override(CONFIG, {"num_reference": 100})
    first = Judge(config, data, "cpu").reference["fid"]
    path = next((results_folder() / "local" / "references").rglob("fid.npz"))
    for other in ({**first, "mu": first["mu"][:3]}, {**first, "sigma": first["sigma"] * np.nan}):
        path.write_bytes(npz(other))
        again = Judge(config, data, "cpu").reference["fid"]
        np.testing.assert_array_equal(again["sigma"], first["sigma"])
        np.testing.assert_array_equal(again["mu"], first["mu"])
    said = capsys.readouterr().err
    assert f"{path}: is damaged (it holds no mu [64] of finite numbers) and is computed again." in said
    assert f"{path}: is damaged (it holds no sigma [64, 64] of finite numbers) and is computed again." in said


def test_real_samples_score_far_below_noise(data: Data) -> None:
    judge = Judge(CONFIG, data, "cpu")
    unseen = judge.held_out()
    assert unseen is not None
    memory, real, noise = (judge(drawn)["fid"] for drawn in (judge.resampled(), unseen, judge.gaussian()))
    assert 0 < memory < noise / 20
    assert memory / 2 < real < 2 * memory, "of as many, held-out samples are as near as training samples"


@pytest.mark.parametrize("number", [1438, 250])
def test_resampling_draws_with_replacement(data: Data, number: int) -> None:
    judge = Judge(override(CONFIG, {"num_samples": number, "num_reference": 1438}), data, "cpu")
    drawn, classes = joined(judge.resampled())
    assert len(drawn) == number
    assert all(map(torch.equal, joined(judge.resampled()), (drawn, classes)))
    assert data.classes is not None
    among = {
        image.numpy().tobytes(): label for image, label in zip(tensor(data.train), tensor(data.classes), strict=True)
    }
    assert [among[image.numpy().tobytes()] for image in drawn] == classes.tolist()
    distinct = {image.numpy().tobytes() for image in drawn}
    expected = len(among) * (1 - (1 - 1 / len(among)) ** number)
    assert len(distinct) == pytest.approx(expected, abs=40)
    assert len(distinct) < number


def test_gaussian_noise_is_as_many_images_as_the_samples(data: Data) -> None:
    drawn, classes = joined(Judge(override(CONFIG, {"num_samples": 130}), data, "cpu").gaussian())
    assert (drawn.shape, drawn.dtype) == ((130, 1, 8, 8), torch.uint8)
    assert set(classes.tolist()) == set(range(10))


def test_every_metric_uses_the_extractors_features(data: Data) -> None:
    """Compared with a computation by hand on the samples and the whole reference."""
    config = override(
        CONFIG, {"metrics": ["fid", "precision", "recall", {"name": "kid", "subset_size": 50, "subsets": 5}]}
    )
    scores = Judge(config, data, "cpu")(held_out(data))
    extractor = load_extractor("digits", "cpu")
    samples, reference = (
        features(extractor, images, "cpu")[0].double() for images in (tensor(data.held_out)[:300], tensor(data.train))
    )
    for metric in config.sample_metrics:
        own = metric.compare(metric.summarise(samples, None), metric.summarise(reference, None))
        assert scores.pop(metric.name) == pytest.approx(own, rel=1e-4, abs=1e-9)
    assert scores == {}


def test_label_accuracy_reads_the_classes_that_were_asked_for(data: Data) -> None:
    images, labels = digits()
    judge = Judge(override(CONFIG, {"metrics": ["label_accuracy"]}), data, "cpu")
    right, wrong = (
        judge(
            [SampleBatch(part, of) for part, of in zip(images[4::5].split(100), asked[4::5].split(100), strict=True)]
        )["label_accuracy"]
        for asked in (labels, (labels + 1) % 10)
    )
    assert right > 0.97
    assert wrong < 0.03


def test_features_that_are_not_finite_have_no_score(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(CONFIG, data, "cpu")
    monkeypatch.setattr(FID, "compare", lambda *_: float("nan"))
    with pytest.raises(Diverged, match="cannot be judged"):
        judge(held_out(data))


def spread_out(n: int, seed: int) -> tuple[Tensor, float]:
    """Return samples of N(m, S) in 16 dimensions, and the FID of infinitely many to N(0, I)."""
    mixing = gaussian(16, 16, 100) / 4
    mean = gaussian(1, 16, 101)[0] / 10
    cov = (mixing.T @ mixing).numpy()
    truth = mean.square().sum().item() + np.trace(cov) + 16 - 2 * np.sqrt(np.linalg.eigvalsh(cov)).sum()
    return gaussian(n, 16, seed) @ mixing + mean, float(truth)


def test_the_lowest_fid_is_that_of_the_luckiest_set() -> None:
    features, reference = (gaussian(n, 4, seed=n) for n in (60, 80))
    metric = LowestFID(sets=3)
    found = metric.compare(metric.summarise(features, None), FID().summarise(reference, None))
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(features.numpy()))
    each = [
        FID().compare(FID().summarise(part, None), FID().summarise(reference, None))
        for part in (shuffled[:20], shuffled[20:40], shuffled[40:])
    ]
    assert found == pytest.approx(min(each), rel=1e-5)
    assert min(each) < max(each)


def test_the_lowest_fid_needs_equal_sets() -> None:
    asked = EvaluateConfig.parse({"extractor": "digits", "metrics": ["lowest_fid"], "num_samples": 100})
    with pytest.raises(ConfigError, match=r"metrics\[0\]: 100 samples cannot be divided into 3 equal sets"):
        Protocol.of(asked, load(Digits()))


STANDARD = {"mu": np.zeros(16), "sigma": np.eye(16)}


def test_the_extrapolated_fid_has_less_than_a_tenth_of_the_bias() -> None:
    """The bias of the plain FID is of order 1 / n; both are averaged over the same draws."""
    plain = FID()
    extrapolated = ExtrapolatedFID()
    found = []
    for seed in range(300):
        features, truth = spread_out(300, seed)
        values = (m.compare(m.summarise(features, None), STANDARD) for m in (plain, extrapolated))
        found.append([value - truth for value in values])
    bias = np.mean(found, axis=0)
    error = np.std(found, axis=0) / math.sqrt(len(found))
    assert bias[0] > 5 * error[0]
    assert abs(bias[1]) < min(3 * error[1], bias[0] / 10)


def test_its_interval_contains_the_truth_as_often_as_declared() -> None:
    metric = ExtrapolatedFID()
    inside = []
    for seed in range(60):
        features, truth = spread_out(400, seed)
        low, high = metric.estimate(metric.summarise(features, None), STANDARD).interval or (0, 0)
        inside.append(low < truth < high)
    assert np.mean(inside) > 0.87  # 3 sd below 95 %


def test_it_is_the_line_through_all_and_through_halves() -> None:
    """Subsets are drawn with NumPy's seed 0."""
    features, _ = spread_out(200, 0)
    features = features[torch.from_numpy(np.random.default_rng(0).permutation(200))]
    plain = FID()
    with pytest.raises(ConfigError, match=r"^blocks: 5 cannot be halved\. Choose an even number\.$"):
        ExtrapolatedFID(blocks=5)
    metric = ExtrapolatedFID()
    whole, first, second = (
        plain.compare(plain.summarise(part, None), STANDARD) for part in (features, features[:100], features[100:])
    )
    features, _ = spread_out(200, 0)
    assert metric.compare(metric.summarise(features, None), STANDARD) == pytest.approx(2 * whole - (first + second) / 2)


def test_the_inception_score_of_certain_and_even_classes_is_their_number() -> None:
    metric = build("metric", {"name": "isc", "splits": 1})
    certain = {"features": 30.0 * np.eye(10)[np.arange(500) % 10]}
    assert metric.compare(certain, {}) == pytest.approx(10)
    assert metric.compare({"features": np.zeros((500, 10))}, {}) == pytest.approx(1)
    assert metric.compare({"features": 30.0 * np.eye(10)[np.zeros(500, dtype=int)]}, {}) == pytest.approx(1)


def test_the_inception_score_uses_the_classifiers_logits(data: Data) -> None:
    """On held-out digits, by torch-fidelity's function."""
    from torch_fidelity import calculate_metrics

    load_extractor("digits", "cpu")
    images = tensor(data.held_out)[:300]
    theirs = calculate_metrics(
        input1=Images(images), isc=True, feature_extractor="harness-digits", feature_layer_isc="logits", isc_splits=3,
        samples_shuffle=True, cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    ours = Judge(override(CONFIG, {"metrics": [{"name": "isc", "splits": 3}]}), data, "cpu")(batches(images))
    assert ours["isc"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert 3 < ours["isc"] < 10


def test_weights_without_a_classifier_give_no_inception_score(
    data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Copies of Inception's weights often have zeros in place of the classifier."""
    path = tmp_path / "weights.pth"
    monkeypatch.setenv("HARNESS_INCEPTION", str(path))
    for value in (0.0, 0.1):
        extractors._holds_classifier.cache_clear()
        extractors.weights_hash.cache_clear()
        torch.save({"fc.weight": torch.full((1008, 2048), value)}, path)
        config = override(CONFIG, {"extractor": "inception", "metrics": ["isc"]})
        with pytest.raises(ConfigError, match="weights file without a classifier") if not value else nullcontext():
            Protocol.of(config, data)
    extractors._holds_classifier.cache_clear()
    extractors.weights_hash.cache_clear()


def test_wrong_files_of_weights_end_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    monkeypatch.setenv("HARNESS_INCEPTION", str(path))
    inception = extractors.InceptionExtractor()
    with pytest.raises(UserError, match=rf"^HARNESS_INCEPTION: {path} is not a file\. Set it to "):
        inception.weights()
    torch.save({"fc.bias": torch.ones(1)}, path)
    for content, look in itertools.product(
        (b"PK\3\4", path.read_bytes()), (inception.gives_logits, lambda: inception.load("cpu"))
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^{path}: not torch-fidelity's Inception weights \(.*\)\. ") as caught:
            look()
        assert "\n" not in str(caught.value)


def test_weights_are_downloaded_once_and_a_failure_says_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HARNESS_INCEPTION", raising=False)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    asked: list[str] = []

    def download(url: str, path: str) -> None:
        asked.append(url)
        if len(asked) == 1:
            raise URLError("no route to host")
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    inception = extractors.InceptionExtractor()
    with pytest.raises(UserError, match=r"^https://.*: cannot be downloaded \(.*no route to host.*Set HARNESS_INC"):
        inception.weights()
    assert inception.weights() == inception.weights()
    assert inception.weights().read_bytes() == b"weights"
    assert len(asked) == 2


def test_published_statistics_replace_the_reference(data: Data, tmp_path: Path) -> None:
    reference: dict[str, Any] = {**Judge(CONFIG, data, "cpu").reference["fid"]}
    path = tmp_path / "statistics.npz"
    np.savez(path, **reference)
    judge = Judge(override(CONFIG, {"reference": str(path)}), data, "cpu")
    assert judge(held_out(data)) == pytest.approx(Judge(CONFIG, data, "cpu")(held_out(data)))
    np.savez(path, mu=reference["mu"] + 1, sigma=reference["sigma"])
    other = Judge(override(CONFIG, {"reference": str(path)}), data, "cpu")
    assert other.protocol.digest != judge.protocol.digest
    assert other(held_out(data))["fid"] == pytest.approx(judge(held_out(data))["fid"] + 64, rel=0.5)


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (
            {"mu": np.zeros(2048), "sigma": np.eye(2048)},
            {},
            r"mu \[2048\] and sigma \[2048, 2048\], and the extractor gives 64",
        ),
        ({"mean": np.zeros(64)}, {}, "holds 'mean' and not mu and sigma"),
        (None, {}, "cannot be read"),
        ({}, {"metrics": ["kid"]}, "kid needs the reference.s samples, and evaluate.reference is a file of statistics"),
        ({}, {"extractor": "values"}, "its statistics are of an extractor's features"),
        ({}, {"num_reference": 100}, "the reference is the file in"),
    ],
    ids=["of another size", "something else", "missing", "needs samples", "no extractor", "number"],
)
def test_statistics_that_do_not_fit_are_refused(
    data: Data, tmp_path: Path, content: dict[str, np.ndarray] | None, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "statistics.npz"
    if content is not None:
        np.savez(path, **content)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        Judge(override(CONFIG, {"reference": str(path), **changes}), data, "cpu")


def orders(features: Tensor) -> dict[str, Tensor]:
    """Return the same rows in orders that an analysis might leave."""
    return {
        "by length": features[features.norm(dim=1).argsort()],
        "by a feature, falling": features[features[:, 0].argsort(descending=True)],
        "by cluster": features[(features[:, :2] > 0).long().mul(torch.tensor([1, 2])).sum(1).argsort(stable=True)],
    }


def test_samples_in_order_have_the_extrapolated_fid_of_all() -> None:
    """The truth lies in the interval; halves that differ from each other would be tens below it."""
    metric = ExtrapolatedFID()
    features, truth = spread_out(2000, 0)
    for name, rows in orders(features).items():
        found = metric.estimate(metric.summarise(rows, None), STANDARD)
        low, high = found.interval or (0, 0)
        assert low < truth < high, name
        assert high - low < truth, name


def test_digits_by_class_score_as_digits_in_any_order(data: Data) -> None:
    """The training digits against themselves: 0 except for the noise of the halves; sorted by class it was -55."""
    assert data.classes is not None
    found = features(load_extractor("digits", "cpu"), data.train[data.classes.argsort(stable=True)], "cpu")[0].double()
    metric = ExtrapolatedFID()
    value, interval = metric.estimate(metric.summarise(found, None), FID().summarise(found, None))
    assert abs(value) < 1
    assert interval
    assert interval[1] - interval[0] < 2


SIGMA = np.cov(gaussian(300, 64, 0).numpy().T)
"""Covariance of 64 features, as many as the digits classifier gives."""
GOOD: dict[str, Any] = {"mu": np.ones(64), "sigma": SIGMA}


def with_eigenvalue(lowest: float) -> np.ndarray:
    """Return SIGMA with another smallest eigenvalue."""
    values, vectors = np.linalg.eigh(SIGMA)
    values[0] = lowest
    made = vectors @ np.diag(values) @ vectors.T
    return (made + made.T) / 2


def with_entry(array: np.ndarray, index: tuple[int, ...], value: Any) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


NO_STATISTICS: dict[str, tuple[dict[str, Any], str]] = {
    "an eigenvalue below 0": ({"sigma": with_eigenvalue(-0.01)}, "not a covariance .* negative eigenvalue -0.01"),
    "a variance below 0": ({"sigma": with_entry(SIGMA, (3, 3), -1.0)}, "not a covariance"),
    "all below 0": ({"sigma": -SIGMA}, "not a covariance"),
    "one triangle": ({"sigma": np.tril(SIGMA)}, "sigma that is not symmetric"),
    "a changed entry": ({"sigma": with_entry(SIGMA, (5, 7), 0.5)}, "not symmetric"),
    "complex": ({"sigma": SIGMA.astype(complex)}, "holds sigma as complex128"),
    "a complex mean": ({"mu": np.ones(64, dtype=complex)}, "holds mu as complex128"),
    "whole numbers": ({"sigma": SIGMA.astype(int)}, "holds sigma as int64"),
    "words": ({"mu": np.array(["1"] * 64)}, "holds mu as <U1"),
    "NaN": ({"sigma": with_entry(SIGMA, (0, 1), math.nan)}, "1 values of sigma that are NaN or infinite"),
    "infinite": ({"mu": with_entry(np.ones(64), (2,), math.inf)}, "1 values of mu that are NaN or infinite"),
    "a row": ({"mu": np.ones((1, 64))}, r"holds mu \[1, 64\] and sigma \[64, 64\], and the extractor gives 64"),
    "a column": ({"mu": np.ones((64, 1))}, r"holds mu \[64, 1\]"),
    "variances alone": ({"sigma": np.diag(SIGMA)}, r"sigma \[64\]"),
    "pickled": ({"mu": np.array([1.0] * 64, dtype=object)}, "not an .npz file of plain numbers"),
}


def protocol_with(data: Data, path: Path) -> Protocol:
    return Protocol.of(override(CONFIG, {"reference": str(path)}), data)


def test_invalid_means_and_covariances_are_refused_before_training(data: Data, tmp_path: Path) -> None:
    """The protocol, which is made before a run begins, refuses it in one line."""
    for name, (change, message) in NO_STATISTICS.items():
        np.savez(tmp_path / "statistics.npz", **(GOOD | change))
        with pytest.raises(ConfigError, match=rf"^evaluate\.reference: .*{message}.*Give an \.npz") as caught:
            protocol_with(data, tmp_path / "statistics.npz")
        assert "\n" not in str(caught.value), name


def test_files_without_arrays_are_refused(data: Data, tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    np.savez_compressed(path, **GOOD)
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 255
    np.save(tmp_path / "mu.npy", GOOD["mu"])
    for content in (
        whole[:1000],
        whole[:-10],
        bytes(changed),
        b"",
        b"mu, sigma\n",
        (tmp_path / "mu.npy").read_bytes(),
        pickle.dumps(GOOD),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"is damaged or is not an \.npz file of plain numbers"):
            protocol_with(data, path)
    with pytest.raises(ConfigError, match="cannot be read"):
        protocol_with(data, tmp_path)


def test_no_pickle_of_a_statistics_file_runs(data: Data, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    np.savez(tmp_path / "statistics.npz", mu=np.array([Trap()] * 64, dtype=object), sigma=SIGMA)
    (tmp_path / "trap.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("statistics.npz", "trap.npz"):
        with pytest.raises(ConfigError):
            protocol_with(data, tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_covariance_with_rounding_errors_is_accepted(data: Data, tmp_path: Path) -> None:
    """This includes covariances of fewer samples than features: rounding makes their zero eigenvalues slightly
    negative.
    """
    few = np.cov(10 * gaussian(20, 64, 1).numpy().T)
    fine: dict[str, dict[str, Any]] = {
        "float32": {"sigma": SIGMA.astype(np.float32), "mu": np.ones(64, dtype=np.float32)},
        "float16": {"sigma": SIGMA.astype(np.float16)},
        "few samples": {"sigma": few},
        "few samples in float32": {"sigma": few.astype(np.float32)},
        "equal samples": {"sigma": np.zeros((64, 64))},
        "other arrays beside": {"names": np.array([None, "a"], dtype=object)},
    }
    for name, change in fine.items():
        np.savez(tmp_path / f"{name}.npz", **(GOOD | change))
        assert protocol_with(data, tmp_path / f"{name}.npz").reference.keys() == {"statistics"}, name
    judge = Judge(override(CONFIG, {"reference": str(tmp_path / "float32.npz")}), data, "cpu")
    assert {array.dtype for array in judge.reference["fid"].values()} == {np.dtype(np.float64)}


def degenerate(seed: int) -> dict[str, Tensor]:
    """Return sets [N, 20] whose covariance does not have full rank."""
    whole = gaussian(50, 20, seed)
    flat = whole.clone()
    flat[:, 5:] = 3
    return {
        "two": whole[:2], "fewer than features": whole[:12], "all the same": whole[:1].repeat(30, 1),
        "constant features": flat,
        "on a line": whole[:, :1] * torch.ones(20, dtype=torch.float64), "each ten times": whole[:4].repeat(10, 1),
        "zeros": 0 * whole,
    }  # fmt: skip


def test_sets_of_low_rank_have_the_closed_form_too() -> None:
    """|m - n|^2 + tr S + tr T - 2 |A B'|_*, where S = A'A and T = B'B, and never less than rounding below 0."""

    def factor(x: Tensor) -> np.ndarray:
        return ((x - x.mean(0)) / math.sqrt(len(x) - 1)).numpy()

    for seed in range(3):
        sets = degenerate(seed) | {"full": gaussian(60, 20, seed + 9)}
        for (name, x), (other, y) in itertools.product(sets.items(), repeat=2):
            a = factor(x)
            b = factor(y)
            nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
            expected = (
                (x.mean(0) - y.mean(0)).square().sum().item() + np.square(a).sum() + np.square(b).sum() - 2 * nuclear
            )
            assert frechet(x, y) == pytest.approx(expected, abs=1e-5), (seed, name, other)
            assert frechet(x, y) > -1e-5, (seed, name, other)
