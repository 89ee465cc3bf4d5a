"""The metric `mine`."""

from dataclasses import dataclass

import numpy as np

from harness.evaluation.distances import standardised
from harness.evaluation.metric import SampleMetric, Summary


@dataclass(frozen=True, kw_only=True)
class Mine(SampleMetric, name="mine"):
    """The largest difference between the means of a feature of generated and real samples, in standard deviations."""

    lower_is_better = True
    reads = "either"

    def compare(self, samples: Summary, reference: Summary) -> float:
        """Return the value for generated and real samples, whose "features" are [N, ...] and [M, ...]."""
        generated, real = standardised(samples, reference)
        return float(np.abs(generated.mean(0) - real.mean(0)).max())
