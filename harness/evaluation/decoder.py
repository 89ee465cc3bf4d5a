"""Decoder of latents to images, so that extractors read the images: an AutoencoderKL that the user names."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.core.errors import ConfigError, Diverged, UserError
from harness.core.files import short_hash
from harness.data.base import Data
from harness.data.images import decode

FILES = ("config.json", "diffusion_pytorch_model.safetensors")
"""What the folder of an autoencoder holds, in diffusers' layout."""
AT_ONCE = 16
"""Latents that are decoded together; the decoder's activations are far larger than they."""
Decoder = Callable[[Tensor], Tensor]
"""Maps latents as stored, [B, C, h, w] on any device, to uint8 images [B, 3, H, W] on the decoder's device."""


def decoder_given() -> bool:
    """Whether the user names a decoder."""
    return bool(os.environ.get("HARNESS_VAE"))


def check_decoder(data: Data) -> None:
    """Raise `ConfigError` unless HARNESS_VAE names a decoder of these latents, with their scale and shift."""
    config = _config(_folder())
    theirs = config.get("scaling_factor", 0.18215), config.get("shift_factor") or 0.0
    ours = (data.statistics["scale"].item(), data.statistics["shift"].item())
    if any(abs(a - b) > 1e-6 for a, b in zip(theirs, ours, strict=True)):
        reason = (
            f"the decoder has scale {theirs[0]:g} and shift {theirs[1]:g}, the data have {ours[0]:g} and {ours[1]:g}"
        )
        advice = "Store latents as the encoder gives them, and set dataset.scale and dataset.shift to the decoder's."
        raise ConfigError("", f"{reason}. {advice}")
    if (channels := config.get("latent_channels", 4)) != data.shape[0]:
        reason = f"the decoder reads {channels} channels, and the latents have {data.shape[0]}"
        raise ConfigError("", f"{reason}. Set HARNESS_VAE to their autoencoder.")


def decoder_hash() -> str:
    """Return the hash (12 hex digits) of the decoder's configuration and weights, read once per process."""
    return _hash(_folder())


@functools.cache
def load_decoder(device: str) -> Decoder:
    """Load the decoder on a device, once per process; `UserError` if diffusers is missing or a file is damaged."""
    folder = _folder()
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise UserError("HARNESS_VAE: decoding needs the package diffusers. Run: pip install diffusers") from error
    try:
        autoencoder, read = AutoencoderKL.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        if read["missing_keys"]:  # diffusers leaves these weights random
            raise KeyError(min(read["missing_keys"]))
    except Exception as error:  # diffusers and safetensors raise many types
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{folder}: not an AutoencoderKL of diffusers ({reason}). Fetch it again.") from error
    autoencoder = autoencoder.to(device).requires_grad_(False).eval()

    @torch.no_grad()
    def decoder(latents: Tensor) -> Tensor:
        if not latents.isfinite().all():
            raise Diverged("the samples cannot be judged: some are not finite.")
        return torch.cat([decode(autoencoder.decode(z.to(device)).sample) for z in latents.float().split(AT_ONCE)])

    return decoder


def _folder() -> Path:
    """Return the folder of the autoencoder in HARNESS_VAE, which may name the weights there."""
    place = Path(os.environ["HARNESS_VAE"])
    folder = place.parent if place.name == FILES[1] else place
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        advice = "Set it to a folder of an AutoencoderKL as diffusers saves it."
        raise UserError(f"HARNESS_VAE: {folder / missing[0]} does not exist. {advice}")
    return folder


def _config(folder: Path) -> dict:
    try:
        found = json.loads((folder / FILES[0]).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / FILES[0]}: cannot be read ({error}). Fetch it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{folder / FILES[0]}: is not the configuration of an AutoencoderKL. Fetch it again.")
    return found


@functools.cache
def _hash(folder: Path) -> str:
    return short_hash(b"".join((folder / name).read_bytes() for name in FILES))
