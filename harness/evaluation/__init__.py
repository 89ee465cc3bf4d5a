"""Metrics and protocols. An import of this package registers every metric."""

from harness.evaluation import distances as distances
from harness.evaluation import fidelity as fidelity
from harness.evaluation import flow_metrics as flow_metrics
from harness.evaluation import likelihood as likelihood
from harness.evaluation import profiles as profiles
from harness.evaluation import vision as vision
