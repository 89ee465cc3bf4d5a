"""Networks v(x, t, y). Importing this package registers them all."""

from harness.components.backbones import diffusers as diffusers
from harness.components.backbones import dit as dit
from harness.components.backbones import mlp as mlp
from harness.components.backbones import ncsnpp as ncsnpp
from harness.components.backbones import transformer as transformer
from harness.components.backbones import unet as unet
