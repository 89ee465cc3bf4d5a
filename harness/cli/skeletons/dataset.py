"""The data set `mine`."""

from dataclasses import dataclass

import torch

from harness.data.base import Data, Dataset


@dataclass(frozen=True, kw_only=True)
class Mine(Dataset, name="mine"):
    """Points on a circle. Read your own files in `load` instead: images, points, cells, sequences or latents."""

    number: int = 10_000
    """Training samples; a fifth of this number is held out in addition."""
    noise: float = 0.1
    """Standard deviation of the noise on each axis."""

    def load(self) -> Data:
        """Return the stored samples, and functions that turn them into float32 of about unit variance and back."""
        generator = torch.Generator().manual_seed(0)
        angle = 2 * torch.pi * torch.rand(self.number + self.number // 5, generator=generator)
        points = 2**0.5 * torch.stack([angle.cos(), angle.sin()], dim=1)
        points += self.noise * torch.randn(points.shape, generator=generator)
        return Data(points[: self.number], points[self.number :], torch.Tensor.float, torch.Tensor.float, "points")
