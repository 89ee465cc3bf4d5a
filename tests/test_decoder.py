"""Latents are decoded for an extractor by the autoencoder that the user names, and the protocol says by which."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.core import registry
from harness.core.config import override
from harness.core.errors import ConfigError, Diverged, UserError
from harness.core.registry import build, load_plugin, names
from harness.data.base import Data
from harness.evaluation import decoder as module
from harness.evaluation import extractors
from harness.evaluation.judge import Judge, SampleBatch
from harness.evaluation.protocol import EvaluateConfig, Protocol

PLUGIN = '''
from dataclasses import dataclass

from harness.evaluation.extractors import Extractor


@dataclass(frozen=True, kw_only=True)
class Means(Extractor, name="channel_means"):
    """Means of colours."""

    dimensions = 3

    def load(self, device):
        return lambda images: (images.float().mean((2, 3)), None)
'''
CONFIG = EvaluateConfig(num_samples=8, batch_size=5, extractor="values", metrics=("mmd",))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one of random weights: latents [4, h, w] to images [3, 2h, 2w]."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    small: Any = AutoencoderKL(
        **blocks, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, latent_channels=4
    )
    small.save_pretrained(folder)
    return folder


@pytest.fixture
def latents(
    autoencoder: Path, tmp_path: Path, needed: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Data:
    """Twenty latents [4, 2, 2]; HARNESS_VAE names a copy of the autoencoder, and a user's extractor is loaded."""
    names("extractor")
    monkeypatch.setitem(registry._MEMBERS, "extractor", dict(registry._MEMBERS["extractor"]))
    for cached in (extractors.load_extractor, extractors.weights_hash, module.load_decoder, module._hash):
        cached.cache_clear()
    (tmp_path / "mine.py").write_text(PLUGIN)
    load_plugin(tmp_path / "mine.py")
    monkeypatch.setenv("HARNESS_VAE", str(shutil.copytree(autoencoder, tmp_path / "vae")))
    return build("dataset", {"name": "latents", **needed("latents")}).load()


def by_hand(folder: Path, stored: Tensor) -> Tensor:
    """uint8 images of unscaled latents."""
    from diffusers import AutoencoderKL

    decoded = AutoencoderKL.from_pretrained(folder).decode(stored).sample
    return ((decoded.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def test_extractors_read_the_decoded_images(latents: Data, tmp_path: Path) -> None:
    config = override(CONFIG, {"extractor": "channel_means", "metrics": ["precision"]})
    judge = Judge(config, latents, "cpu")
    stored = latents.train[torch.arange(10)]
    means = by_hand(tmp_path / "vae", stored).float().mean((2, 3))
    rows = judge._extract(SampleBatch(stored), 0)
    assert means.std() > 0.1
    torch.testing.assert_close(rows["read"], means, atol=0.3, rtol=0)
    whole = judge.reference["whole"]["features"]
    real = by_hand(tmp_path / "vae", latents.train[torch.arange(len(latents.train))])
    assert torch.allclose(torch.from_numpy(whole), real.float().mean((2, 3)), atol=0.3)
    with pytest.raises(Diverged, match="some are not finite"):
        judge._extract(SampleBatch(stored * torch.nan), 0)


def test_the_protocol_holds_the_decoder(latents: Data, tmp_path: Path) -> None:
    config = override(CONFIG, {"extractor": "channel_means", "metrics": ["precision"]})
    one = Protocol.of(config, latents)
    assert set(one.decoder) == {"sha256"}
    assert Protocol.of(config, latents, weights=False).decoder == Protocol.of(CONFIG, latents).decoder == {}
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    module._hash.cache_clear()
    assert Protocol.of(config, latents).digest != one.digest


def test_a_file_in_the_folder_names_it_too(latents: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_of_folder = module.decoder_hash()
    monkeypatch.setenv("HARNESS_VAE", str(tmp_path / "vae" / "diffusion_pytorch_model.safetensors"))
    assert module.decoder_hash() == hash_of_folder


def refusal(latents: Data) -> str:
    with pytest.raises(ConfigError) as caught:
        Protocol.of(override(CONFIG, {"extractor": "channel_means", "metrics": ["precision"]}), latents)
    return str(caught.value)


def test_latents_without_their_decoder_are_refused(
    latents: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = replace(latents, statistics={"scale": torch.tensor(1.0), "shift": torch.tensor(0.0)})
    said = "evaluate.extractor: the decoder has scale 0.18215 and shift 0, the data have 1 and 0. Store latents as "
    assert refusal(scale).startswith(said)
    fewer = replace(latents, known_shape=(3, 2, 2))
    assert "the decoder reads 4 channels, and the latents have 3." in refusal(fewer)
    config = tmp_path / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 0.3, "shift_factor": 0.1}))
    assert "the decoder has scale 0.3 and shift 0.1, the data have 0.18215 and 0." in refusal(latents)
    monkeypatch.delenv("HARNESS_VAE")
    assert refusal(latents) == (
        "evaluate.extractor: channel_means reads images, and these data are latents. Set HARNESS_VAE to the folder of "
        f"their autoencoder. Without it: {extractors.JUDGE_VALUES}"
    )


def test_decoded_latents_are_no_digits(latents: Data) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.extractor: the digits classifier reads 8x8 images, not decoded"):
        Protocol.of(override(CONFIG, {"extractor": "digits"}), latents)


def opened(latents: Data) -> module.Decoder:
    module.check_decoder(latents)
    return module.load_decoder("cpu")


@pytest.mark.parametrize("damage", ["no config", "no weights", "config", "weights", "other weights"])
def test_a_damaged_decoder_ends_in_one_line(
    damage: str, latents: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "config.json" if "config" in damage else "diffusion_pytorch_model.safetensors"
    place = tmp_path / "vae" / name
    if damage.startswith("no"):
        place.unlink()
    else:
        place.write_bytes(b"{" if "other" not in damage else b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match=rf"{tmp_path / 'vae'}") as caught:
        opened(latents)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_told(latents: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"^HARNESS_VAE: decoding needs the package diffusers\. Run: pip install diff"):
        module.load_decoder("cpu")
