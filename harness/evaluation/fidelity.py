"""Metrics on images by torch-fidelity: its extractors, its Frechet distance, fed from memory."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from harness.config import Count, Range
from harness.errors import UserError
from harness.evaluation.digits_classifier import WEIGHTS, DigitsClassifier
from harness.evaluation.metric import Metric, Summary


@dataclass(frozen=True, kw_only=True)
class FID(Metric, name="fid"):
    """Frechet inception distance: Wasserstein-2 between Gaussians fitted to the features."""

    source: ClassVar[str] = "Heusel et al. 2017, eq. 6"
    lower_is_better = True
    reads = "features"
    summary = "fid"

    def summarise(self, features: Tensor, classes: Tensor | None) -> dict[str, np.ndarray]:
        from torch_fidelity.metric_fid import fid_features_to_statistics

        return fid_features_to_statistics(features)

    def compare(self, samples: Summary, reference: Summary) -> float:
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        return fid_statistics_to_metric(samples, reference, verbose=False)[KEY_METRIC_FID]


@dataclass(frozen=True, kw_only=True)
class KID(Metric, name="kid"):
    """Kernel inception distance: squared MMD with a cubic kernel, unbiased, so that it can fall below zero."""

    source: ClassVar[str] = "Binkowski et al. 2018, section 4"
    lower_is_better = True
    reads = "features"

    subsets: Count = 100
    """Random subsets that are compared; the mean over them is the value."""
    subset_size: Annotated[int, Range(2)] = 1000
    """Samples of a subset, at most all."""

    def compare(self, samples: Summary, reference: Summary) -> float:
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

        x, y = (torch.from_numpy(part["features"]).double() for part in (samples, reference))
        size = min(self.subset_size, len(x), len(y))
        found = kid_features_to_metric(x, y, kid_subsets=self.subsets, kid_subset_size=size, rng_seed=0, verbose=False)
        return found[KEY_METRIC_KID_MEAN]


@dataclass(frozen=True, kw_only=True)
class Coverage(Metric):
    """One of the two shares that nearest neighbours in feature space give."""

    lower_is_better = False
    reads = "features"
    key: ClassVar[str]

    neighbours: Count = 3
    """A sample's ball reaches to its neighbour of this number."""

    def compare(self, samples: Summary, reference: Summary) -> float:
        from torch_fidelity.metric_prc import prc_features_to_metric

        x, y = (torch.from_numpy(part["features"]) for part in (samples, reference))
        return prc_features_to_metric(x, y, prc_neighborhood=self.neighbours, save_cpu_ram=True, verbose=False)[self.key]


@dataclass(frozen=True, kw_only=True)
class Precision(Coverage, name="precision"):
    """Share of the samples that lie in a ball of a real one: fidelity."""

    source: ClassVar[str] = "Kynkaanniemi et al. 2019, eq. 3"
    key = "precision"


@dataclass(frozen=True, kw_only=True)
class Recall(Coverage, name="recall"):
    """Share of the real ones that lie in a ball of a sample: diversity."""

    source: ClassVar[str] = "Kynkaanniemi et al. 2019, eq. 3"
    key = "recall"


def features(extractor: nn.Module, images: Tensor, device: str) -> Tensor:
    """Features float64 [B, D] on the CPU of uint8 images [B, 1 or 3, H, W]."""
    with torch.no_grad():
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        return extractor(rgb.to(device))[0].double().cpu()


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
