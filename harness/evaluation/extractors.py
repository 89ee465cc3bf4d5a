"""Networks that extract image features for the metrics: Inception, the harness's digits classifier, a user's own."""

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
from harness.evaluation.decoder import check_decoder, decoder_given
from harness.evaluation.digits_classifier import WEIGHTS, DigitsClassifier

VALUES = "values"
"""Value of `evaluate.extractor` for which the metrics compare the decoded samples themselves."""
JUDGE_VALUES = "Set evaluate.extractor=values, and metrics of values: 'evaluate.metrics=[\"sliced_wasserstein\"]'."
"""Advice for data that an extractor cannot read."""
Features = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Maps uint8 images [B, 3, H, W] to float32 features [B, D] and logits [B, K]; None for logits without a classifier."""


class Extractor(Component, family="extractor"):
    """Network that extracts image features for the metrics; a name chooses it, as in `evaluate.extractor=digits`.

    Its settings are constants of its class: another setting needs another name. A protocol holds the name, the hash of
    the weights and, for a user's extractor, the hash of the file that defines it.
    """

    dimensions: ClassVar[int]
    """D, the number of features."""
    resize: ClassVar[str] = "as they are"
    """How it resizes images first, in words; a protocol holds this text."""
    without_logits: ClassVar[str] = "has no classifier"
    """End of the error message for an extractor that gives no logits; it follows the extractor's name."""

    def check(self, data: Data) -> None:
        """Raise `ConfigError` for data that it cannot read; it reads latents after their decoder."""
        if data.kind == "latents" and decoder_given():
            return check_decoder(data)
        if data.kind != "image":
            decoder = "Set HARNESS_VAE to the folder of their autoencoder. Without it: "
            advice = f"{decoder if data.kind == 'latents' else ''}{JUDGE_VALUES}"
            raise ConfigError("", f"{self.name} reads images, and these data are {data.kind}. {advice}")

    def gives_logits(self) -> bool:
        """Whether it gives a classifier's logits beside the features."""
        return False

    def here(self) -> bool:
        """Whether its weights can be read without a download."""
        return True

    def weights(self) -> Path | None:
        """Return the path of the weights file, after a download if needed; None if it has no file.

        `UserError` if the file is missing.
        """
        return None

    @abstractmethod
    def load(self, device: str) -> Features:
        """Return the network on a device, in eval mode; `UserError` if its weights are damaged."""


@dataclass(frozen=True, kw_only=True)
class DigitsExtractor(Extractor, name="digits"):
    """The harness's own small classifier of 8x8 digits."""

    dimensions = 64
    resize = "8x8 as they are"

    def check(self, data: Data) -> None:
        super().check(data)
        if data.kind != "image":
            raise ConfigError("", f"the digits classifier reads 8x8 images, not decoded latents. {JUDGE_VALUES}")
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
    without_logits = "has a weights file without a classifier (its layer is all zero)"

    def gives_logits(self) -> bool:
        """Whether the weights file holds a classifier; in some copies that layer is all zero."""
        return _holds_classifier(self.weights())

    def weights(self) -> Path:
        """Return the path in HARNESS_INCEPTION, or the file in torch's hub folder, downloaded once."""
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        path = self.place()
        if os.environ.get("HARNESS_INCEPTION") and not path.is_file():
            advice = "Set it to the file of torch-fidelity's Inception weights, or unset it."
            raise UserError(f"HARNESS_INCEPTION: {path} is not a file. {advice}")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path))
            except OSError as error:
                advice = f"Set HARNESS_INCEPTION to the path of a copy. Without it: {JUDGE_VALUES}"
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
    """Return the extractor with this name; None for `values`."""
    return None if name == VALUES else build("extractor", name)


def weights_here(name: str) -> bool:
    """Whether what is judged by an extractor, or by values, can be judged without a download."""
    extractor = extractor_of(name)
    return extractor is None or extractor.here()


@functools.cache
def load_extractor(name: str, device: str) -> Features:
    """Load an extractor's network on a device, once per process."""
    extractor: Extractor = build("extractor", name)
    return extractor.load(device)


@functools.cache
def weights_hash(name: str) -> str:
    """Return the hash (12 hex digits) of an extractor's weights file, read once per process; "" if it has no file.

    `UserError` if the file cannot be read.
    """
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
    """Return features [B, D] and logits [B, K] or None, on the device, of uint8 images [B, 1 or 3, H, W]."""
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
    """Create a network of torch-fidelity's registry that returns these layers."""
    from torch_fidelity.utils import create_feature_extractor

    return create_feature_extractor(name, layers, cuda=device == "cuda", verbose=False, **options)


def _digits_extractor_class() -> type[nn.Module]:
    from safetensors.torch import load_file
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class DigitsFeatures(FeatureExtractorBase):
        """`DigitsClassifier` with the interface that torch-fidelity expects."""

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
