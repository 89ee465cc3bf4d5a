"""Networks v(x, t). Importing this package registers them all."""

from harness.components.backbones import mlp as mlp
from harness.components.backbones import unet as unet
