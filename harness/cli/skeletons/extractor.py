"""The feature extractor `mine`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.evaluation.extractors import Extractor, Features


@dataclass(frozen=True, kw_only=True)
class Mine(Extractor, name="mine"):
    """The mean brightness of the cells of a coarse grid. To use it, set evaluate.extractor=mine."""

    dimensions = 48
    resize = "4x4 by area"

    def load(self, device: str) -> Features:
        """Return a function from uint8 images [B, 3, H, W] to float32 features [B, dimensions], and logits or None."""

        def features(images: Tensor) -> tuple[Tensor, Tensor | None]:
            cells = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 4)
            return cells.flatten(1), None

        return features
