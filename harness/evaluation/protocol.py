"""Everything that makes two values of a metric comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.components.averages import Ema
from harness.core.config import Count, Index, digest, to_dict
from harness.core.errors import ConfigError
from harness.core.registry import sources
from harness.data.base import Data
from harness.evaluation.distances import TwoSample
from harness.evaluation.extractors import DIMENSIONS, INPUT, has_classifier, weights_hash
from harness.evaluation.fidelity import FID, ExtrapolatedFID
from harness.evaluation.metric import Metric
from harness.evaluation.reference import read_reference
from harness.flow.sampling import Guidance, SamplingConfig

EVALUATION_VERSION = 2
"""Raised by hand when a change of the code alters what the same evaluation gives.

2: held-out samples are drawn by class and carry their classes, and the digits classifier is trained on the new training digits;
fid_infinity draws its halves, mmd has several widths, c2st is a distance from 1/2, and authenticity counts no copy. Metrics of
the flow are given classes as sampling is. Stochastic solvers end their noise at t_min and never bring more of it than a step's
end has.
"""

SAYS_LITTLE = 0.05
"""A c2st that guessing exceeds says little of samples."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SamplingConfig):
    """How a trained network is sampled and judged."""

    nfe: tuple[Index, ...] = (1, 2, 4, 8, 16, 32)
    """Calls of the network for each sample, one evaluation each; 0 lets an adaptive solver choose, and counts them."""
    num_samples: Count = 50_000
    num_reference: Count | None = None
    """Training samples compared with, drawn once without replacement; null is 8 x num_samples, at most all of them:
    the reference's own sampling error then stays small beside the samples'."""
    reference: str | None = None
    """A file with the mean `mu` [D] and covariance `sigma` [D, D] of features (.npz), for FID against published statistics instead
    of the training samples."""
    extractor: Literal["digits", "inception", "values"] = "inception"
    """Network whose features are compared; `values` compares the decoded samples themselves."""
    metrics: tuple[Metric, ...] = (FID(),)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, values in (("nfe", self.nfe), ("metrics", [metric.name for metric in self.metrics])):
            if not values or len(set(values)) < len(values):
                raise ConfigError(field, f"{list(values)} is empty or names one twice. Name each once.")
        if self.reference is not None and self.num_reference is not None:
            raise ConfigError(
                "num_reference", "the file in evaluate.reference knows how many they were. Leave it null."
            )
        for field in ("num_samples", "num_reference"):
            if getattr(self, field) == 1:
                raise ConfigError(field, "one sample has no spread. Take two or more.")

    @property
    def every_nfe(self) -> tuple[int, ...]:
        return self.nfe

    def short_of_samples(self, data: Data) -> str | None:
        """What to know where FID is of fewer samples than features, or c2st of too few to say anything."""
        names, said = {metric.name for metric in self.metrics}, []
        dimensions, told = DIMENSIONS.get(self.extractor, 0), min(self.num_samples, num_reference(self, data))
        if FID.name in names and self.num_samples < dimensions:
            said.append(
                f"{self.num_samples} samples are fewer than the {dimensions} features: FID is far too high for samples and "
                "real ones alike. The score of resampled training samples is the bias; more samples lower it."
            )
        if ExtrapolatedFID.name in names and self.num_samples < 2 * dimensions:
            said.append(
                f"fid_infinity's halves of {self.num_samples} samples are fewer than the {dimensions} features, where the bias "
                f"does not yet fall as 1 / n: it can be far below 0. Take {2 * dimensions} or more."
            )
        if TwoSample.name in names and (guessing := TwoSample.guessing(told)) > SAYS_LITTLE:
            said.append(
                f"c2st of {told} samples and as many real ones: a forest that has learnt nothing scores up to {guessing:.2g}. "
                f"A value below that does not say that the samples are good: take {TwoSample.needed(SAYS_LITTLE)} or more."
            )
        return " ".join(said) or None


@dataclass(frozen=True)
class Protocol:
    """What an evaluation's values depend on beside the run itself. Two digests: two columns."""

    solver: dict
    time_grid: dict
    num_samples: int
    batch_size: int
    extractor: str
    weights: str
    """12 hex digits over the extractor's weights file."""
    resize: str
    """What the extractor makes of its images first; empty without one."""
    reference: dict
    """Fingerprint of the data set and how many of its training samples are compared with, or the hash of a file of statistics."""
    sampling: str
    """Noise, classes and precision of the samples and of the extractor."""
    version: int
    """`EVALUATION_VERSION`."""
    guidance: dict
    """Empty without."""
    metrics: dict
    """Parameters of the metrics where they are not the usual ones, by metric; empty where all are."""
    network: dict
    """Which average and which checkpoint; empty for the training's own average at its end."""
    sources: dict
    """{family.name: hash of its file} of solvers, grids and metrics that are not the harness's own."""

    @classmethod
    def of(cls, config: EvaluateConfig, data: Data) -> Protocol:
        """The protocol that a configuration means on a data set; reads (or downloads) the extractor's weights."""
        _refuse_unfit(config, data)
        return cls(
            solver=to_dict(config.solver, digested=True),
            time_grid=to_dict(config.time_grid, digested=True),
            num_samples=config.num_samples,
            batch_size=config.batch_size,
            extractor=config.extractor,
            weights="" if config.extractor == "values" else weights_hash(config.extractor),
            resize=INPUT.get(config.extractor, ""),
            reference=_reference(config, data),
            sampling="noise and classes by the run's seed, classes as often as in training; fp32",
            version=EVALUATION_VERSION,
            metrics={metric.name: chosen for metric in config.metrics if (chosen := _unusual(metric))},
            network=_network(config),
            guidance=guidance_of(config.guidance),
            sources=sources(config),
        )

    @property
    def digest(self) -> str:
        """12 hex digits that identify it; what is empty does not count."""
        return digest_of(vars(self))


def guidance_of(guidance: Guidance) -> dict:
    """Guidance as a protocol holds it."""
    return {} if guidance.scale == 1 else to_dict(guidance, digested=True)


def digest_of(protocol: Mapping[str, Any]) -> str:
    """The digest of a protocol's fields, as an evaluation's file holds them."""
    return digest({name: value for name, value in protocol.items() if value != {}})


def _reference(config: EvaluateConfig, data: Data) -> dict:
    if config.reference is None:
        return {**data.fingerprint, "images": num_reference(config, data)}
    return {"statistics": read_reference(config.reference, DIMENSIONS[config.extractor])[0]}


def _unusual(metric: Metric) -> dict:
    """The parameters of a metric that differ from its defaults."""
    usual = to_dict(type(metric)(), digested=True)
    chosen = to_dict(metric, digested=True)
    return {name: value for name, value in chosen.items() if name not in usual or value != usual[name]}


def _network(config: EvaluateConfig) -> dict:
    chosen = {"average": to_dict(config.average, digested=True), "checkpoint": config.checkpoint}
    return {} if chosen == {"average": to_dict(Ema(), digested=True), "checkpoint": "last"} else chosen


def _refuse_unfit(config: EvaluateConfig, data: Data) -> None:
    """`ConfigError` for an extractor or a metric that cannot read the data."""
    if config.extractor != "values" and data.kind != "image":
        raise ConfigError(
            "evaluate.extractor", f"{config.extractor} reads images, and these data are {data.kind}. Choose values."
        )
    if config.extractor == "digits" and data.shape[1:] != (8, 8):
        raise ConfigError("evaluate.extractor", "the digits classifier reads 8x8 images. Choose inception.")
    if config.reference and config.extractor == "values":
        raise ConfigError(
            "evaluate.reference", "its statistics are of an extractor's features. Set evaluate.extractor=inception."
        )
    compared_with = num_reference(config, data)
    for i, metric in enumerate(config.metrics):
        path, read = f"evaluate.metrics[{i}]", "values" if config.extractor == "values" else "features"
        if metric.kinds and data.kind not in metric.kinds:
            raise ConfigError(
                path,
                f"{metric.name} is for {' and '.join(metric.kinds)}, and these data are {data.kind}. Choose another.",
            )
        if config.reference and metric.reads != "flow" and metric.of_reference.summary not in ("fid", "logits"):
            raise ConfigError(
                path,
                f"{metric.name} needs the reference's samples, and evaluate.reference is a file of statistics. Leave it out.",
            )
        if metric.reads == "logits":
            if read == "values" or not has_classifier(config.extractor):
                lacks = "has no classifier" if read == "values" else "has weights without the classifier's (all zero)"
                raise ConfigError(
                    path,
                    f"{metric.name} reads logits, and evaluate.extractor={config.extractor} {lacks}. Leave it out.",
                )
        elif metric.reads not in (read, "either", "flow"):
            remedy = "evaluate.extractor=values" if metric.reads == "values" else "an extractor"
            raise ConfigError(
                path,
                f"{metric.name} reads {metric.reads}, and evaluate.extractor gives {read}. Choose {remedy} or another.",
            )
        if metric.needs_classes and data.classes is None:
            raise ConfigError(path, f"{metric.name} needs classes, and these data have none. Choose another.")
        try:
            metric.check_data(data, config.num_samples, compared_with)
        except ConfigError as error:
            raise error.below(path) from None


def num_reference(config: EvaluateConfig, data: Data) -> int:
    """How many training samples the samples are compared with."""
    wanted = config.num_reference or 8 * config.num_samples
    if config.num_reference and wanted > len(data.train):
        raise ConfigError(
            "evaluate.num_reference",
            f"{wanted} is more than the {len(data.train)} training samples. Give null or fewer.",
        )
    return min(wanted, len(data.train))
