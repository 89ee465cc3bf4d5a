"""Users' extractors: in a file, named in `evaluate.extractor`, used by metrics, and part of the protocol."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from typed import tensor

from harness.cli import main
from harness.core import registry
from harness.core.config import override, parse_assignments, to_dict
from harness.core.errors import ConfigError, UserError
from harness.core.registry import load_plugin, names, sources
from harness.data.base import Data, load
from harness.data.images import Digits
from harness.evaluation import extractors
from harness.evaluation.judge import Judge, SampleBatch
from harness.evaluation.metric import reference_rows
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.runs.config import RunConfig

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path

from torch.nn.functional import avg_pool2d

from harness.evaluation.extractors import Extractor


@dataclass(frozen=True, kw_only=True)
class BlockMeans(Extractor, name="block_means"):
    """Means over blocks of 4x4 pixels."""

    dimensions = 4
    resize = "8x8 as they are"

    def load(self, device):
        return lambda images: (avg_pool2d(images.float().mean(1, keepdim=True), 4).flatten(1), None)
'''
WEIGHED = '''

@dataclass(frozen=True, kw_only=True)
class Weighed(BlockMeans, name="weighed"):
    """The same, times a number in a file."""

    def weights(self):
        return Path(__file__).with_name("weights.txt")


@dataclass(frozen=True, kw_only=True)
class Wide(BlockMeans, name="wide"):
    """A setting that nobody can give."""

    width: int
'''
CONFIG = EvaluateConfig(num_samples=300, batch_size=100)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file of extractors; the registry forgets them afterwards."""
    names("extractor")
    monkeypatch.setitem(registry._MEMBERS, "extractor", dict(registry._MEMBERS["extractor"]))
    for cached in (extractors.load_extractor, extractors.weights_hash):
        cached.cache_clear()
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN + WEIGHED)
    load_plugin(path)
    return path


@pytest.fixture
def data() -> Data:
    return load(Digits())


def block_means(images: Tensor) -> np.ndarray:
    """float64 [N, 4] of grey 8x8 images, by reshaping."""
    return images.double().reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4).numpy()


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Heusel et al. 2017, eq. 6."""
    a = np.cov(x.T)
    b = np.cov(y.T)
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real))


def test_samples_are_judged_by_a_users_extractor(plugin: Path, data: Data) -> None:
    config = override(CONFIG, {"extractor": "block_means", "metrics": ["fid", "precision"]})
    judge = Judge(config, data, "cpu")
    samples = tensor(data.held_out)[:300]
    found = judge([SampleBatch(images) for images in samples.split(100)])
    real = data.train[reference_rows(data, len(data.train))]
    assert found["fid"] == pytest.approx(frechet(block_means(samples), block_means(real)), rel=1e-4)
    assert 0.5 < found["precision"] <= 1


def test_its_file_is_part_of_the_protocol(plugin: Path, data: Data) -> None:
    config = override(CONFIG, {"extractor": "block_means"})
    protocol = Protocol.of(config, data)
    source = hashlib.sha256(plugin.read_bytes()).hexdigest()[:12]
    assert (protocol.extractor, protocol.weights, protocol.resize) == ("block_means", "", "8x8 as they are")
    assert protocol.sources == sources(config) == {"extractor.block_means": source}
    plugin.write_text(plugin.read_text().replace(", 4).flatten", ", 4).square().flatten"))
    assert Protocol.of(config, data).digest != protocol.digest
    assert Protocol.of(override(CONFIG, {"extractor": "digits"}), data).sources == {}


def test_it_is_named_like_the_harness_s_extractors(plugin: Path, tiny: RunConfig) -> None:
    """From the command line, from JSON, and in Python."""
    config = override(tiny, parse_assignments(["evaluate.extractor=block_means"]))
    assert config.evaluate.extractor == "block_means"
    assert to_dict(config)["evaluate"]["extractor"] == "block_means"
    assert RunConfig.parse(to_dict(config)) == config
    refused = {
        "value": "'value' is not a known extractor. Did you mean 'values'?",
        "block_mean": "'block_mean' is not a known extractor. Did you mean 'block_means'?",
        "wide": "width of wide has no default. Give it one in its class: an extractor is chosen by its name only.",
    }
    for name, said in refused.items():
        with pytest.raises(ConfigError) as caught:
            override(tiny, {"evaluate.extractor": name})
        assert str(caught.value) == f"evaluate.extractor: {said}"
    with pytest.raises(ConfigError, match=r"^evaluate\.extractor: expected a text"):
        override(tiny, {"evaluate.extractor": {"name": "block_means"}})


def test_its_weights_are_hashed_and_missed(plugin: Path, data: Data) -> None:
    config = override(CONFIG, {"extractor": "weighed"})
    weights = plugin.with_name("weights.txt")
    with pytest.raises(UserError) as caught:
        Protocol.of(config, data)
    reason = "cannot be read (No such file or directory). Put the weights of weighed there."
    assert str(caught.value) == f"{weights}: {reason}"
    weights.write_text("2")
    assert Protocol.of(config, data).weights == hashlib.sha256(b"2").hexdigest()[:12]


def test_metrics_that_it_cannot_serve_are_refused(plugin: Path, data: Data) -> None:
    with pytest.raises(ConfigError) as caught:
        Protocol.of(override(CONFIG, {"extractor": "block_means", "metrics": ["isc"]}), data)
    reason = "isc reads logits, and evaluate.extractor=block_means has no classifier. Leave it out."
    assert str(caught.value) == f"evaluate.metrics[0]: {reason}"
    points = Data(torch.zeros(99, 3), torch.zeros(9, 3), torch.Tensor.float, torch.Tensor.float, "points")
    with pytest.raises(
        ConfigError, match=r"^evaluate\.extractor: block_means reads images, and these data are points\."
    ):
        Protocol.of(override(CONFIG, {"extractor": "block_means"}), points)


def test_check_tests_its_promises(tmp_path: Path, plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = (tmp_path / f"{name}.py" for name in ("good", "bad"))
    good.write_text(PLUGIN.replace("block_means", "means_good"))
    bad.write_text(PLUGIN.replace("block_means", "means_bad").replace("dimensions = 4", "dimensions = 5"))
    assert main(["check", str(good)]) == 0
    assert "extractor means_good: " in capsys.readouterr().out
    assert main(["check", str(bad)]) == 2
    assert "broken: extractor means_bad: features are float32 of shape [B, 5] (grey images)" in capsys.readouterr().out
