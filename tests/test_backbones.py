"""Networks, compared with torchcfm's U-Net, with the papers' parameter counts, and with equations written out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from scipy.signal import upfirdn
from torch import Tensor, nn
from torch.nn import functional as F
from torchcfm.models.unet.nn import timestep_embedding
from torchcfm.models.unet.unet import UNetModel, UNetModelWrapper

from harness.components.backbones.base import Backbone
from harness.components.backbones.diffusers import Diffusers
from harness.components.backbones.dit import DiT
from harness.components.backbones.embeddings import Condition, Fourier, Learned, Sinusoidal, TimeEmbedding
from harness.components.backbones.mlp import MLP
from harness.components.backbones.ncsnpp import FIR, NCSNpp
from harness.components.backbones.ncsnpp import ResidualBlock as RescaledBlock
from harness.components.backbones.transformer import Transformer, Trunk
from harness.components.backbones.unet import ResidualBlock, SelfAttention, UNet
from harness.components.interpolants import VarianceExploding
from harness.core.config import digest, override
from harness.core.errors import ConfigError, UserError
from harness.core.registry import build, names
from harness.data.images import Digits
from harness.runs.config import RunConfig

BASE = RunConfig(dataset=Digits())
TINY_UNET: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
TINY_DIT: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2}


def hub(model: str, arguments: dict[str, Any]) -> Diffusers:
    return build("backbone", {"name": "diffusers", "model": model, "config": arguments})


SMALL: dict[str, tuple[Any, tuple[int, ...]]] = {
    "unet": (UNet(channels=8, groups=4, attention=(4,), head_channels=8), (3, 8, 4)),
    "unet-deep": (UNet(channels=8, multipliers=(1, 3, 2), blocks=2, groups=4, conditioning="add"), (1, 8, 12)),
    "unet-flat": (UNet(channels=10, multipliers=(1,), groups=5), (2, 5, 7)),
    "unet-residual": (UNet(channels=8, multipliers=(1, 2, 2), groups=4, resample="residual"), (2, 8, 12)),
    "ncsnpp": (NCSNpp(channels=8), (3, 8, 8)),
    "ncsnpp-fir": (
        NCSNpp(
            channels=8, multipliers=(1, 2, 2), blocks=2, attention=(8, 4), filter="fir", progressive_input="residual"
        ),
        (2, 16, 12),
    ),
    "dit": (DiT(width=8, depth=2, heads=2, patch=2), (3, 8, 4)),
    "transformer": (Transformer(width=8, depth=2, heads=2), (6, 3)),
    "transformer-add": (Transformer(width=8, depth=2, heads=2, conditioning="add"), (6, 3)),
    "mlp": (MLP(width=8, blocks=2), (5,)),
    "diffusers": (hub("UNet2DModel", TINY_UNET), (3, 8, 8)),
    "diffusers-dit": (hub("DiTTransformer2DModel", TINY_DIT), (3, 8, 8)),
}
"""Configurations and the shapes of their data."""
NETWORKS = pytest.mark.parametrize("kind", SMALL)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return three samples and their times."""
    return torch.randn(3, *shape, generator=generator(), dtype=dtype), torch.rand(
        3, generator=generator(1), dtype=dtype
    )


@torch.no_grad()
def shaken(module: Any, std: float = 0.1) -> Any:
    """Add noise to every weight, so that no weight is zero or one."""
    noise = generator(2)
    for parameter in module.parameters():
        parameter += std * torch.randn(parameter.shape, generator=noise)
    return module


def built(config: Backbone, shape: tuple[int, ...], num_classes: int = 0) -> Any:
    """Build a network with the same weights for the same configuration, none of them zero."""
    torch.manual_seed(0)
    return shaken(config.build(shape, num_classes))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_backbone_is_tested_here() -> None:
    assert {config.name for config, _ in SMALL.values()} == set(names("backbone"))


# Sizes


def test_the_cifar_unet_has_as_many_parameters_as_torchcfms() -> None:
    with torch.device("meta"):
        ours = build("backbone", {"name": "unet", "preset": "torchcfm-cifar10"}).build((3, 32, 32))
        theirs = UNetModelWrapper(
            dim=(3, 32, 32),
            num_res_blocks=2,
            num_channels=128,
            channel_mult=[1, 2, 2, 2],
            num_heads=4,
            num_head_channels=64,
            attention_resolutions="16",
            dropout=0.1,
        )
    assert count(ours) == count(theirs) == 35_746_307
    assert {m.p for m in ours.modules() if isinstance(m, nn.Dropout)} == {0.1}
    assert {m.heads for m in ours.modules() if hasattr(m, "heads")} == {4}


MILLIONS = {
    "S/2": 33, "S/4": 33, "S/8": 33, "B/2": 130, "B/4": 130, "B/8": 131, "L/2": 458, "L/4": 458, "L/8": 459,
    "XL/2": 675, "XL/4": 675,
    "XL/8": 676,
}  # fmt: skip
"""Parameters for 4x32x32 latents and 1000 classes (Peebles & Xie 2023, table 4)."""


@pytest.mark.parametrize("preset", MILLIONS)
def test_dits_have_as_many_parameters_as_the_papers(preset: str) -> None:
    """The paper's networks have four more output channels, for variances."""
    config = build("backbone", {"name": "dit", "preset": preset})
    with torch.device("meta"):
        ours = count(config.build((4, 32, 32), 1000))
    width = config.width
    pixels = 4 * config.patch**2
    condition = 257 * width + (width + 1) * width + 1001 * width
    blocks = config.depth * (18 * width + 15) * width
    final = 2 * (width + 1) * width + (width + 1) * pixels
    assert ours == (pixels + 1) * width + condition + blocks + final
    assert round((ours + (width + 1) * pixels) / 1e6) == MILLIONS[preset]
    assert width / config.heads == (72 if preset.startswith("XL") else 64)


def test_lipmans_unet_has_as_many_parameters_as_torchcfms_with_adms_blocks() -> None:
    with torch.device("meta"):
        ours = build("backbone", {"name": "unet", "preset": "adm-256"}).build((3, 32, 32))
        theirs = UNetModelWrapper(
            dim=(3, 32, 32),
            num_res_blocks=2,
            num_channels=256,
            channel_mult=[1, 2, 2, 2],
            num_head_channels=64,
            attention_resolutions="16",
            use_scale_shift_norm=True,
            resblock_updown=True,
        )
    assert count(ours) == count(theirs) == 171_268_099
    assert {m.p for m in ours.modules() if isinstance(m, nn.Dropout)} == {0}
    assert {m.heads for m in ours.modules() if hasattr(m, "heads")} == {8}


@pytest.mark.parametrize(
    ("preset", "multipliers", "parameters"),
    [
        ("ddpmpp-cifar10", (1, 2, 2, 2), 61_804_419),
        ("ncsnpp-cifar10", (1, 2, 2, 2), 62_758_787),
        ("ddpmpp-cifar10", (2, 2, 2), 55_732_739),
    ],
)
def test_score_networks_have_as_many_parameters_as_published(
    preset: str, multipliers: tuple[int, ...], parameters: int
) -> None:
    """The first two as in the code of Song et al. 2021, the third 55.7 million as in Karras et al. 2022."""
    config = build("backbone", {"name": "ncsnpp", "preset": preset, "multipliers": multipliers})
    with torch.device("meta"):
        network = config.build((3, 32, 32))
    assert count(network) == parameters
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.1}


@pytest.mark.parametrize(
    ("name", "preset", "shape"),
    [
        ("unet", "digits", (1, 8, 8)),
        ("unet", "fashion", (1, 28, 28)),
        ("unet", "torchcfm-cifar10", (3, 32, 32)),
        ("unet", "adm-256", (3, 32, 32)),
        ("ncsnpp", "ddpmpp-cifar10", (3, 32, 32)),
        ("ncsnpp", "ncsnpp-cifar10", (3, 32, 32)),
        ("dit", "digits", (1, 8, 8)),
    ],
)
def test_a_preset_fits_the_data_that_it_is_named_for(name: str, preset: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = build("backbone", {"name": name, "preset": preset}).build(shape, 10)
        assert network(torch.zeros(2, *shape), torch.zeros(2), torch.zeros(2, dtype=torch.long)).shape == (2, *shape)


# torchcfm's U-Net


class TheirWaves(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        return timestep_embedding(t, self.dim)


@dataclass(frozen=True, kw_only=True)
class TheirEmbedding(TimeEmbedding):
    """torchcfm's embedding: cosines before sines, with unscaled t."""

    def build(self, dim: int) -> nn.Module:
        return TheirWaves(dim)


@torch.no_grad()
def copy_in_order(theirs: nn.Module, ours: nn.Module, heads_first: bool) -> None:
    """Copy weights layer by layer. With `heads_first`, their queries, keys and values are grouped by head, otherwise
    not.
    """
    for (name, parameter), value in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if ".qkv." in name and heads_first:
            heads: Any = ours.get_submodule(name.rpartition(".qkv.")[0]).heads
            value = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        parameter.copy_(value.reshape(parameter.shape))


def both(conditioning: Any, resample: Any, heads_first: bool) -> tuple[Any, Any]:
    """Ours and torchcfm's with equal weights: three levels with attention in the second, of four heads; 3 classes."""
    ours = UNet(
        channels=64,
        multipliers=(1, 2, 1),
        blocks=2,
        attention=(4,),
        head_channels=32,
        conditioning=conditioning,
        groups=32,
        time_embedding=TheirEmbedding(),
        resample=resample,
    ).build((3, 8, 12), 3)
    theirs = UNetModel(
        image_size=8,
        in_channels=3,
        model_channels=64,
        out_channels=3,
        num_res_blocks=2,
        attention_resolutions=(2,),
        channel_mult=(1, 2, 1),
        num_classes=4,
        num_head_channels=32,
        use_scale_shift_norm=conditioning == "film",
        use_new_attention_order=not heads_first,
        resblock_updown=resample == "residual",
    )
    theirs.dtype = torch.float64
    copy_in_order(shaken(theirs, std=0.03).double(), ours.double(), heads_first)
    return ours, theirs


@pytest.mark.parametrize("heads_first", [True, False])
@pytest.mark.parametrize("resample", ["convolution", "residual"])
@pytest.mark.parametrize("conditioning", ["add", "film"])
def test_the_unet_computes_what_torchcfms_does(
    conditioning: str, resample: str, heads_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64: torchcfm's casts to float32 do nothing here. Its first class is our class of none."""
    ours, theirs = both(conditioning, resample, heads_first)
    x, t = batch(3, 8, 12, dtype=torch.float64)
    monkeypatch.setattr(Tensor, "float", lambda tensor: tensor)
    output = ours(x, t, torch.tensor([2, -1, 0]))
    expected = theirs(t, x, torch.tensor([3, 0, 1]))
    assert expected.std() > 0.3
    torch.testing.assert_close(output, expected, rtol=1e-11, atol=1e-11)


# Equations written out


Weights = Mapping[str, Tensor]


def affine(x: Tensor, weights: Weights, layer: str) -> Tensor:
    return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh approximation."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def standardised(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def attention(x: Tensor, weights: Weights, block: str, heads: int) -> Tensor:
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in affine(x, weights, f"{block}.qkv").chunk(3, -1))
    logits = torch.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(q.shape[-1])
    return affine(torch.einsum("bhlm,bmhd->blhd", logits.softmax(-1), v).flatten(2), weights, f"{block}.output")


def trunk(x: Tensor, condition: Tensor, weights: Weights, depth: int, heads: int) -> Tensor:
    """Blocks and final layer of Peebles & Xie 2023, section 3.2 and figure 3."""
    c = silu(condition)[:, None]
    for block in (f"blocks.{i}" for i in range(depth)):
        shift1, scale1, gate1, shift2, scale2, gate2 = affine(c, weights, f"{block}.modulation").chunk(6, -1)
        x = x + gate1 * attention(standardised(x, 1e-6) * (1 + scale1) + shift1, weights, block, heads)
        inner = gelu(affine(standardised(x, 1e-6) * (1 + scale2) + shift2, weights, f"{block}.mlp.0"))
        x = x + gate2 * affine(inner, weights, f"{block}.mlp.2")
    shift, scale = affine(c, weights, "modulation").chunk(2, -1)
    return affine(standardised(x, 1e-6) * (1 + scale) + shift, weights, "head")


def waves(places: Tensor, width: int) -> Tensor:
    """Vaswani et al. 2017, section 3.5, with sines before cosines."""
    angles = torch.stack([places.double() / 10_000 ** (2 * i / width) for i in range(width // 2)], -1)
    return torch.cat([angles.sin(), angles.cos()], -1)


@pytest.mark.parametrize("heads", [1, 3])
def test_the_transformers_trunk_is_the_papers(heads: int) -> None:
    module = shaken(Trunk(12, 2, heads, 5), std=0.5).double()
    x, _ = batch(7, 12, dtype=torch.float64)
    condition = batch(12, dtype=torch.float64)[0]
    expected = trunk(x, condition, module.state_dict(), 2, heads)
    torch.testing.assert_close(module(x, condition), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("heads", [1, 3])
def test_a_trunk_with_an_added_condition_is_attention_and_mlp_after_plain_norms(heads: int) -> None:
    """The expected values come from torch's layers; the scale of their norms is one."""
    module = shaken(Trunk(12, 2, heads, 5, "add"), std=0.5).double()
    x, _ = batch(7, 12, dtype=torch.float64)
    condition = batch(12, dtype=torch.float64)[0]
    expected = x + silu(condition)[:, None]
    for block in module.blocks:
        layer = nn.TransformerEncoderLayer(
            12, heads, 48, 0, nn.GELU("tanh"), 1e-6, batch_first=True, norm_first=True, dtype=torch.float64
        )
        places = {
            "self_attn.in_proj_": "qkv.",
            "self_attn.out_proj.": "output.",
            "linear1.": "mlp.0.",
            "linear2.": "mlp.2.",
        }
        own = block.state_dict()
        weights = {f"{to}{of}": own[f"{at}{of}"] for to, at in places.items() for of in ("weight", "bias")}
        layer.load_state_dict(layer.state_dict() | weights)
        expected = layer(expected)
    expected = affine(standardised(expected, 1e-6), module.state_dict(), "head")
    torch.testing.assert_close(module(x, condition), expected, rtol=1e-10, atol=1e-10)


def group_norm(x: Tensor, groups: int, weights: Weights, layer: str, eps: float = 1e-5) -> Tensor:
    normal = standardised(x.unflatten(1, (groups, -1)).flatten(2), eps).view(x.shape)
    return normal * weights[f"{layer}.weight"][:, None, None] + weights[f"{layer}.bias"][:, None, None]


def averaged(x: Tensor) -> Tensor:
    """The mean of each square of 2x2 pixels."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def repeated(x: Tensor) -> Tensor:
    """Each pixel as a square of 2x2."""
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def as_it_is(x: Tensor) -> Tensor:
    return x


Resampling = tuple[nn.Module | None, Callable[[Tensor], Tensor]]


@pytest.mark.parametrize("conditioning", ["film", "add"])
@pytest.mark.parametrize("outer", [8, 12])
@pytest.mark.parametrize(
    "resampling",
    [(None, as_it_is), (nn.AvgPool2d(2), averaged), (nn.Upsample(scale_factor=2), repeated)],
    ids=["kept", "halved", "doubled"],
)
def test_a_residual_block_is_norm_convolution_condition_norm_convolution(
    conditioning: Any, outer: int, resampling: Resampling
) -> None:
    """Both the first activations and the shortcut are resampled, if any."""
    layer, resampled = resampling
    config = UNet(channels=8, groups=4, conditioning=conditioning)
    module = shaken(ResidualBlock(8, outer, 6, config, 0, layer), std=0.3).double()
    x = batch(8, 6, 4, dtype=torch.float64)[0]
    condition = batch(6, dtype=torch.float64)[0]
    w = module.state_dict()
    h = F.conv2d(resampled(silu(group_norm(x, 4, w, "norm1"))), w["conv1.weight"], w["conv1.bias"], padding=1)
    told = affine(condition, w, "condition")[..., None, None]
    if conditioning == "film":
        scale = told[:, :outer]
        shift = told[:, outer:]
        h = group_norm(h, 4, w, "norm2") * (1 + scale) + shift
    else:
        h = group_norm(h + told, 4, w, "norm2")
    shortcut = resampled(x)
    if outer != 8:
        shortcut = F.conv2d(shortcut, w["shortcut.weight"], w["shortcut.bias"])
    expected = shortcut + F.conv2d(silu(h), w["conv2.weight"], w["conv2.bias"], padding=1)
    torch.testing.assert_close(module(x, condition), expected, rtol=1e-10, atol=1e-10)


def filtered(x: Tensor, task: Literal["halve", "double", "smooth"]) -> Tensor:
    """x [..., H, W] through scipy's filter along each axis, cut to the pixels that the task keeps."""
    up = 2 if task == "double" else 1
    for axis in (-2, -1):
        size = x.shape[axis]
        full = upfirdn([up / 8, 3 * up / 8, 3 * up / 8, up / 8], x.numpy(), up=up, axis=axis)
        kept = {"halve": range(2, size + 1, 2), "double": range(1, 2 * size + 1), "smooth": range(1, size + 2)}[task]
        x = torch.from_numpy(full).index_select(axis, torch.tensor(kept))
    return x


@pytest.mark.parametrize("task", ["halve", "double", "smooth"])
def test_the_fir_filter_is_scipys(task: Any) -> None:
    x = batch(5, 6, 4, dtype=torch.float64)[0]
    torch.testing.assert_close(FIR(task).double()(x), filtered(x, task), rtol=1e-12, atol=1e-12)
    assert not FIR(task).state_dict()


@pytest.mark.parametrize(("task", "side"), [("halve", 4), ("double", 16), ("smooth", 9)])
def test_the_fir_filter_keeps_a_constant_image_away_from_its_edges(task: Any, side: int) -> None:
    output = FIR(task)(torch.ones(1, 2, 8, 8))
    assert output.shape == (1, 2, side, side)
    assert (output[..., 2:-2, 2:-2] == 1).all()


def rescaled_block(
    x: Tensor, c: Tensor, w: Weights, name: str, resampled: Callable[[Tensor], Tensor] = as_it_is
) -> Tensor:
    """A block of DDPM++ or NCSN++ without dropout, with self-attention if it has weights: Song et al. 2021, app. H."""

    def activated(h: Tensor, norm: str) -> Tensor:
        return group_norm(h, min(h.shape[1] // 4, 32), w, f"{name}.{norm}", 1e-6)

    def convolved(h: Tensor, layer: str) -> Tensor:
        return F.conv2d(h, w[f"{name}.{layer}.weight"], w[f"{name}.{layer}.bias"], padding="same")

    h = convolved(resampled(silu(activated(x, "norm1"))), "conv1") + affine(c, w, f"{name}.condition")[..., None, None]
    h = convolved(silu(activated(h, "norm2")), "conv2")
    x = resampled(x)
    if f"{name}.shortcut.weight" in w:
        x = convolved(x, "shortcut")
    x = (x + h) / math.sqrt(2)
    if f"{name}.attention.qkv.weight" in w:
        linear = {of: value.flatten(1) if value.ndim == 4 else value for of, value in w.items()}
        tokens = activated(x, "attention.norm").flatten(2).mT
        x = (x + attention(tokens, linear, f"{name}.attention", 1).mT.reshape(x.shape)) / math.sqrt(2)
    return x


@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("outer", [8, 12])
@pytest.mark.parametrize(
    "resampling",
    [(None, as_it_is), (nn.AvgPool2d(2), averaged), (FIR("double"), lambda x: filtered(x, "double"))],
    ids=["kept", "halved", "doubled"],
)
@torch.no_grad()
def test_a_rescaled_block_is_the_papers(attended: bool, outer: int, resampling: Resampling) -> None:
    layer, resampled = resampling
    module = shaken(RescaledBlock(8, outer, 6, 0, attended, layer), std=0.3).double()
    x = batch(8, 6, 4, dtype=torch.float64)[0]
    condition = batch(6, dtype=torch.float64)[0]
    weights = {f"block.{name}": value for name, value in module.state_dict().items()}
    expected = rescaled_block(x, condition, weights, "block", resampled)
    assert ("block.shortcut.weight" in weights) == (outer != 8 or layer is not None)
    torch.testing.assert_close(module(x, condition), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("filter_", ["box", "fir"])
@pytest.mark.parametrize("progressive", ["none", "residual"])
@torch.no_grad()
def test_score_networks_are_the_papers(filter_: Any, progressive: Any) -> None:
    """Blocks down, two in the middle, and up with every skip connection. `progressive`: the image goes down beside."""
    config = NCSNpp(
        channels=8, multipliers=(1, 2, 1), blocks=2, attention=(8,), filter=filter_, progressive_input=progressive
    )
    network = built(config, (3, 16, 12), 3).double()
    x, t = batch(3, 16, 12, dtype=torch.float64)
    y = torch.tensor([2, -1, 0])
    w = network.state_dict()
    c = silu(network.condition(t, y))
    halved: Callable[[Tensor], Tensor] = averaged if filter_ == "box" else lambda h: filtered(h, "halve")
    doubled: Callable[[Tensor], Tensor] = repeated if filter_ == "box" else lambda h: filtered(h, "double")
    down, up, steps = iter(range(9)), iter(range(12)), iter(range(3))
    image = x
    skips = [F.conv2d(x, w["stem.weight"], w["stem.bias"], padding=1)]
    for level in range(3):
        if level:
            h = rescaled_block(skips[-1], c, w, f"down.{next(down)}", halved)
            if progressive == "residual":
                wide = F.pad(image, (0, 1, 0, 1)) if filter_ == "box" else filtered(image, "smooth")
                step = f"pyramid.{next(steps)}.1"
                h = image = (h + F.conv2d(wide, w[f"{step}.weight"], w[f"{step}.bias"], stride=2)) / math.sqrt(2)
            skips.append(h)
        for _ in range(2):
            skips.append(rescaled_block(skips[-1], c, w, f"down.{next(down)}"))
    h = rescaled_block(rescaled_block(skips[-1], c, w, "middle.0"), c, w, "middle.1")
    for level in reversed(range(3)):
        for _ in range(3):
            h = rescaled_block(torch.cat([h, skips.pop()], 1), c, w, f"up.{next(up)}")
        if level:
            h = rescaled_block(h, c, w, f"up.{next(up)}", doubled)
    h = silu(group_norm(h, 2, w, "head.0", 1e-6))
    expected = F.conv2d(h, w["head.2.weight"], w["head.2.bias"], padding=1)
    assert not skips
    torch.testing.assert_close(network(x, t, y), expected, rtol=1e-10, atol=1e-10)


def test_the_mlp_is_residual_with_film_before_each_block() -> None:
    network = built(MLP(width=9, blocks=2), (5,), 3).double()
    x, t = batch(5, dtype=torch.float64)
    y = torch.tensor([2, -1, 0])
    w = network.state_dict()
    condition = silu(network.condition(t, y))
    h = affine(x, w, "stem")
    for block in ("blocks.0", "blocks.1"):
        scale, shift = affine(condition, w, f"{block}.film").chunk(2, -1)
        h = h + affine(silu(affine(h * (1 + scale) + shift, w, f"{block}.inner")), w, f"{block}.outer")
    torch.testing.assert_close(network(x, t, y), affine(h, w, "head"), rtol=1e-10, atol=1e-10)


# The start


@pytest.mark.parametrize("kind", [kind for kind in SMALL if not kind.startswith("diffusers")])
def test_a_network_starts_at_zero_and_its_output_layer_learns_at_once(kind: str) -> None:
    config, shape = SMALL[kind]
    network: Any = config.build(shape, 3)
    x, t = batch(*shape)
    y = torch.tensor([0, -1, 2])
    output = network(x, t, y)
    assert torch.equal(output, torch.zeros_like(x))
    (output - x).square().mean().backward()
    *_, (_, head_weight), (_, head_bias) = network.named_parameters()
    assert (head_weight.grad != 0).all()
    assert (head_bias.grad != 0).all()


def test_at_the_start_every_block_of_a_transformer_is_the_identity() -> None:
    module = Trunk(12, 2, 3, 5)
    x, _ = batch(7, 12)
    for block in module.blocks:
        assert torch.equal(block(x, batch(12)[0]), x)


def test_a_residual_blocks_attention_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    config = UNet(channels=8, groups=4)
    x = batch(8, 4, 4)[0]
    condition = batch(6)[0]
    block = ResidualBlock(8, 8, 6, config, heads=2)
    attended = block(x, condition)
    block.attention = nn.Identity()
    assert torch.equal(attended, block(x, condition))


def test_a_rescaled_block_starts_as_its_input_over_sqrt_two() -> None:
    """Over two, with attention: there are two skip connections."""
    config = NCSNpp(channels=8, blocks=1, attention=(8,))
    network: Any = config.build((3, 8, 8))
    x = batch(8, 8, 8)[0]
    condition = batch(32)[0]
    torch.testing.assert_close(network.down[0](x, condition), x / 2)
    network.down[0].attention = None
    torch.testing.assert_close(network.down[0](x, condition), x / math.sqrt(2))


def test_score_networks_start_with_glorots_weights_and_zero_biases() -> None:
    """Queries, keys and values with a tenth of the variance, as in the paper's code."""
    torch.manual_seed(0)
    network: Any = NCSNpp(channels=64, filter="fir", progressive_input="residual").build((3, 8, 8))
    block = network.middle[0]
    condition, conv = block.condition, block.conv1
    assert condition.weight.var().item() == pytest.approx(2 / (256 + 128), rel=0.05)
    assert conv.weight.var().item() == pytest.approx(2 / (9 * 2 * 128), rel=0.05)
    assert network.pyramid[0][1].weight.var().item() == pytest.approx(2 / (9 * (3 + 64)), rel=0.1)
    assert block.attention.qkv.weight.var().item() == pytest.approx(0.1 * 2 / (2 * 128), rel=0.05)
    assert not any(b.any() for name, b in network.named_parameters() if name.endswith("bias"))


def test_dits_weights_start_as_the_papers_do() -> None:
    """Xavier uniform with zero biases in the trunk, N(0, 0.02^2) for time and class."""
    torch.manual_seed(0)
    network: Any = DiT(width=64, depth=1, heads=4).build((4, 8, 8), 1000)
    for layer in (network.stem, network.trunk.blocks[0].qkv, network.trunk.blocks[0].mlp[0]):
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert not layer.bias.any()
    for matrix in (
        network.condition.time[1].weight,
        network.condition.time[3].weight,
        network.condition.classes.weight,
    ):
        assert matrix.std().item() == pytest.approx(0.02, rel=0.05)


# Every network


@NETWORKS
def test_every_weight_is_used(kind: str) -> None:
    """Nearly every entry of its gradient is nonzero. Groups have at least two channels, since a bias before a group of
    one has no effect.
    """
    config, shape = SMALL[kind]
    network = built(config, shape)
    network(*batch(*shape)).square().mean().backward()
    for name, parameter in network.named_parameters():
        if not name.endswith("to_k.bias"):  # softmax does not see it: its gradient is rounding
            assert parameter.grad.ne(0).float().mean() > 0.9, name


@NETWORKS
def test_the_output_depends_on_time_and_on_each_sample_alone(kind: str) -> None:
    config, shape = SMALL[kind]
    network = built(config, shape)
    x, t = batch(*shape)
    whole = network(x, t)
    torch.testing.assert_close(network(x[1:2], t[1:2]), whole[1:2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(x, t.flip(0))[0], whole[0], atol=1e-3)


@NETWORKS
def test_bfloat16_gives_the_same_output_roughly_and_finite_gradients(kind: str) -> None:
    config, shape = SMALL[kind]
    network = built(config, shape, 3)
    x, t = batch(*shape)
    y = torch.tensor([0, -1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, t, y)
    expected = network(x, t, y)
    assert (output.float() - expected).norm() < 0.05 * expected.norm()
    output.float().square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


CHANGES: dict[str, dict[str, Any]] = {
    "unet": {
        "channels": 16,
        "multipliers": (2, 1),
        "blocks": 2,
        "attention": (8,),
        "head_channels": 4,
        "conditioning": "add",
        "groups": 2,
        "dropout": 0.5,
        "time_embedding": Sinusoidal(scale=500),
        "resample": "residual",
    },
    "ncsnpp": {
        "channels": 12,
        "multipliers": (2, 1),
        "blocks": 2,
        "attention": (8,),
        "dropout": 0.5,
        "filter": "fir",
        "progressive_input": "residual",
        "time_embedding": Sinusoidal(scale=500),
        "time_multiplier": 2,
    },
    "dit": {"width": 12, "depth": 3, "heads": 1, "patch": 4, "time_embedding": Fourier()},
    "transformer": {"width": 12, "depth": 3, "heads": 1, "conditioning": "add", "time_embedding": Learned()},
    "mlp": {"width": 12, "blocks": 3, "dropout": 0.5, "time_embedding": Sinusoidal(scale=1)},
    "diffusers": {
        "model": {"model": "DiTTransformer2DModel", "config": json.dumps(TINY_DIT)},
        "config": json.dumps(TINY_UNET | {"layers_per_block": 2}),
        "time_scale": 1.0,
    },
}


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field.name) for kind in CHANGES for field in dataclasses.fields(SMALL[kind][0])]
)
def test_no_field_is_dead(kind: str, field: str) -> None:
    config, shape = SMALL[kind]
    value = CHANGES[kind][field]
    outcomes = []
    for variant in (config, dataclasses.replace(config, **(value if isinstance(value, dict) else {field: value}))):
        network = built(variant, shape)
        torch.manual_seed(1)
        outcomes.append(([p.shape for p in network.parameters()], network(*batch(*shape))))
    (shapes, output), (changed_shapes, changed_output) = outcomes
    assert shapes != changed_shapes or not torch.allclose(output, changed_output, atol=1e-4)


DROPPING = pytest.mark.parametrize(
    ("config", "shape"),
    [
        (UNet(channels=8, groups=4, dropout=0.4), (1, 8, 8)),
        (NCSNpp(channels=8, dropout=0.4), (1, 8, 8)),
        (MLP(width=64, dropout=0.4), (5,)),
    ],
    ids=["unet", "ncsnpp", "mlp"],
)


@DROPPING
def test_dropout_acts_in_training_alone(config: Any, shape: tuple[int, ...]) -> None:
    network = built(config, shape)
    plain = built(dataclasses.replace(config, dropout=0), shape)
    x, t = batch(*shape)
    assert not torch.allclose(network(x, t), network(x, t), atol=1e-3)
    assert torch.equal(network.eval()(x, t), plain(x, t))


@DROPPING
def test_dropout_drops_the_declared_share_of_single_activations(config: Any, shape: tuple[int, ...]) -> None:
    """Each activation is dropped independently in every block: 16 neighbours vary like 16 coin tosses."""
    network = built(config, shape)
    shares = []
    blocks = [module for module in network.modules() if hasattr(module, "dropout")]
    for block in blocks:
        block.dropout.register_forward_hook(
            lambda module, inputs, output: shares.append((output == 0).float().view(len(output), -1, 16))
        )
    network(*batch(*shape))
    assert len(shares) == len(blocks) > 2
    dropped = torch.cat(shares, 1)
    assert dropped.mean().item() == pytest.approx(0.4, abs=0.05)
    assert dropped.mean(-1).var().item() == pytest.approx(0.4 * 0.6 / 16, rel=0.5)


# U-Net


def sight(config: UNet, size: int) -> Tensor:
    """Return how much each pixel of a square image changes the output's first pixel.

    The norms are removed, because they connect all pixels.
    """
    network = built(config, (1, size, size))
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    x = torch.randn(1, 1, size, size, generator=generator()).requires_grad_()
    network(x, torch.tensor([0.5]))[0, 0, 0, 0].backward()
    assert x.grad is not None
    return x.grad[0, 0].abs()


def test_convolutions_see_nearby_and_attention_sees_everything() -> None:
    """Ten convolutions of 3x3 in a row: the stem, two in each of four blocks, and the head."""
    config = UNet(channels=4, multipliers=(1,), blocks=1, groups=1)
    assert torch.equal(sight(config, 16).nonzero().amax(0), torch.tensor([10, 10]))
    assert (sight(dataclasses.replace(config, attention=(16,)), 16) > 0).all()


def blocks_with_attention(attention: tuple[int, ...]) -> list[bool]:
    config = UNet(channels=8, multipliers=(1, 2, 2), blocks=2, groups=4, attention=attention)
    network: Any = config.build((1, 16, 8))
    parts = (*network.down, *network.middle, *network.up)
    return [not isinstance(part.attention, nn.Identity) for part in parts if isinstance(part, ResidualBlock)]


def test_attention_ends_the_blocks_of_the_levels_with_its_heights_and_the_first_of_the_middle() -> None:
    """Two blocks on each level down, three up; the middle has a second block if it has attention."""
    none = [False, False]
    all_ = [True, True]
    assert blocks_with_attention(()) == [*none * 3, False, *[False] * 9]
    assert blocks_with_attention((8,)) == [*none, *all_, *none, True, False, *[False] * 3, *[True] * 3, *[False] * 3]
    assert blocks_with_attention((4, 16)) == [*all_, *none, *all_, True, False, *[True] * 3, *[False] * 3, *[True] * 3]


def test_a_level_has_as_many_heads_as_fit() -> None:
    config = UNet(channels=32, multipliers=(1, 2, 4), attention=(8,), head_channels=64)
    assert [config.heads(width) for width in (32, 64, 128)] == [1, 1, 2]


def test_residual_resampling_lies_between_levels_without_attention() -> None:
    """Down before each level but the first, up before each but the last; the width stays."""
    config = UNet(channels=8, multipliers=(1, 2, 3), groups=4, attention=(16, 8, 4), resample="residual")
    network: Any = config.build((1, 16, 8))
    between = {
        side: [(i, block.conv1) for i, block in enumerate(getattr(network, side)) if block.resample is not None]
        for side in ("down", "middle", "up")
    }
    shapes = {side: [(i, conv.in_channels, conv.out_channels) for i, conv in found] for side, found in between.items()}
    assert shapes == {"down": [(1, 8, 8), (3, 16, 16)], "middle": [], "up": [(2, 24, 24), (5, 16, 16)]}
    for side, found in between.items():
        assert all(isinstance(getattr(network, side)[i].attention, nn.Identity) for i, _ in found)


# DDPM++ and NCSN++


def test_score_networks_attend_after_each_block_down_the_last_up_and_the_first_of_the_middle() -> None:
    network: Any = NCSNpp(channels=8, blocks=2, attention=(8,)).build((1, 16, 8))
    attend = {side: [block.attention is not None for block in getattr(network, side)] for side in ("down", "up")}
    assert attend["down"] == [False, False, False, True, True]
    assert attend["up"] == [False, False, True, False, False, False, False]
    assert [block.attention is not None for block in network.middle] == [True, False]
    assert {m.heads for m in network.modules() if isinstance(m, SelfAttention)} == {1}


def test_ncsnpps_waves_turn_16_times_a_unit_of_log_sigma_on_its_path() -> None:
    """Its embedding has a sine and a cosine of as many frequencies as there are channels."""
    config = build("backbone", {"name": "ncsnpp", "preset": "ncsnpp-cifar10"})
    start, end = VarianceExploding().sigma(torch.tensor([0.0, 1.0])).tolist()
    assert config.time_embedding.std == pytest.approx(16 * math.log(end / start))
    with torch.device("meta"):
        network: Any = config.build((3, 32, 32))
    assert network.condition.time[0].frequencies.shape == (128,)


# DiT


class Spy(nn.Module):
    """Replaces a trunk: stores the tokens and returns them."""

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        self.tokens = tokens
        return tokens


def test_patches_go_to_tokens_and_back_to_their_places() -> None:
    """Tokens are in row order and equal a convolution with the stem's weights; outputs return to the same place."""
    network: Any = DiT(width=12, heads=1, depth=1, patch=2).build((3, 8, 6))
    network.trunk = Spy()
    x, t = batch(3, 8, 6)
    nn.init.eye_(network.stem.weight)
    positions_as_image = network(torch.zeros_like(x), t)
    positions = network.trunk.tokens
    torch.testing.assert_close(network(x, t) - positions_as_image, x)
    nn.init.normal_(network.stem.weight)
    nn.init.normal_(network.stem.bias)
    network(x, t)
    tokens = F.conv2d(x, network.stem.weight.view(12, 3, 2, 2), network.stem.bias, stride=2)
    torch.testing.assert_close(network.trunk.tokens - positions, tokens.flatten(2).mT, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 6), (6, 8), (2, 20)], ids=str)
def test_half_of_a_position_encodes_the_row_and_half_the_column(size: tuple[int, int]) -> None:
    network: Any = DiT(width=8, heads=1, depth=1, patch=2).build((2, 8, 8))
    network.trunk = Spy()
    network(torch.zeros(1, 2, *size), torch.zeros(1))
    row, column = (place.flatten() for place in torch.meshgrid(*(torch.arange(n // 2) for n in size), indexing="ij"))
    expected = torch.cat([waves(row, 4), waves(column, 4)], -1).float()
    torch.testing.assert_close(network.trunk.tokens[0], expected, rtol=1e-5, atol=1e-5)


def test_a_dit_is_its_tokens_trunk_and_pixels_at_any_size_that_patches_divide() -> None:
    network = built(DiT(width=12, depth=2, heads=3, patch=2), (3, 8, 8), 4).double()
    x, t = batch(3, 6, 10, dtype=torch.float64)
    y = torch.tensor([3, -1, 0])
    w = network.state_dict()
    tokens = F.conv2d(x, w["stem.weight"].view(12, 3, 2, 2), w["stem.bias"], stride=2).flatten(2).mT
    positions = torch.cat([waves(torch.arange(15) // 5, 6), waves(torch.arange(15) % 5, 6)], -1)
    weights = {name.removeprefix("trunk."): value for name, value in w.items() if name.startswith("trunk.")}
    out = trunk(tokens + positions, network.condition(t, y), weights, 2, 3)
    torch.testing.assert_close(network(x, t, y), F.pixel_shuffle(out.mT.unflatten(2, (3, 5)), 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 8), (8, 9)], ids=str)
def test_a_dit_refuses_sizes_that_its_patches_do_not_divide(size: tuple[int, int]) -> None:
    network = DiT(width=8, heads=1, depth=1, patch=2).build((1, 8, 8))
    with pytest.raises(UserError, match=f"patches of 2 do not divide {size[0]}x{size[1]}"):
        network(torch.zeros(1, 1, *size), torch.zeros(1))


# Transformer


def test_a_transformer_takes_sequences_of_other_lengths() -> None:
    network = built(Transformer(width=8, depth=2, heads=2), (6, 3))
    x, t = batch(9, 3)
    assert network(x, t).shape == x.shape


def test_the_order_of_a_sequence_counts_by_sines_of_its_places() -> None:
    network = built(Transformer(width=8, depth=2, heads=2), (6, 3))
    x, t = batch(9, 3)
    x = x[:, :5].clamp(-3, 3)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert not torch.allclose(network(x[:, order], t), network(x, t)[:, order], atol=1e-3)
    weights = {name.removeprefix("trunk."): value for name, value in network.state_dict().items()}
    tokens = affine(x, weights, "stem") + waves(torch.arange(5), 8).float()
    torch.testing.assert_close(
        network(x, t), trunk(tokens, network.condition(t, None), weights, 2, 2), rtol=1e-4, atol=1e-5
    )


# Time and class


@pytest.mark.parametrize("dim", [2, 8, 256])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_sinusoidal_is_the_stated_formula_of_scaled_time(dim: int, scale: float) -> None:
    half = dim // 2
    t = torch.linspace(0, 1, 11)
    angles = torch.stack(
        [scale * t.double() * math.exp(-i * math.log(10_000) / max(1, half - 1)) for i in range(half)], -1
    )
    module = Sinusoidal(scale=scale).build(dim)
    torch.testing.assert_close(
        module(t).double(), torch.cat([angles.sin(), angles.cos()], -1), rtol=0, atol=2e-7 * scale + 1e-6
    )
    assert not module.state_dict()
    assert Sinusoidal().scale == 1000


def test_fourier_frequencies_are_normal_with_the_declared_deviation() -> None:
    torch.manual_seed(0)
    module: Any = Fourier(std=3).build(20_000)
    turns = module.frequencies / (2 * math.pi)
    assert turns.std().item() == pytest.approx(3, rel=0.03)
    assert turns.mean().item() == pytest.approx(0, abs=0.1)
    assert (turns.abs() < 3).float().mean().item() == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.02)
    t = torch.tensor([0.3])
    torch.testing.assert_close(
        module(t)[0], torch.cat([(t * module.frequencies).sin(), (t * module.frequencies).cos()])
    )


def test_fourier_frequencies_travel_with_the_weights() -> None:
    config = MLP(width=8, time_embedding=Fourier())
    shape = (5,)
    x, t = batch(*shape)
    one = shaken(config.build(shape))
    other = shaken(config.build(shape))
    assert not torch.equal(one(x, t), other(x, t))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x, t), other(x, t))


def test_only_a_learned_embedding_trains() -> None:
    assert count(Sinusoidal().build(16)) == count(Fourier().build(16)) == 0
    torch.manual_seed(0)
    module = Learned().build(16)
    t = torch.linspace(0, 1, 64)
    target = torch.stack([torch.cos(math.pi * (i % 4) * t) for i in range(16)], -1)
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    losses = []
    for _ in range(200):
        losses.append((module(t) - target).square().mean())
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("name", names("time_embedding"))
@pytest.mark.parametrize("kind", ["unet", "ncsnpp", "dit", "transformer", "mlp"])
def test_every_network_takes_every_time_embedding(kind: str, name: str) -> None:
    config, shape = SMALL[kind]
    network = built(dataclasses.replace(config, time_embedding=build("time_embedding", name)), shape)
    x, t = batch(*shape)
    assert (network(x, t) - network(x, t.flip(0)))[0].abs().max() > 1e-4


def test_a_class_is_a_vector_added_to_the_times_and_no_class_is_the_first() -> None:
    module: Any = Condition(Sinusoidal(), 8, 6, 3)
    t = torch.rand(5, generator=generator())
    y = torch.tensor([2, -1, 0, 1, -1])
    vectors = module.classes.weight
    hidden = affine(Sinusoidal().build(8)(t), module.state_dict(), "time.1")
    time = affine(silu(hidden), module.state_dict(), "time.3")
    assert vectors.shape == (4, 6)
    torch.testing.assert_close(module(t, y), time + vectors[[3, 0, 1, 2, 0]])
    torch.testing.assert_close(module(t, None), time + vectors[0])


@NETWORKS
def test_no_class_and_class_minus_one_are_the_same(kind: str) -> None:
    config, shape = SMALL[kind]
    network = built(config, shape, 3)
    x, t = batch(*shape)
    none = network(x, t)
    some = network(x, t, torch.tensor([-1, 2, -1]))
    assert torch.equal(network(x, t, torch.full((3,), -1)), none)
    torch.testing.assert_close(some[::2], none[::2])
    assert not torch.allclose(some[1], none[1], atol=1e-4)


@NETWORKS
def test_classes_that_the_network_does_not_have_fail(kind: str) -> None:
    config, shape = SMALL[kind]
    x, t = batch(*shape)
    with pytest.raises(AssertionError, match="without classes"):
        config.build(shape)(x, t, torch.tensor([0, 1, 2]))
    with pytest.raises(IndexError):
        config.build(shape, 3)(x, t, torch.tensor([0, 1, 3]))
    with pytest.raises(RuntimeError):
        config.build(shape, 3)(x, t, torch.tensor([0.0, 1.0, 2.0]))


# Presets


def test_a_preset_stands_for_its_fields() -> None:
    short = build("backbone", {"name": "dit", "preset": "XL/2"})
    assert short == build("backbone", {"name": "dit", "width": 1152, "depth": 28, "heads": 16, "patch": 2})
    assert digest(short) == digest(DiT(width=1152, depth=28, heads=16, patch=2))
    assert digest(short) != digest(build("backbone", {"name": "dit", "preset": "XL/4"}))


def test_a_field_next_to_a_preset_wins() -> None:
    beside = {"depth": 2, "time_embedding": {"name": "fourier", "std": 4}}
    expected = DiT(width=384, depth=2, heads=6, patch=8, time_embedding=Fourier(std=4))
    assert build("backbone", {"name": "dit", **beside, "preset": "S/8"}) == expected
    assert build("backbone", {"name": "dit", "preset": "S/8", **beside}) == expected
    paths = {
        "backbone": "dit",
        "backbone.depth": 2,
        "backbone.time_embedding": "fourier",
        "backbone.time_embedding.std": 4,
    }
    assert override(BASE, paths | {"backbone.preset": "S/8"}).backbone == expected


def test_a_preset_as_a_path_leaves_all_else_at_its_default() -> None:
    small = DiT(width=384, depth=12, heads=6, patch=8)
    assert override(BASE, {"backbone": "dit", "backbone.preset": "S/8"}).backbone == small
    assert override(BASE, {"backbone": {"name": "dit", "preset": "S/8"}}).backbone == small
    assert override(BASE, {"backbone.preset": "fashion"}).backbone == UNet(
        channels=32, multipliers=(1, 2, 2), blocks=2, groups=8
    )
    learned = override(BASE, {"backbone": "dit", "backbone.time_embedding": "learned"})
    assert override(learned, {"backbone.preset": "S/8"}).backbone == small
    beside = {"backbone.preset": "S/8", "backbone.heads": 12, "backbone.time_embedding": "learned"}
    assert override(learned, beside).backbone == dataclasses.replace(small, heads=12, time_embedding=Learned())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "dit", "backbone.preset": "XL2"}, "^backbone.preset: 'XL2' is not a preset. Did you mean 'XL/2'"),
        ({"backbone.preset": "fashon"}, "^backbone.preset: 'fashon' is not a preset. Did you mean 'fashion'"),
        ({"backbone": {"name": "dit", "preset": 2}}, "^backbone.preset: 2 is not a preset. Known: B/2, "),
        ({"backbone.preset": ["fashion"]}, "^backbone.preset: \\['fashion'\\] is not a preset. "),
        ({"backbone": "mlp", "backbone.preset": "digits"}, "^backbone.preset: mlp has no such field"),
        ({"preset": "digits"}, "^preset: is not a known field"),
    ],
)
def test_an_unknown_preset_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(BASE, changes)


# Mistakes


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        (
            {"name": "unet", "multipliers": [1, 2, 2, 2]},
            (1, 28, 28),
            "^multipliers: 4 levels do not halve 28x28 evenly",
        ),
        ({"name": "unet", "multipliers": [1, 2]}, (1, 8, 7), "^multipliers: 2 levels do not halve 8x7 evenly"),
        ({"name": "unet", "multipliers": [1, 2]}, (1, 7, 8), "^multipliers: 2 levels do not halve 7x8 evenly"),
        ({"name": "unet", "attention": [8, 3]}, (1, 8, 4), r"^attention: no level has height 3. Choose from \[8, 4\]"),
        ({"name": "unet", "attention": [4]}, (1, 6, 4), r"^attention: no level has height 4. Choose from \[6, 3\]"),
        ({"name": "unet"}, (10,), r"unet takes images \[C, H, W\], not \[10\]"),
        ({"name": "ncsnpp", "multipliers": [1, 2]}, (1, 8, 7), "^multipliers: 2 levels do not halve 8x7 evenly"),
        ({"name": "ncsnpp", "attention": [3]}, (1, 8, 4), r"^attention: no level has height 3. Choose from \[8, 4\]"),
        ({"name": "ncsnpp"}, (6, 3), r"ncsnpp takes images \[C, H, W\], not \[6, 3\]"),
        ({"name": "dit", "patch": 4}, (1, 8, 6), "^patch: 4 does not divide 8x6"),
        ({"name": "dit", "patch": 4}, (1, 6, 8), "^patch: 4 does not divide 6x8"),
        ({"name": "dit"}, (6, 3), r"dit takes images \[C, H, W\], not \[6, 3\]"),
        ({"name": "transformer"}, (1, 8, 8), r"transformer takes sequences \[L, D\], not \[1, 8, 8\]"),
        ({"name": "mlp"}, (6, 3), r"mlp takes vectors \[D\], not \[6, 3\]"),
    ],
)
def test_data_that_do_not_fit_are_refused(spec: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    config = build("backbone", spec)
    with pytest.raises(ConfigError, match=message):
        config.build(shape)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "unet", "multipliers": []}, "multipliers: there is no level"),
        ({"name": "unet", "channels": 12}, "groups: 8 does not divide every width. Choose a divisor of 12"),
        (
            {"name": "unet", "channels": 56, "attention": [8], "head_channels": 16},
            "head_channels: 16 does not divide the widths",
        ),
        ({"name": "unet", "conditioning": "flim"}, "conditioning: 'flim' is not a choice. Did you mean 'film'"),
        ({"name": "unet", "dropout": 1}, r"dropout: 1.0 is outside \[0, 1\)"),
        ({"name": "unet", "multipliers": [1], "resample": "residual"}, "resample: one level is never resampled"),
        ({"name": "ncsnpp", "multipliers": []}, "multipliers: there is no level"),
        (
            {"name": "ncsnpp", "channels": 30},
            "channels: the groups of a norm do not divide every width",
        ),
        (
            {"name": "ncsnpp", "channels": 36},
            "channels: the groups of a norm do not divide every width",
        ),
        ({"name": "ncsnpp", "multipliers": [1], "filter": "fir"}, "filter: one level is never resampled"),
        (
            {"name": "ncsnpp", "multipliers": [1], "progressive_input": "residual"},
            "progressive_input: one level is never resampled",
        ),
        ({"name": "mlp", "dropout": 1}, r"dropout: 1.0 is outside \[0, 1\)"),
        ({"name": "dit", "width": 64, "heads": 6}, r"width: 64 is not a multiple of heads \(6\) and of 4"),
        ({"name": "dit", "width": 66, "heads": 6}, r"width: 66 is not a multiple of heads \(6\) and of 4"),
        ({"name": "transformer", "width": 64, "heads": 6}, r"width: 64 is not a multiple of heads \(6\) and of 2"),
        ({"name": "transformer", "width": 9, "heads": 3}, r"width: 9 is not a multiple of heads \(3\) and of 2"),
        (
            {"name": "dit", "time_embedding": "sinusodial"},
            "time_embedding: 'sinusodial' is not a known time_embedding. Did you mean 'sinusoidal'",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^backbone.{message}"):
        build("backbone", spec)


@pytest.mark.parametrize(("channels", "multipliers"), [(4, (1, 15)), (16, (1, 4, 3)), (32, (3, 1)), (96, (1, 3, 2))])
def test_score_networks_have_whole_groups_at_every_width_that_is_allowed(
    channels: int, multipliers: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        assert NCSNpp(channels=channels, multipliers=multipliers).build((1, 16, 16))


def test_widths_that_heads_need_not_divide_are_allowed_without_attention() -> None:
    assert UNet(channels=56, head_channels=16).build((1, 8, 8))
    assert Transformer(width=66, heads=6).build((6, 3))
