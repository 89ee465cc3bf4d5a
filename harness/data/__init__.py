"""Data sets. Importing this package registers them all."""

from harness.data import cells as cells
from harness.data import folders as folders
from harness.data import hub as hub
from harness.data import images as images
from harness.data import latents as latents
from harness.data import points as points
from harness.data import sequences as sequences
from harness.data import vectors as vectors
