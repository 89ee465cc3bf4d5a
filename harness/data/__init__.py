"""Data sets. Importing this package registers them all."""

from harness.data import images as images
from harness.data import points as points
