"""Networks whose features are compared: torch-fidelity's Inception and the harness's classifier of digits."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.errors import UserError
from harness.evaluation.digits_classifier import WEIGHTS, DigitsClassifier

INPUT = {"digits": "8x8 as they are", "inception": "299x299 by TensorFlow 1's bilinear resize"}
"""What an extractor makes of its images first."""
DIMENSIONS = {"digits": 64, "inception": 2048}


def features(extractor: nn.Module, images: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """Features [B, D] and logits [B, K], float32 on the device, of uint8 images [B, 1 or 3, H, W]."""
    with torch.no_grad():
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        return extractor(rgb.to(device))


@functools.cache
def has_classifier(name: str) -> bool:
    """Whether an extractor's weights hold the classifier that logits come from; some copies of Inception's have zeros there."""
    if name == "digits":
        return True
    path = extractor_weights(name)
    try:
        return bool(torch.load(path, weights_only=True)["fc.weight"].any())
    except Exception as error:
        raise _unreadable(path, error) from error


@functools.cache
def load_extractor(name: str, device: str) -> nn.Module:
    """The extractor `digits` or `inception`, ready to use; `UserError` when its weights are missing or damaged."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
    from torch_fidelity.utils import create_feature_extractor

    options: dict[str, Any] = {"cuda": device == "cuda", "verbose": False}
    if name == "digits":
        if "harness-digits" not in FEATURE_EXTRACTORS_REGISTRY:
            register_feature_extractor("harness-digits", _digits_extractor_class())
        return create_feature_extractor("harness-digits", ["64", "logits"], **options)
    path = extractor_weights(name)
    try:
        torch.load(path, weights_only=True)  # torch-fidelity itself would unpickle anything
        return create_feature_extractor(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path), **options
        )
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0]
    return UserError(f"{path}: not torch-fidelity's Inception weights ({reason}). Fetch them again.")


def extractor_weights(name: str) -> Path:
    """The weights file of an extractor; Inception's comes from HARNESS_INCEPTION or is downloaded once."""
    if name == "digits":
        return WEIGHTS
    if given := os.environ.get("HARNESS_INCEPTION"):
        if not Path(given).is_file():
            raise UserError(
                f"HARNESS_INCEPTION: {given} is no file. Name torch-fidelity's Inception weights, or unset it."
            )
        return Path(given)
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path))
        except OSError as error:
            raise UserError(
                f"{URL_INCEPTION_V3}: cannot be downloaded ({error}). Name a copy in HARNESS_INCEPTION."
            ) from error
    return path


@functools.cache
def weights_hash(name: str) -> str:
    """12 hex digits over an extractor's weights file."""
    return hashlib.sha256(extractor_weights(name).read_bytes()).hexdigest()[:12]


def _digits_extractor_class() -> type[nn.Module]:
    from safetensors.torch import load_file
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class DigitsExtractor(FeatureExtractorBase):
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

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            found = self.classifier.features(images)
            given = {"64": found, "logits": self.classifier.logits(found)}
            return tuple(given[name] for name in self.features_list)

    return DigitsExtractor
