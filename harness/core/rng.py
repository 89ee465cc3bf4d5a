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


class Streams:
    """The streams of one step after another: a generator for each purpose, which every step seeds anew.

    `Streams(seed, 5)("noise")` draws as `stream(seed, "noise", 5)` does. The generators stay the same objects, so that
    a CUDA graph can draw from them.
    """

    def __init__(self, seed: int, step: int = 0, device: torch.device | str = "cpu"):
        self.seed = seed
        self.device = device
        self.generators: dict[str, torch.Generator] = {}
        self.step = step

    def begin(self, step: int) -> None:
        """Seed the generators for a step."""
        self.step = step
        for name, generator in self.generators.items():
            generator.manual_seed(stream_seed(self.seed, name, step))

    def __call__(self, name: str) -> torch.Generator:
        """Return the generator of a purpose; a second call in a step goes on where the first ended."""
        if name not in self.generators:
            self.generators[name] = stream(self.seed, name, self.step, device=self.device)
        return self.generators[name]


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
