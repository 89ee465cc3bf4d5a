"""Metrics on images by torch-fidelity: its extractors, its Frechet distance, fed from memory."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.evaluation.digits_classifier import WEIGHTS, DigitsClassifier
from harness.registry import Component


class Metric(Component, family="metric"):
    """A distance or score of generated samples, computed from their features."""

    lower_is_better: ClassVar[bool]

    def summarise(self, features: Tensor) -> dict[str, np.ndarray]:
        """What must be kept of a set's features, float64 [N, D]."""
        raise NotImplementedError

    def compare(self, samples: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
        """The metric's value from two summaries."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FID(Metric, name="fid"):
    """Frechet inception distance, Heusel et al. 2017: Wasserstein-2 between Gaussians fitted to the features."""

    lower_is_better = True

    def summarise(self, features: Tensor) -> dict[str, np.ndarray]:
        from torch_fidelity.metric_fid import fid_features_to_statistics

        return fid_features_to_statistics(features)

    def compare(self, samples: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        return fid_statistics_to_metric(samples, reference, verbose=False)[KEY_METRIC_FID]


def extract(extractor: nn.Module, batches: Iterable[Tensor], device: str) -> Tensor:
    """Features float64 [N, D] on the CPU of batches of uint8 images [B, 1 or 3, H, W]."""
    with torch.no_grad():
        return torch.cat([extractor(_rgb(batch).to(device))[0].double().cpu() for batch in batches])


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


@functools.cache
def load_extractor(name: str, device: str) -> nn.Module:
    """The extractor `digits` or `inception`, ready to use; `UserError` when its weights are missing or damaged."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
    from torch_fidelity.utils import create_feature_extractor

    options: dict[str, Any] = {"cuda": device == "cuda", "verbose": False}
    if name == "digits":
        if "harness-digits" not in FEATURE_EXTRACTORS_REGISTRY:
            register_feature_extractor("harness-digits", _digits_extractor_class())
        return create_feature_extractor("harness-digits", ["64"], **options)
    path = extractor_weights(name)
    try:
        torch.load(path, weights_only=True)  # torch-fidelity itself would unpickle anything
        return create_feature_extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path), **options)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: not torch-fidelity's Inception weights ({reason}). Fetch them again.") from error


def extractor_weights(name: str) -> Path:
    """The weights file of an extractor; Inception's comes from HARNESS_INCEPTION or is downloaded once."""
    if name == "digits":
        return WEIGHTS
    if given := os.environ.get("HARNESS_INCEPTION"):
        if not Path(given).is_file():
            raise UserError(f"HARNESS_INCEPTION: {given} is no file. Name torch-fidelity's Inception weights, or unset it.")
        return Path(given)
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path))
        except OSError as error:
            raise UserError(f"{URL_INCEPTION_V3}: cannot be downloaded ({error}). Name a copy in HARNESS_INCEPTION.") from error
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
            return ("64",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "64"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (self.classifier.features(images),)

    return DigitsExtractor
