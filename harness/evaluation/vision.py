"""Vision transformers that extract image features, with weights from a file that the user names: CLIP and DINOv2."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.core.checkpoint import read_weights
from harness.core.errors import UserError
from harness.evaluation.extractors import JUDGE_VALUES, Extractor, Features

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class GivenExtractor(Extractor):
    """Base of extractors whose weights the user brings: nothing is downloaded, and no pickle is executed."""

    variable: ClassVar[str]
    """Environment variable that holds the path of the weights."""
    model: ClassVar[str]
    """The network and the layout of its weights, in words."""
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    """Mean and standard deviation of red, green and blue in [0, 1], by which images are normalised."""

    @abstractmethod
    def network(self, weights: Weights) -> tuple[nn.Module, int]:
        """Return the network, which maps images [B, 3, 224, 224] to features [B, D], and D."""

    @abstractmethod
    def resized(self, images: Tensor) -> Tensor:
        """Resize float32 images [B, 3, H, W] in [0, 255] to [B, 3, 224, 224]."""

    def here(self) -> bool:
        return Path(os.environ.get(self.variable, "")).is_file()

    def weights(self) -> Path:
        place = os.environ.get(self.variable)
        if not place:
            advice = f"Set it to the path of a .safetensors or torch file. Without it: {JUDGE_VALUES}"
            raise UserError(f"{self.variable}: is not set, and {self.name} needs {self.model}. {advice}")
        if not Path(place).is_file():
            raise UserError(f"{self.variable}: {place} is not a file. Set it to {self.model}.")
        return Path(place)

    def load(self, device: str) -> Features:
        path = self.weights()
        try:
            network, dimensions = self.network(read_weights(path))
        except Exception as error:  # torch's, safetensors' and torch-fidelity's readers raise many types
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{path}: not {self.model} ({reason}). Set {self.variable} to another file.") from error
        if dimensions != self.dimensions:
            reason = f"{path}: its network has {dimensions} features, and {self.name} has {self.dimensions}"
            raise UserError(f"{reason}. Set {self.variable} to {self.model}.")
        network = network.to(device).requires_grad_(False).eval()
        mean, std = (255 * torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))

        def found(images: Tensor) -> tuple[Tensor, None]:
            return network((self.resized(images.float()) - mean) / std).float(), None

        return found


@dataclass(frozen=True, kw_only=True)
class ClipExtractor(GivenExtractor, name="clip"):
    """CLIP ViT-B/32 as torch-fidelity computes it, with the image embedding as features."""

    source: ClassVar[str] = "Radford et al. 2021; Kynkaanniemi et al. 2023 (FID with CLIP)"
    dimensions = 512
    resize = "224x224 by TensorFlow 1's bilinear resize"
    variable = "HARNESS_CLIP"
    model = "the weights of CLIP ViT-B/32 in OpenAI's layout (visual.conv1.weight, ...)"
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def network(self, weights: Weights) -> tuple[nn.Module, int]:
        from torch_fidelity.feature_extractor_clip import build_model

        visual = build_model(dict(weights), torch.float32).visual
        return visual, visual.output_dim

    def resized(self, images: Tensor) -> Tensor:
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        return interpolate_bilinear_2d_like_tensorflow1x(images, size=(224, 224), align_corners=False)


@dataclass(frozen=True, kw_only=True)
class DinoExtractor(GivenExtractor, name="dinov2"):
    """DINOv2 ViT-L/14 without registers, with the normalised class token as features."""

    source: ClassVar[str] = "Oquab et al. 2024; Stein et al. 2023 (FD-DINOv2)"
    dimensions = 1024
    resize = "224x224, bicubic with antialiasing"
    variable = "HARNESS_DINOV2"
    model = "the weights of DINOv2 ViT-L/14 in Meta's layout (dinov2_vitl14_pretrain.pth)"
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def network(self, weights: Weights) -> tuple[nn.Module, int]:
        network = DinoViT(weights)
        return network, network.cls_token.shape[-1]

    def resized(self, images: Tensor) -> Tensor:
        return F.interpolate(images, size=(224, 224), mode="bicubic", antialias=True)


class DinoViT(nn.Module):
    """DINOv2's vision transformer, of the width and depth of its weights: [B, 3, 14 n, 14 n] to class tokens [B, D]."""

    def __init__(self, weights: Weights):
        super().__init__()
        width = weights["cls_token"].shape[-1]
        depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 14, 14)})
        self.cls_token, self.mask_token, self.pos_embed = (
            nn.Parameter(torch.empty_like(weights[name])) for name in ("cls_token", "mask_token", "pos_embed")
        )
        self.blocks = nn.ModuleList(DinoBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.load_state_dict(weights)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).mT], 1)
        x = x + self.positions(patches.shape[-1])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def positions(self, n: int) -> Tensor:
        """Return the positional embedding [1, 1 + n^2, D] of n x n patches.

        Its scale of (n + 0.1) / N is the one that DINOv2's models were published with.
        """
        side = round((self.pos_embed.shape[1] - 1) ** 0.5)
        if n == side:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].mT.unflatten(2, (side, side))
        grid = F.interpolate(grid, scale_factor=(n + 0.1) / side, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).mT], 1)


class DinoBlock(nn.Module):
    """Attention and MLP with learned scales of both, on tokens [B, N, D]; heads have 64 dimensions."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.ones(width)}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1["gamma"] * self.attention(self.norm1(x))
        return x + self.ls2["gamma"] * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))

    def attention(self, x: Tensor) -> Tensor:
        """Return self-attention of tokens [B, N, D], shaped like x."""
        q, k, v = self.attn["qkv"](x).unflatten(2, (3, -1, 64)).permute(2, 0, 3, 1, 4)
        return self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
