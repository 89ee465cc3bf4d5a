"""CLIP and DINOv2 read small random weights in the published layouts, and refuse others in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.core.config import override
from harness.core.errors import UserError
from harness.core.registry import build
from harness.data.base import load
from harness.data.images import Digits
from harness.evaluation import extractors
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.evaluation.vision import ClipExtractor, DinoExtractor, DinoViT, GivenExtractor

WIDTH = 64
"""Width of the small networks; one head."""


def random(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def clip_weights() -> dict[str, Tensor]:
    """A transformer of one block in OpenAI's layout, with a piece of the text encoder, which is not read."""
    block = "visual.transformer.resblocks.0"
    norms = {f"visual.{name}.{part}": (WIDTH,) for name in ("ln_pre", "ln_post") for part in ("weight", "bias")}
    return random(
        {
            "visual.conv1.weight": (WIDTH, 3, 32, 32),
            "visual.class_embedding": (WIDTH,),
            "visual.positional_embedding": (50, WIDTH),
            "visual.proj": (WIDTH, 16),
            **norms,
            **{f"{block}.{name}.{part}": (WIDTH,) for name in ("ln_1", "ln_2") for part in ("weight", "bias")},
            f"{block}.attn.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{block}.attn.in_proj_bias": (3 * WIDTH,),
            f"{block}.attn.out_proj.weight": (WIDTH, WIDTH),
            f"{block}.attn.out_proj.bias": (WIDTH,),
            f"{block}.mlp.c_fc.weight": (4 * WIDTH, WIDTH),
            f"{block}.mlp.c_fc.bias": (4 * WIDTH,),
            f"{block}.mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
            f"{block}.mlp.c_proj.bias": (WIDTH,),
            "text_projection": (8, 16),
            "ln_final.weight": (8,),
        }
    )


def dino_weights() -> dict[str, Tensor]:
    """A transformer of one block in Meta's layout, with positions for 518x518."""
    linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    norms = ["norm", *(f"blocks.0.{name}" for name in ("norm1", "norm2"))]
    return random(
        {
            "cls_token": (1, 1, WIDTH),
            "mask_token": (1, WIDTH),
            "pos_embed": (1, 1 + 37**2, WIDTH),
            "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
            "patch_embed.proj.bias": (WIDTH,),
            **{f"{name}.{part}": (WIDTH,) for name in norms for part in ("weight", "bias")},
            **{f"blocks.0.{name}.weight": (a * WIDTH, b * WIDTH) for name, (a, b) in linear.items()},
            **{f"blocks.0.{name}.bias": (a * WIDTH,) for name, (a, _) in linear.items()},
            **{f"blocks.0.ls{i}.gamma": (WIDTH,) for i in (1, 2)},
        }
    )


GIVEN: dict[str, tuple[type[GivenExtractor], Callable[[], dict[str, Tensor]], int]] = {
    "clip": (ClipExtractor, clip_weights, 16),
    "dinov2": (DinoExtractor, dino_weights, WIDTH),
}


@pytest.fixture(autouse=True)
def forgotten() -> None:
    extractors.weights_hash.cache_clear()
    extractors.load_extractor.cache_clear()


def images(number: int = 3) -> Tensor:
    return torch.randint(256, (number, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def clip_by_torch_fidelity(weights: dict[str, Tensor]) -> Tensor:
    """Features of torch-fidelity's extractor, which itself reads only TorchScript."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP, build_model

    theirs = FeatureExtractorCLIP.__new__(FeatureExtractorCLIP)
    FeatureExtractorBase.__init__(theirs, "clip-vit-b-32", ["clip"])
    theirs.feature_extractor_internal_dtype = torch.float32
    theirs.model = build_model(dict(weights), torch.float32)
    theirs.resolution = 224
    (found,) = theirs(images())
    return found


def dino_by_formula(weights: dict[str, Tensor]) -> Tensor:
    """Torch's own encoder layer, with the scales of DINOv2 multiplied into its last linear maps."""
    block = nn.TransformerEncoderLayer(WIDTH, 1, 4 * WIDTH, 0.0, F.gelu, 1e-6, batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    state = {theirs + p: weights[f"blocks.0.{ours}{p}"] for theirs, ours in names.items() for p in ("weight", "bias")}
    for name, scale in (("self_attn.out_proj.", "ls1"), ("linear2.", "ls2")):
        gamma = weights[f"blocks.0.{scale}.gamma"]
        state |= {f"{name}weight": gamma[:, None] * state[f"{name}weight"], f"{name}bias": gamma * state[f"{name}bias"]}
    block.load_state_dict(state)
    large = F.interpolate(images().float(), size=(518, 518), mode="bicubic", antialias=True)
    patches = F.conv2d(large, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], 14)
    tokens = torch.cat([weights["cls_token"].expand(3, -1, -1), patches.flatten(2).mT], 1) + weights["pos_embed"]
    found = F.layer_norm(block.eval()(tokens), (WIDTH,), weights["norm.weight"], weights["norm.bias"], 1e-6)[:, 0]
    torch.testing.assert_close(DinoViT(weights).eval()(large), found, rtol=1e-4, atol=1e-4)
    return found


def test_clip_has_the_features_of_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClipExtractor, "dimensions", 16)
    save_file(clip_weights(), tmp_path / "clip.safetensors")
    torch.save(clip_weights(), tmp_path / "clip.pth")
    expected = clip_by_torch_fidelity(clip_weights())
    for name in ("clip.safetensors", "clip.pth"):
        monkeypatch.setenv("HARNESS_CLIP", str(tmp_path / name))
        found, logits = build("extractor", "clip").load("cpu")(images())
        assert logits is None
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_dinov2_is_its_papers_transformer() -> None:
    dino_by_formula(dino_weights())


def test_dinov2_stretches_its_positions() -> None:
    """To 16x16 patches of 224x224 pixels; the class token's stays."""
    network = DinoViT(dino_weights())
    positions = network.positions(16)
    assert positions.shape == (1, 257, WIDTH)
    assert torch.equal(positions[:, 0], network.pos_embed[:, 0])
    ramp = torch.linspace(0, 1, 37).repeat(37, 1).reshape(1, -1, 1).expand(1, -1, WIDTH)
    network.pos_embed.data[:, 1:] = ramp
    middle = network.positions(16)[0, 1:, 0].view(16, 16)[8]
    torch.testing.assert_close(middle[2:-2], torch.linspace(0, 1, 16)[2:-2], atol=0.04, rtol=0)


@pytest.mark.parametrize("name", GIVEN)
def test_an_evaluation_names_the_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, weights, dimensions = GIVEN[name]
    monkeypatch.setattr(kind, "dimensions", dimensions)
    path = tmp_path / "given.safetensors"
    monkeypatch.setenv(kind.variable, str(path))
    config = EvaluateConfig(extractor=name, num_samples=300)
    digests = set()
    for scale in (1, 2):
        save_file({key: scale * value for key, value in weights().items()}, path)
        extractors.weights_hash.cache_clear()
        assert kind().here()
        digests.add(Protocol.of(config, load(Digits())).digest)
    assert len(digests) == 2
    found, _ = extractors.features(kind().load("cpu"), images()[:, :1], "cpu")
    assert found.shape == (3, dimensions)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.isfinite().all()


@pytest.mark.parametrize("name", GIVEN)
def test_weights_that_are_missing_or_others_end_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, weights, dimensions = GIVEN[name]
    monkeypatch.delenv(kind.variable, raising=False)
    config = override(EvaluateConfig(), {"extractor": name})
    assert not kind().here()
    with pytest.raises(UserError, match=rf"^{kind.variable}: is not set, and {name} needs the weights of .* Set it to"):
        Protocol.of(config, load(Digits()))
    path = tmp_path / "given.safetensors"
    monkeypatch.setenv(kind.variable, str(path))
    with pytest.raises(UserError, match=rf"^{kind.variable}: {path} is not a file\. Set it to the weights of"):
        Protocol.of(config, load(Digits()))
    whole = weights()
    save_file(whole, path)
    with pytest.raises(UserError, match=rf"^{path}: its network has {dimensions} features, and {name} has \d+\. Set "):
        kind().load("cpu")
    save_file(dict(list(whole.items())[1:]), path)
    for content in (None, b"PK\3\4", b""):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^{path}: not the weights of .* \(.*\)\. Set {kind.variable}") as caught:
            kind().load("cpu")
        assert "\n" not in str(caught.value)


def test_a_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.pth"
    torch.save({"visual.proj": Path("/")}, path)
    monkeypatch.setenv("HARNESS_CLIP", str(path))
    with pytest.raises(UserError, match=rf"^{path}: not the weights of CLIP"):
        ClipExtractor().load("cpu")
