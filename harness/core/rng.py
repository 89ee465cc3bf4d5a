"""Named random streams: every draw of the harness is a function of the seed and of what it is for."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose, for example `stream(seed, "noise", step)`.

    Arms of a study that share a seed get the same draws (common random numbers), and a resumed run
    needs no saved state: step 500 draws the same whatever came before it.
    """
    return torch.Generator(device).manual_seed(stream_seed(seed, *names))


def seed_layers(seed: int, device: str) -> None:
    """Seed what layers such as dropout draw from. (torch.manual_seed formats a traceback for every absent GPU.)"""
    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.manual_seed(seed)


def stream_seed(seed: int, *names: str | int) -> int:
    """The 63-bit seed of a stream."""
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
