"""Networks of the library diffusers: a class by its name, with arguments of yours."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.components.backbones.base import Backbone, Network
from harness.core.config import Positive
from harness.core.errors import ConfigError, did_you_mean, in_a_line, not_installed
from harness.core.fields import untyped
from harness.core.reading import Damaged, parse, short


@dataclass(frozen=True, kw_only=True)
class Diffusers(Backbone, name="diffusers"):
    """A network of the library diffusers for images or latents [C, H, W]; the extra `hub` installs it.

    The library counts timesteps from 0 at the data to 1000 at the noise; the network gets `time_scale` t. Channels,
    size and number of classes come from the data. The last row of the class embedding stands for no class. The network
    returns C channels: learned variances have no meaning here. DiT drops no classes of its own in training;
    `objective.label_dropout` does.
    """

    source: ClassVar[str] = "Hugging Face diffusers (von Platen et al. 2022)"

    model: Literal["UNet2DModel", "DiTTransformer2DModel"] = "UNet2DModel"
    """Class of the network; DiTTransformer2DModel takes square images."""
    config: str
    """Arguments of the class, as a mapping or its JSON text, like {"block_out_channels": [32, 64]}; all others have the
    library's defaults."""
    time_scale: Positive = 1000.0
    """Factor that multiplies t in [0, 1]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", _canonical(self.config))
        super().__post_init__()

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        _require_fit(self, tuple(data_shape), num_classes)
        return self._network(data_shape, num_classes)

    def _network(self, data_shape: Sequence[int], num_classes: int) -> DiffusersModule:
        made = self._class()
        return DiffusersModule(made(**self._arguments(made, data_shape, num_classes)), self.time_scale, num_classes)

    def _class(self) -> type[nn.Module]:
        try:
            import diffusers

            return getattr(diffusers, self.model)
        except (ImportError, RuntimeError) as error:  # diffusers imports a class when it is first used
            raise ConfigError("", not_installed("diffusers", error)) from None

    def _arguments(self, made: type[nn.Module], data_shape: Sequence[int], num_classes: int) -> dict[str, Any]:
        """Return all arguments of the class; `ConfigError` for an unknown one, or one that contradicts the data."""
        given = parse(self.config)
        known = list(inspect.signature(made).parameters)
        for name in given:
            if name not in known:
                raise ConfigError(f"config.{name}", f"{self.model} has no such argument. {did_you_mean(name, known)}")
        due = self._due(data_shape, num_classes)
        for name, value in due.items():
            if name in given and given[name] != value:
                reason = f"{short(given[name])} is not {short(value)}, as the data and continuous times require"
                raise ConfigError(f"config.{name}", f"{reason}. Leave it out.")
        return given | due

    def _due(self, data_shape: Sequence[int], num_classes: int) -> dict[str, Any]:
        """Return the arguments that follow from the data, and from times that are not whole numbers."""
        channels, height, width = data_shape
        size = height if height == width else [height, width]
        shared = {"in_channels": channels, "out_channels": channels, "sample_size": size}
        if self.model == "DiTTransformer2DModel":  # adds the row for no class itself
            return shared | {"num_embeds_ada_norm": num_classes}
        classes = {"num_class_embeds": num_classes + 1 if num_classes else None, "class_embed_type": None}
        return shared | classes | {"time_embedding_type": "positional"}


class DiffusersModule(Network):
    """The network of a `Diffusers`; `model` is the library's."""

    def __init__(self, model: nn.Module, time_scale: float, num_classes: int):
        from diffusers.models.embeddings import LabelEmbedding

        super().__init__()
        self.model = model
        self.time_scale = time_scale
        self.num_classes = num_classes
        self.told = bool(num_classes)
        for module in model.modules():
            if isinstance(module, LabelEmbedding):
                module.dropout_prob = 0.0
                self.told = True

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1] and y [B] to [B, C, H, W]."""
        assert y is None or self.num_classes, "a network without classes was given some"
        if not self.told:
            labels = None
        elif y is None:
            labels = torch.full_like(t, self.num_classes, dtype=torch.long)
        else:  # a number that is not a class must not become the row for no class
            labels = torch.where(y < 0, self.num_classes, y + (y >= self.num_classes))
        return self.model(x, self.time_scale * t, class_labels=labels, return_dict=False)[0]


def _canonical(given: Any) -> str:
    """Return the canonical JSON text of a mapping or of its JSON text; `ConfigError` for anything else."""
    try:
        arguments = parse(given if isinstance(given, str) else json.dumps(untyped(given), allow_nan=False))
    except (Damaged, TypeError, ValueError) as error:
        raise ConfigError("config", f"{short(given)} cannot be read ({error}). Write it as JSON.") from None
    if not isinstance(arguments, Mapping):
        advice = 'Write it like {"block_out_channels": [32, 64]}.'
        raise ConfigError("config", f"expected a mapping of arguments, got {short(given)}. {advice}")
    return json.dumps(arguments, sort_keys=True)


@functools.lru_cache(maxsize=64)
def _require_fit(config: Diffusers, shape: tuple[int, ...], num_classes: int) -> None:
    """Raise `ConfigError` if the network cannot be built or called, or changes the shape; no weights are made."""
    if len(shape) != 3:
        raise ConfigError("", f"diffusers takes images [C, H, W], not {list(shape)}. Choose another backbone.")
    if config.model == "DiTTransformer2DModel" and shape[1] != shape[2]:
        raise ConfigError("model", f"{config.model} takes square images, not {shape[1]}x{shape[2]}. Choose another.")
    samples = list(shape)
    try:
        with torch.device("meta"), torch.no_grad():
            found = list(config._network(shape, num_classes)(torch.empty(2, *shape), torch.empty(2)).shape[1:])
    except ConfigError:
        raise
    except Exception as error:  # whatever the library raises for its arguments
        reason = f"{config.model} fails on samples {samples}: {in_a_line(error)}"
        raise ConfigError("config", f"{reason.rstrip('.')}. Change its arguments.") from None
    if found != samples:
        raise ConfigError("config", f"{config.model} returns {found} for samples {samples}. Change its arguments.")
