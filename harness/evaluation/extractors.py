"""Networks whose features of images are compared: Inception, the harness's classifier of digits, or a user's own."""

from __future__ import annotations

import functools
import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.core.errors import ConfigError, UserError
from harness.core.files import short_hash
from harness.core.registry import Component, build
from harness.data.base import Data
from harness.evaluation.digits_classifier import WEIGHTS, DigitsClassifier

VALUES = "values"
"""What `evaluate.extractor` says where the decoded samples themselves are compared."""
JUDGE_VALUES = "Set evaluate.extractor=values, and metrics of values: 'evaluate.metrics=[\"sliced_wasserstein\"]'."
"""What to do about data that an extractor cannot read."""
Features = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Takes uint8 images [B, 3, H, W] to features [B, D] and logits [B, K], float32; None where there is no classifier."""


class Extractor(Component, family="extractor"):
    """A network whose features of images are compared. It is chosen by its name alone, `evaluate.extractor=digits`.

    So its settings are constants of its class, and another setting is another name. Protocols hold the name, the hash
    of its weights and, for a user's own, the hash of its file.
    """

    dimensions: ClassVar[int]
    """D, how many features it gives."""
    resize: ClassVar[str] = "as they are"
    """What it makes of its images first, in words: protocols hold it."""
    without_logits: ClassVar[str] = "has no classifier"
    """What is said of one that gives no logits, in words that follow its name."""

    def check(self, data: Data) -> None:
        """`ConfigError` for data that it cannot read."""
        if data.kind != "image":
            raise ConfigError("", f"{self.name} reads images, and these data are {data.kind}. {JUDGE_VALUES}")

    def gives_logits(self) -> bool:
        """Whether it gives a classifier's logits beside the features."""
        return False

    def here(self) -> bool:
        """Whether its weights can be read without a download."""
        return True

    def weights(self) -> Path | None:
        """The file of its weights, downloaded perhaps; None where its source says all. `UserError` if it is missing."""
        return None

    @abstractmethod
    def load(self, device: str) -> Features:
        """The network on a device, ready to use and in evaluation; `UserError` when its weights are damaged."""


@dataclass(frozen=True, kw_only=True)
class DigitsExtractor(Extractor, name="digits"):
    """The harness's own small classifier of 8x8 digits."""

    dimensions = 64
    resize = "8x8 as they are"

    def check(self, data: Data) -> None:
        super().check(data)
        if data.shape[1:] != (8, 8):
            size = "x".join(map(str, data.shape[1:]))
            reason = f"the digits classifier reads 8x8 images, and these are {size}"
            raise ConfigError("", f"{reason}. Set evaluate.extractor=inception. Without its weights: {JUDGE_VALUES}")

    def gives_logits(self) -> bool:
        return True

    def weights(self) -> Path:
        return WEIGHTS

    def load(self, device: str) -> Features:
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

        if "harness-digits" not in FEATURE_EXTRACTORS_REGISTRY:
            register_feature_extractor("harness-digits", _digits_extractor_class())
        return _created("harness-digits", ["64", "logits"], device)


@dataclass(frozen=True, kw_only=True)
class InceptionExtractor(Extractor, name="inception"):
    """Inception v3 as published FIDs use it, by torch-fidelity."""

    source: ClassVar[str] = "Heusel et al. 2017"
    dimensions = 2048
    resize = "299x299 by TensorFlow 1's bilinear resize"
    without_logits = "has weights without the classifier's (all zero)"

    def gives_logits(self) -> bool:
        """Some copies of the weights have zeros in the classifier's place."""
        return _holds_classifier(self.weights())

    def weights(self) -> Path:
        """HARNESS_INCEPTION, or the file that is downloaded once."""
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        path = self.place()
        if os.environ.get("HARNESS_INCEPTION") and not path.is_file():
            advice = "Name torch-fidelity's Inception weights, or unset it."
            raise UserError(f"HARNESS_INCEPTION: {path} is no file. {advice}")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path))
            except OSError as error:
                advice = f"Name a copy in HARNESS_INCEPTION. Without it: {JUDGE_VALUES}"
                raise UserError(f"{URL_INCEPTION_V3}: cannot be downloaded ({error}). {advice}") from error
        return path

    def place(self) -> Path:
        """Where the file lies or will be downloaded to."""
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        downloaded = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
        return Path(os.environ.get("HARNESS_INCEPTION") or downloaded)

    def here(self) -> bool:
        return self.place().is_file()

    def load(self, device: str) -> Features:
        path = self.weights()
        try:
            torch.load(path, weights_only=True)  # torch-fidelity itself would unpickle anything
            layers = ["2048", "logits_unbiased"]
            return _created("inception-v3-compat", layers, device, feature_extractor_weights_path=str(path))
        except Exception as error:
            raise _unreadable(path, error) from error


def extractor_of(name: str) -> Extractor | None:
    """The extractor of a name; None for `values`."""
    return None if name == VALUES else build("extractor", name)


def weights_here(name: str) -> bool:
    """Whether what is judged by an extractor, or by values, can be judged without a download."""
    extractor = extractor_of(name)
    return extractor is None or extractor.here()


@functools.cache
def load_extractor(name: str, device: str) -> Features:
    """An extractor's network on a device, loaded once a process."""
    extractor: Extractor = build("extractor", name)
    return extractor.load(device)


@functools.cache
def weights_hash(name: str) -> str:
    """12 hex digits over an extractor's weights file, read once a process; empty where it has none."""
    extractor: Extractor = build("extractor", name)
    path = extractor.weights()
    if path is None:
        return ""
    try:
        return short_hash(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Put the weights of {name} there.") from error


@torch.no_grad()
def features(network: Features, images: Tensor, device: str) -> tuple[Tensor, Tensor | None]:
    """What an extractor's network gives on the device for uint8 images [B, 1 or 3, H, W]."""
    rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return network(rgb.to(device))


@functools.cache
def _holds_classifier(path: Path) -> bool:
    try:
        return bool(torch.load(path, weights_only=True)["fc.weight"].any())
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0]
    return UserError(f"{path}: not torch-fidelity's Inception weights ({reason}). Fetch them again.")


def _created(name: str, layers: list[str], device: str, **options: str) -> Features:
    """A network in torch-fidelity's registry, which gives these layers."""
    from torch_fidelity.utils import create_feature_extractor

    return create_feature_extractor(name, layers, cuda=device == "cuda", verbose=False, **options)


def _digits_extractor_class() -> type[nn.Module]:
    from safetensors.torch import load_file
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class DigitsFeatures(FeatureExtractorBase):
        """`DigitsClassifier` as torch-fidelity wants it."""

        def __init__(self, name: str, features_list: list[str], **kwargs: Any):
            super().__init__(name, features_list)
            self.classifier = DigitsClassifier()
            self.classifier.load_state_dict(load_file(WEIGHTS))

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "64", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "64"

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            found = self.classifier.features(images)
            given = {"64": found, "logits": self.classifier.logits(found)}
            return tuple(given[name] for name in self.features_list)

    return DigitsFeatures
