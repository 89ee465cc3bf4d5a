"""Configuration and protocol of an evaluation: everything that must agree before two metric values are compared."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.components.averages import Ema
from harness.components.noises import Noise
from harness.core.config import ADDED, Calls, Config, Count, Seed, digest, to_dict
from harness.core.errors import ConfigError, did_you_mean
from harness.core.registry import names, sources
from harness.data.base import Data
from harness.evaluation.decoder import decoder_hash
from harness.evaluation.extractors import VALUES, Extractor, extractor_of, weights_hash
from harness.evaluation.fidelity import FID
from harness.evaluation.flow_metrics import FlowMetric
from harness.evaluation.metric import Comparison, Metric, SampleMetric
from harness.evaluation.reference import read_reference
from harness.flow.sampling import Guidance, SamplingConfig

EVALUATION_VERSION = 2
"""Version of the evaluation code; raise it by hand when a change alters the values of the same evaluation.

2: held-out samples are drawn by class and carry their classes, and the digits classifier is trained on the new training
digits; fid_infinity draws its halves, mmd has several widths, c2st is a distance from 1/2, and authenticity counts no
copy. Flow metrics get classes in the same way as sampling. Stochastic solvers stop adding noise at t_min and never add
more than the noise level at the end of a step.
"""


@dataclass(frozen=True, kw_only=True)
class MoreSamples(Config):
    """An NFE at which more samples are judged than elsewhere."""

    nfe: Calls
    num_samples: Count


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SamplingConfig):
    """How a trained network is sampled and judged."""

    nfe: tuple[Calls, ...] = (1, 2, 4, 8, 16, 32)
    """Network calls per sample; each entry is one evaluation. 0: an adaptive solver chooses and counts them."""
    num_samples: Count = 50_000
    more_samples: tuple[MoreSamples, ...] = field(default=(), metadata=ADDED)
    """NFEs with more samples, for less sampling error; mostly the NFE of a study's verdicts. Their first `num_samples`
    are also judged separately: many metrics fall with the number of samples, so NFEs are compared at equal numbers."""
    sampling_seed: Seed = field(default=0, metadata=ADDED)
    """Seed of noise and classes, besides the run's seed. Another one judges the same network on other samples."""
    precision: Literal["fp32", "tf32", "bf16"] = field(default="fp32", metadata=ADDED)
    """Precision of the network in sampling. Pairs for reflow, metrics of the flow and features are always in fp32."""
    noise: Noise | None = field(default=None, metadata=ADDED)
    """Noise that sampling starts from; null is the noise of training. Pairs for reflow always start from the latter."""
    num_reference: Count | None = None
    """Training samples in the reference, drawn once without replacement. null: 8 x the largest number of samples at an
    NFE, at most all training samples. The reference's sampling error is then small next to the samples'."""
    reference: str | None = None
    """A file with the mean `mu` [D] and covariance `sigma` [D, D] of features (.npz), for FID against published
    statistics instead of the training samples."""
    extractor: str = field(default="inception", metadata={"family": "extractor"})
    """Network whose features are compared, by name; `values` compares the decoded samples themselves."""
    metrics: tuple[Metric, ...] = (FID(),)

    def __post_init__(self) -> None:
        super().__post_init__()
        for path, values in (("nfe", self.nfe), ("metrics", [metric.name for metric in self.metrics])):
            if not values or len(set(values)) < len(values):
                raise ConfigError(path, f"{list(values)} is empty or names one twice. Name each once.")
        self._check_extractor()
        self._check_more_samples()
        if self.reference is not None and self.num_reference is not None:
            raise ConfigError(
                "num_reference", "the reference is the file in evaluate.reference. Leave num_reference null."
            )
        for path in ("num_samples", "num_reference"):
            if getattr(self, path) == 1:
                raise ConfigError(path, "one sample has no spread. Take two or more.")

    @functools.cached_property
    def flow_metrics(self) -> tuple[FlowMetric, ...]:
        """Metrics of the flow itself; each has an NFE that does not depend on `nfe`."""
        return tuple(metric for metric in self.metrics if isinstance(metric, FlowMetric))

    @functools.cached_property
    def sample_metrics(self) -> tuple[SampleMetric, ...]:
        """Metrics of samples, computed at every NFE."""
        return tuple(metric for metric in self.metrics if isinstance(metric, SampleMetric))

    @functools.cached_property
    def more(self) -> tuple[MoreSamples, ...]:
        """Entries of `more_samples` above `num_samples`: a user may have raised `num_samples` above a scale's entry."""
        return tuple(more for more in self.more_samples if more.num_samples > self.num_samples)

    @functools.cached_property
    def places(self) -> tuple[tuple[str, int], ...]:
        """(metric, NFE) of every value that is asked for, in the order of `metrics`."""
        at = {metric.name: (metric.nfe,) for metric in self.flow_metrics}
        return tuple((metric.name, nfe) for metric in self.metrics for nfe in at.get(metric.name, self.nfe))

    @functools.cached_property
    def digest(self) -> str:
        """Digest of every setting, also of those that no protocol covers."""
        return digest(to_dict(self))

    @property
    def every_nfe(self) -> tuple[int, ...]:
        return self.nfe

    def samples_at(self, nfe: int) -> int:
        """Return the number of samples at an NFE."""
        return next((more.num_samples for more in self.more if more.nfe == nfe), self.num_samples)

    @property
    def every_number(self) -> tuple[int, ...]:
        """Every number of samples that metrics read, the smallest first."""
        return tuple(sorted({self.num_samples, *(more.num_samples for more in self.more)}))

    def _check_more_samples(self) -> None:
        """Raise `ConfigError` if two entries of `more_samples` have the same NFE."""
        for i, more in enumerate(self.more_samples):
            if more.nfe in (other.nfe for other in self.more_samples[:i]):
                raise ConfigError(f"more_samples[{i}].nfe", f"{more.nfe} is named twice. Name each NFE once.")

    def _check_extractor(self) -> None:
        """Raise `ConfigError` if no extractor has this name.

        Do not look up the default: that would load packaged plugins while the harness itself is being imported.
        """
        if self.extractor in (EvaluateConfig.extractor, VALUES):
            return
        if self.extractor not in (known := names("extractor")):
            advice = did_you_mean(self.extractor, [*known, VALUES])
            raise ConfigError("extractor", f"{self.extractor!r} is not a known extractor. {advice}")
        try:
            extractor_of(self.extractor)
        except ConfigError as error:
            reason = f"{error.path.rpartition('.')[2]} of {self.extractor} has no default"
            advice = "Give it one in its class: an extractor is chosen by its name only."
            raise ConfigError("extractor", f"{reason}. {advice}") from None


@dataclass(frozen=True)
class Protocol:
    """Everything that an evaluation's values depend on, except the run. Each digest has its own table column."""

    solver: dict
    time_grid: dict
    num_samples: int
    batch_size: int
    extractor: str
    weights: str
    """12 hex digits over the extractor's weights file."""
    resize: str
    """How the extractor resizes images, in words; empty without an extractor."""
    reference: dict
    """Fingerprint of the data set and number of training samples in the reference, or hash of a file of statistics."""
    sampling: str
    """Noise, classes and precision of the samples. The extractor is in fp32."""
    version: int
    """`EVALUATION_VERSION`."""
    guidance: dict
    """Empty without guidance."""
    metrics: dict
    """{metric: {parameter: value}} of parameters that differ from the defaults."""
    network: dict
    """Weight average and checkpoint; empty for the defaults, the training's own average and the last checkpoint."""
    sources: dict
    """{family.name: hash of its file} of a user's solver, time grid, metrics and extractor."""
    more_samples: dict = field(default_factory=dict)
    """{NFE as text: number of samples} of NFEs with more than `num_samples`."""
    noise: dict = field(default_factory=dict)
    """Noise that sampling starts from, if it is not the noise of training."""
    decoder: dict = field(default_factory=dict)
    """Hash of the autoencoder that decodes latents for the extractor; empty if it reads the samples themselves."""

    @classmethod
    def of(cls, config: EvaluateConfig, data: Data, weights: bool = True) -> Protocol:
        """Return the protocol of a configuration on a data set; this reads (or downloads) the extractor's weights.

        Without `weights` it reads none, and the protocol identifies no evaluation: for commands that only train.
        `ConfigError` if the extractor or a metric cannot read the data.
        """
        _refuse_unfit(config, data, weights)
        extractor = extractor_of(config.extractor)
        return cls(
            weights=weights_hash(extractor.name) if extractor and weights else "",
            resize="" if extractor is None else extractor.resize,
            reference=_reference(config, data, extractor),
            decoder={"sha256": decoder_hash()} if extractor and weights and data.kind == "latents" else {},
            **of_settings(config),
        )

    @functools.cached_property
    def digest(self) -> str:
        """12 hex digits that identify the protocol; empty fields do not count."""
        return digest_of(self.plain)

    @property
    def plain(self) -> dict[str, Any]:
        """{field: value}"""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def is_that_of(self, plain: Mapping[str, Any]) -> bool:
        """Whether these fields, read from an evaluation's file, have the digest of this protocol."""
        return plain == self.plain or digest_of(plain) == self.digest


def of_settings(config: EvaluateConfig) -> dict[str, Any]:
    """The fields of a protocol that follow from the settings alone, without the data and the extractor's weights."""
    again = f" and sampling seed {config.sampling_seed}" if config.sampling_seed else ""
    return {
        "solver": to_dict(config.solver, digested=True),
        "time_grid": to_dict(config.time_grid, digested=True),
        "num_samples": config.num_samples,
        "batch_size": config.batch_size,
        "extractor": config.extractor,
        "sampling": f"noise and classes by the run's seed{again}, classes as often as in training; {config.precision}",
        "version": EVALUATION_VERSION,
        "metrics": {metric.name: chosen for metric in config.metrics if (chosen := _unusual(metric))},
        "network": _network(config),
        "guidance": guidance_of(config.guidance),
        "sources": sources(config),
        "more_samples": {str(more.nfe): more.num_samples for more in config.more},
        "noise": to_dict(config.noise, digested=True) | config.noise.fingerprint() if config.noise else {},
    }


def guidance_of(guidance: Guidance) -> dict:
    """Return guidance as a protocol holds it: {} for scale 1."""
    return {} if guidance.scale == 1 else to_dict(guidance, digested=True)


def digest_of(protocol: Mapping[str, Any]) -> str:
    """Return the digest of a protocol's fields, as an evaluation's file holds them."""
    return digest({name: value for name, value in protocol.items() if value != {}})


def _reference(config: EvaluateConfig, data: Data, extractor: Extractor | None) -> dict:
    if config.reference is None:
        return {**data.fingerprint, "images": num_reference(config, data)}
    assert extractor is not None
    return {"statistics": read_reference(config.reference, extractor.dimensions)[0]}


def _unusual(metric: Metric) -> dict:
    """Return the parameters of a metric that differ from its defaults."""
    usual = to_dict(type(metric)(), digested=True)
    chosen = to_dict(metric, digested=True)
    return {name: value for name, value in chosen.items() if name not in usual or value != usual[name]}


def _network(config: EvaluateConfig) -> dict:
    chosen = {"average": to_dict(config.average, digested=True), "checkpoint": config.checkpoint}
    return {} if chosen == {"average": to_dict(Ema(), digested=True), "checkpoint": "last"} else chosen


def _refuse_unfit(config: EvaluateConfig, data: Data, weights: bool) -> None:
    """Raise `ConfigError` if the extractor or a metric cannot read the data; some metrics ask the weights for it."""
    if (extractor := extractor_of(config.extractor)) is not None:
        try:
            extractor.check(data)
        except ConfigError as error:
            raise error.below("evaluate.extractor") from None
    elif config.reference:
        reason = "its statistics are of an extractor's features. Set evaluate.extractor=inception."
        raise ConfigError("evaluate.reference", reason)
    if config.noise is not None:
        try:
            config.noise.check(data)
        except ConfigError as error:
            raise error.below("evaluate") from None
    for given in comparisons(config, data):
        for i, metric in enumerate(config.metrics):
            if not weights and isinstance(metric, SampleMetric) and metric.reads == "logits":
                continue
            try:
                metric.check_data(given)
            except ConfigError as error:
                raise error.below(f"evaluate.metrics[{i}]") from None


def comparisons(config: EvaluateConfig, data: Data) -> list[Comparison]:
    """Return the comparisons of a configuration on a data set, one per number of samples, the smallest first."""
    read = extractor_of(config.extractor)
    real = num_reference(config, data)
    return [Comparison(data, read, number, real, bool(config.reference)) for number in config.every_number]


def num_reference(config: EvaluateConfig, data: Data) -> int:
    """Return the number of training samples in the reference; `ConfigError` if the data set has fewer."""
    wanted = config.num_reference or 8 * config.every_number[-1]
    if config.num_reference and wanted > len(data.train):
        reason = f"{wanted} is more than the {len(data.train)} training samples. Give null or fewer."
        raise ConfigError("evaluate.num_reference", reason)
    return min(wanted, len(data.train))
