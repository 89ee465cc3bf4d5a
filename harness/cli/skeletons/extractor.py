"""An extractor of features of mine."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.evaluation.extractors import Extractor, Features


@dataclass(frozen=True, kw_only=True)
class Mine(Extractor, name="mine"):
    """The mean brightness of the cells of a coarse grid. It is chosen by its name: evaluate.extractor=mine."""

    dimensions = 48
    resize = "4x4 by area"

    def load(self, device: str) -> Features:
        """What takes uint8 images [B, 3, H, W] to features float32 [B, dimensions], and to logits or None."""

        def features(images: Tensor) -> tuple[Tensor, Tensor | None]:
            cells = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 4)
            return cells.flatten(1), None

        return features
