"""Named random streams: every draw of the harness depends only on the seed and the draw's purpose."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a separate generator for one purpose, for example `stream(seed, "noise", step)`.

    Arms of a study that share a seed get the same draws (common random numbers). A resumed run needs no saved state:
    the draws of step 500 do not depend on earlier draws.
    """
    return torch.Generator(device).manual_seed(stream_seed(seed, *names))


def seed_layers(seed: int, device: str) -> None:
    """Seed the global generators, from which layers such as dropout draw.

    torch.manual_seed is not used: it formats a traceback for every kind of GPU that is absent.
    """
    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.manual_seed(seed)


def stream_seed(seed: int, *names: str | int) -> int:
    """Return the seed of a stream, in [0, 2^63)."""
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
