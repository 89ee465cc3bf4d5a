"""Couplings: transport costs, unchanged inputs, and fixed pairs from files."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from harness.components import couplings
from harness.components.couplings import (
    ClassConditionalOT,
    Coupling,
    ExactOT,
    Independent,
    Pairs,
    Sinkhorn,
    transport_cost,
)
from harness.core import reading
from harness.core.config import digest
from harness.core.errors import ConfigError, UserError
from harness.core.registry import build, find, names

COUPLINGS = {name: build("coupling", name) for name in ("independent", "exact_ot", "sinkhorn", "class_conditional_ot")}
PERMUTATIONS = ("exact_ot", "class_conditional_ot", "independent")
every_coupling = pytest.mark.parametrize("coupling", COUPLINGS.values(), ids=COUPLINGS)
every_transport = pytest.mark.parametrize(
    "coupling", [c for c in COUPLINGS.values() if not c.independent], ids=lambda c: c.name
)
DRAWS = 300
every_seed = pytest.mark.parametrize("seed", range(3))


def batch(n: int = 64, shape: tuple[int, ...] = (3,), seed: int = 0, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return data in clusters, noise and classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    x0 = 0.3 * torch.randn(n, *shape, generator=generator) + y.view(-1, *[1] * len(shape)) - classes / 2
    return x0, torch.randn(n, *shape, generator=generator), y


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def partners(coupling: Coupling, x0: Tensor, x1: Tensor, y: Tensor | None = None, seed: int = 0) -> list[int]:
    """Return the row of x1 paired with each row of x0; rows of x1 must differ."""
    data, noise, _ = coupling.pair(x0, x1, generator(seed), y)
    assert torch.equal(data, x0)
    found = (noise[:, None] == x1[None]).flatten(2).all(2)
    assert (found.sum(1) == 1).all()
    return found.int().argmax(1).tolist()


def squared_distances(x0: Tensor, x1: Tensor) -> np.ndarray:
    a = x0.double().flatten(1).numpy()
    b = x1.double().flatten(1).numpy()
    return ((a[:, None] - b[None]) ** 2).sum(2)


def sinkhorn_plan(x0: Tensor, x1: Tensor, reg: float) -> np.ndarray:
    cost = squared_distances(x0, x1)
    n = len(x0)
    return ot.bregman.sinkhorn_log(
        np.full(n, 1 / n), np.full(n, 1 / n), cost, reg * np.median(cost), numItermax=20_000, stopThr=1e-10
    )


def rows_of(coupling: Sinkhorn, x0: Tensor, x1: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return the probabilities of its draws."""
    draw = Mock(wraps=torch.multinomial)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", draw)
        coupling.pair(x0, x1, generator())
    return draw.call_args_list[0].args[0]


def test_every_member_is_tested_here() -> None:
    own = {name for name in names("coupling") if find("coupling", name).__module__.startswith("harness.")}
    assert own == set(COUPLINGS) | {"pairs"}


# cost


def test_the_transport_cost_is_the_mean_squared_distance_of_the_pairs() -> None:
    x0, x1, _ = batch(5, (2, 3))
    expected = np.mean([np.sum((a - b) ** 2) for a, b in zip(x0.numpy(), x1.numpy(), strict=True)])
    assert transport_cost(x0, x1).item() == pytest.approx(expected, rel=1e-6)


@every_seed
@pytest.mark.parametrize("shape", [(3,), (1, 8, 8)], ids=str)
def test_costs_are_in_order(seed: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """exact_ot <= sinkhorn (mean over draws) <= independent; class_conditional_ot lies between exact_ot and
    independent.
    """
    x0, x1, y = batch(48, shape, seed)
    exact, conditional, drawn = (
        transport_cost(*COUPLINGS[name].pair(x0, x1, generator(), y)[:2]) for name in PERMUTATIONS
    )
    assert exact < conditional < drawn
    distances = torch.from_numpy(squared_distances(x0, x1))
    little, much = ((rows_of(Sinkhorn(reg=reg), x0, x1, monkeypatch) * distances).sum(1).mean() for reg in (0.05, 0.5))
    assert exact < little < much < distances.mean()


@every_seed
@pytest.mark.parametrize("n", [1, 2, 17, 128])
def test_exact_ot_is_scipys_assignment(seed: int, n: int) -> None:
    x0, x1, _ = batch(n, (2, 2), seed)
    assert partners(ExactOT(), x0, x1) == linear_sum_assignment(squared_distances(x0, x1))[1].tolist()


@every_seed
@pytest.mark.parametrize("name", ["exact_ot", "class_conditional_ot"])
def test_a_transport_that_ends_early_is_reported_once(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The test lowers the iteration limit below the need of 300 pairs. With the usual limit, the pairs are SciPy's,
    with the smallest sum.
    """
    x0, x1, _ = batch(300, (2,), seed)
    y = torch.zeros(300, dtype=torch.long)
    cost = squared_distances(x0, x1)
    rows, columns = linear_sum_assignment(cost)
    least = cost[rows, columns].sum()
    reading.say_once.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(couplings, "EXACT_ITERATIONS", 300)
        early = [cost[rows, partners(COUPLINGS[name], x0, x1, y)].sum() for _ in range(3)]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("coupling: optimal transport of 300 pairs ended early (")
    assert min(early) > 1.001 * least
    assert cost[rows, partners(COUPLINGS[name], x0, x1, y)].sum() == pytest.approx(least, rel=1e-9)
    assert capfd.readouterr().err == ""


def test_the_limit_is_far_above_what_large_batches_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,096 pairs need more than POT's default of 100,000 iterations."""
    solve = Mock(wraps=ot.emd)
    monkeypatch.setattr(ot, "emd", solve)
    ExactOT().pair(*batch(8)[:2], generator())
    assert solve.call_args.kwargs["numItermax"] >= 10_000_000


@pytest.mark.filterwarnings("error")
def test_a_sinkhorn_that_does_not_converge_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    x0, x1, _ = batch(48, (2,))
    reading.say_once.cache_clear()
    Sinkhorn(reg=0.05).pair(x0, x1, generator())
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(couplings, "ENTROPIC_ITERATIONS", 1)
    for _ in range(3):
        Sinkhorn(reg=0.01).pair(x0, x1, generator())
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("coupling.reg: Sinkhorn's iterations did not converge")


@every_seed
def test_exact_ot_in_one_dimension_sorts(seed: int) -> None:
    x0, x1, _ = batch(64, (1,), seed)
    data, noise, _ = ExactOT().pair(x0, x1, generator())
    assert torch.equal(noise[data[:, 0].argsort(), 0], x1[:, 0].sort().values)


def test_ties_still_give_a_permutation() -> None:
    points = torch.tensor([[0.0], [0], [1], [1], [1], [2], [2], [2]])
    for x0, x1 in ((points, points.flip(0)), (torch.zeros(8, 1), points), (points, torch.zeros(8, 1))):
        noise = ExactOT().pair(x0, x1, generator())[1]
        assert torch.equal(noise.sort(0).values, x1.sort(0).values)
    assert transport_cost(*ExactOT().pair(points, points.flip(0), generator())[:2]) == 0


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    """In float32, squares of 1e4 hide differences of 1e-2."""
    x0 = 1e4 + 1e-2 * torch.arange(16.0)[:, None]
    x1 = x0[torch.randperm(16, generator=generator())]
    assert transport_cost(*ExactOT().pair(x0, x1, generator())[:2]) == 0


# Unchanged inputs


@every_coupling
@pytest.mark.parametrize("shape", [(3,), (1, 8, 8)], ids=str)
@pytest.mark.parametrize("n", [1, 33])
def test_data_and_so_classes_stay_and_noise_is_the_batchs(coupling: Coupling, shape: tuple[int, ...], n: int) -> None:
    x0, x1, y = batch(n, shape)
    before = x0.clone(), x1.clone(), y.clone()
    data, noise, _ = coupling.pair(x0, x1, generator(), y)
    assert torch.equal(data, before[0])
    assert (noise.shape, noise.dtype) == (x1.shape, x1.dtype)
    assert all(torch.equal(*pair) for pair in zip((x0, x1, y), before, strict=True))
    chosen = partners(coupling, x0, x1, y)
    if not isinstance(coupling, Sinkhorn):
        assert sorted(chosen) == list(range(n))


@every_coupling
def test_the_generator_alone_decides(coupling: Coupling) -> None:
    x0, x1, y = batch()
    first, again, other = (coupling.pair(x0, x1, generator(seed), y)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (not isinstance(coupling, Sinkhorn))


def test_only_the_independent_coupling_declares_independence() -> None:
    assert [name for name, coupling in COUPLINGS.items() if coupling.independent] == ["independent"]
    x0, x1, y = batch()
    assert partners(Independent(), x0, x1, y) == list(range(64))


@every_seed
def test_exact_ot_does_not_depend_on_the_order_of_rows(seed: int) -> None:
    """Data and noise in another order, as from other ranks, give the same pairs."""
    x0, x1, _ = batch(40, (2,), seed)
    p, q = (torch.randperm(40, generator=generator(10 * seed + i)) for i in (1, 2))
    assert torch.equal(ExactOT().pair(x0[p], x1[q], generator())[1], ExactOT().pair(x0, x1, generator())[1][p])


@every_seed
def test_class_conditional_ot_does_not_depend_on_the_order_of_rows(seed: int) -> None:
    """Noise belongs to the class of its row, so a permutation moves all, or acts within a class."""
    x0, x1, y = batch(40, (2,), seed)
    coupled = ClassConditionalOT().pair(x0, x1, generator(), y)[1]
    p = torch.randperm(40, generator=generator(10 * seed))
    assert torch.equal(ClassConditionalOT().pair(x0[p], x1[p], generator(), y[p])[1], coupled[p])
    within = torch.arange(40)
    of_class = (y == 1).nonzero()[:, 0]
    within[of_class] = of_class.flip(0)
    assert torch.equal(ClassConditionalOT().pair(x0, x1[within], generator(), y)[1], coupled)


@every_seed
def test_sinkhorns_plan_does_not_depend_on_the_order_of_rows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x0, x1, _ = batch(24, (2,), seed)
    p, q = (torch.randperm(24, generator=generator(10 * seed + i)) for i in (1, 2))
    plan = rows_of(Sinkhorn(reg=0.2), x0, x1, monkeypatch)
    moved = rows_of(Sinkhorn(reg=0.2), x0[p], x1[q], monkeypatch)
    torch.testing.assert_close(moved, plan[p][:, q], rtol=1e-3, atol=1e-6)


# sinkhorn


def frequencies(coupling: Sinkhorn, x0: Tensor, x1: Tensor, draws: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Return how often each row of x0 gets each row of x1; the constant plan is computed once."""
    solve = ot.sinkhorn
    plan: list[np.ndarray] = []

    def once(*args: object, **options: object) -> np.ndarray:
        if not plan:
            plan.append(solve(*args, **options))
        return plan[0]

    monkeypatch.setattr(ot, "sinkhorn", once)
    counts = np.zeros((len(x0), len(x1)))
    rows = np.arange(len(x0))
    for draw in range(draws):
        counts[rows, partners(coupling, x0, x1, seed=draw)] += 1
    return counts / draws


@pytest.mark.parametrize("reg", [0.05, 0.5])
def test_sinkhorn_draws_from_the_rows_of_pots_plan(reg: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x0, x1, _ = batch(6, (2,), seed=1)
    expected = 6 * sinkhorn_plan(x0, x1, reg)
    np.testing.assert_allclose(rows_of(Sinkhorn(reg=reg), x0, x1, monkeypatch), expected, atol=1e-5)
    measured = frequencies(Sinkhorn(reg=reg), x0, x1, DRAWS, monkeypatch)
    np.testing.assert_allclose(expected.sum(1), 1, atol=1e-6)
    assert (np.abs(measured - expected) <= 4.5 * np.sqrt(expected * (1 - expected).clip(0) / DRAWS) + 1e-3).all()


def test_sinkhorn_gives_every_noise_the_same_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's columns sum to 1 / n, so over many draws the noise keeps its distribution."""
    x0, x1, _ = batch(6, (2,), seed=2)
    shares = rows_of(Sinkhorn(), x0, x1, monkeypatch).mean(0)
    np.testing.assert_allclose(shares, 1 / 6, atol=2e-4)


def test_much_regularisation_is_close_to_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    x0, x1, _ = batch(6, (2,), seed=3)
    np.testing.assert_allclose(rows_of(Sinkhorn(reg=1e3), x0, x1, monkeypatch), 1 / 6, atol=2e-3)


@every_seed
def test_little_regularisation_is_close_to_exact_ot(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x0, x1, _ = batch(12, (4,), seed)
    cost = (
        (rows_of(Sinkhorn(reg=0.02), x0, x1, monkeypatch) * torch.from_numpy(squared_distances(x0, x1))).sum(1).mean()
    )
    assert cost.item() == pytest.approx(transport_cost(*ExactOT().pair(x0, x1, generator())[:2]).item(), rel=0.03)


@pytest.mark.parametrize("reg", [0.05, 0.01, 1e-3, 1e-4])
def test_whatever_regularisation_is_accepted_keeps_the_noises_distribution(
    reg: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sinkhorn stops after a number of iterations. While its columns are uneven, some noise would be
    drawn too often.
    """
    try:
        coupling = Sinkhorn(reg=reg)
    except ConfigError:
        return
    x0, x1, _ = batch(48, (2,))
    shares = rows_of(coupling, x0, x1, monkeypatch).sum(0)
    torch.testing.assert_close(shares, torch.ones_like(shares), rtol=0, atol=0.03)


@pytest.mark.parametrize("reg", [0.05, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_regularisation_is_in_medians_of_the_squared_distances(
    reg: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x0, x1, _ = batch(16, (4,))
    plan, scaled = (rows_of(Sinkhorn(reg=reg), k * x0, k * x1, monkeypatch) for k in (1, scale))
    torch.testing.assert_close(scaled, plan, rtol=1e-3, atol=1e-6)


# within classes


@every_seed
def test_class_conditional_ot_is_exact_ot_within_each_class(seed: int) -> None:
    x0, x1, y = batch(50, (2, 2), seed)
    chosen = torch.tensor(partners(ClassConditionalOT(), x0, x1, y))
    assert torch.equal(y[chosen], y)
    for label in range(4):
        rows = (y == label).nonzero()[:, 0]
        columns = linear_sum_assignment(squared_distances(x0[rows], x1[rows]))[1]
        assert torch.equal(chosen[rows], rows[columns])


def test_the_number_of_classes_decides_between_exact_ot_and_independent() -> None:
    x0, x1, _ = batch(20)
    assert partners(ClassConditionalOT(), x0, x1, torch.full((20,), 7)) == partners(ExactOT(), x0, x1)
    assert partners(ClassConditionalOT(), x0, x1, torch.arange(20) * 3 - 8) == list(range(20))


def test_class_conditional_ot_needs_classes() -> None:
    x0, x1, _ = batch(8)
    for attempt in (
        lambda: ClassConditionalOT().pair(x0, x1, generator()),
        lambda: ClassConditionalOT().check((3,), classes=0),
    ):
        with pytest.raises(ConfigError, match=r"^coupling: class_conditional_ot needs the classes"):
            attempt()
    ClassConditionalOT().check((3,), classes=3)
    for other in (Independent(), ExactOT(), Sinkhorn()):
        other.check((3,), classes=0)


# Batches that cannot be paired


@every_transport
@pytest.mark.parametrize(("n", "m", "features"), [(8, 6, 3), (6, 8, 3), (8, 8, 2)])
def test_batches_of_other_sizes_cannot_be_paired(coupling: Coupling, n: int, m: int, features: int) -> None:
    x0, _, y = batch(n)
    x1 = torch.randn(m, features, generator=generator())
    with pytest.raises(UserError, match=r"^coupling: .* cannot be paired"):
        coupling.pair(x0, x1, generator(), y)


@pytest.mark.parametrize("reg", [0, -1])
def test_sinkhorn_needs_regularisation(reg: float) -> None:
    with pytest.raises(ConfigError, match=r"^reg: "):
        Sinkhorn(reg=reg)


# pairs from a file


def write_pairs(folder: Path, n: int = 10, shape: tuple[int, ...] = (3,), start: int = 0) -> Pairs:
    """Write rows whose noise is minus its data, all different."""
    folder.mkdir(exist_ok=True)
    x0 = np.arange(start + 1, start + 1 + n * math.prod(shape), dtype=np.float32).reshape(n, *shape)
    np.save(folder / "x0.npy", x0)
    np.save(folder / "x1.npy", -x0)
    return Pairs(path=str(folder))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)], ids=str)
def test_pairs_keep_their_rows_together_and_are_drawn_evenly(shape: tuple[int, ...], tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 10, shape)
    x0, x1, _ = batch(4000, shape)
    data, noise, _ = pairs.pair(x0, x1, generator())
    assert (data.shape, data.dtype, noise.shape, noise.dtype) == (x0.shape, torch.float32, x1.shape, torch.float32)
    assert torch.equal(noise, -data)
    size = math.prod(shape)
    rows = (data.flatten(1)[:, 0] - 1) / size
    assert torch.equal(data.flatten(1), rows[:, None] * size + torch.arange(1, size + 1))
    assert np.abs(np.bincount(rows.long(), minlength=10) - 400).max() < 5 * math.sqrt(4000 * 0.1 * 0.9)


def test_pairs_depend_on_the_generator_alone(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 50)
    first, again, other = (
        pairs.pair(*batch(16, seed=seed)[:2], generator(s))[0] for seed, s in ((0, 1), (7, 1), (0, 2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (tmp_path / "pairs" / "x0.npy").exists()
    first.zero_()  # a copy: the file does not change
    assert torch.equal(pairs.pair(*batch(16)[:2], generator(1))[0], again)


def test_pairs_of_another_shape_are_refused(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    pairs.check((3,), classes=0)
    pairs.check(torch.Size([3]), classes=3)
    x = torch.zeros(4, 1, 8, 8)
    for attempt in (lambda: pairs.check((1, 8, 8), classes=0), lambda: pairs.pair(x, x, generator())):
        with pytest.raises(ConfigError, match=r"^coupling\.path: .*pairs holds .* shape \[3\], .* \[1, 8, 8\]\. "):
            attempt()


def test_pairs_bring_the_classes_of_their_data(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    x0, x1, y = batch(50)
    assert pairs.pair(x0, x1, generator(), y)[2] is None
    np.save(tmp_path / "pairs" / "y.npy", 100 + np.arange(10))
    data, _, classes = pairs.pair(x0, x1, generator(), y)
    assert classes is not None
    assert torch.equal(classes, 100 + ((data[:, 0] - 1) / 3).long())
    assert "y.npy" in pairs.fingerprint()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, r"has no y\.npy with the classes of x0\. Add it, or set objective\.label_dropout=null\."),
        (np.arange(10), r"has classes from 0 to 9, but the data have 3 classes, counted from 0\. .*"),
        (np.arange(10) % 3 - 1, r"has classes from -1 to 1, but the data have 3 classes, counted from 0\. .*"),
        (np.zeros(9, np.int64), r"needs one class \(int64\) for each row of x0\.npy\. Make it again\."),
        (np.zeros(10, np.float32), r"needs one class \(int64\) for each row of x0\.npy\. Make it again\."),
    ],
    ids=["none", "too-many", "negative", "too-few", "floats"],
)
def test_classes_of_pairs_that_the_network_does_not_have_are_refused(
    classes: np.ndarray | None, message: str, tmp_path: Path
) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    if classes is not None:
        np.save(tmp_path / "pairs" / "y.npy", classes)
    with pytest.raises(ConfigError, match=rf"^coupling\.path: .*{message}$"):
        pairs.check((3,), classes=3, conditional=True)
    if classes is None:
        pairs.check((3,), classes=3)


def test_the_fingerprint_is_the_contents(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "a")
    first = pairs.fingerprint()
    assert set(first) == {"x0.npy", "x1.npy"}
    assert all(re.fullmatch(r"[0-9a-f]{12}", value) for value in first.values())
    assert write_pairs(tmp_path / "b").fingerprint() == first
    assert digest(Pairs(path=str(tmp_path / "b"))) == digest(pairs)
    x1 = np.load(tmp_path / "a" / "x1.npy")
    x1[-1, -1] += 1
    np.save(tmp_path / "a" / "x1.npy", x1)
    changed = pairs.fingerprint()
    assert changed["x0.npy"] == first["x0.npy"]
    assert changed["x1.npy"] != first["x1.npy"]
    assert Independent().fingerprint() == ExactOT().fingerprint() == {}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"x0": [1.0]}))


def archived(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x0=np.zeros((10, 3), np.float32))


def both(content: Any) -> Callable[[Path], object]:
    """Return a function that writes one array to both files."""

    def write(path: Path) -> None:
        for name in ("x0.npy", "x1.npy"):
            np.save(path.parent / name, content)

    return write


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "no-array": lambda path: path.write_text("these are no numbers"),
    "cut": cut,
    "cut-in-the-header": cut_in_the_header,
    "pickled": pickled,
    "objects": lambda path: np.save(path, np.array([[{}] * 3] * 10), allow_pickle=True),
    "archive": archived,
    "no-rows": both(np.zeros((0, 3), np.float32)),
    "one-number": both(np.float32(1)),
    "fewer-rows": lambda path: np.save(path, np.zeros((9, 3), np.float32)),
    "other-shape": lambda path: np.save(path, np.zeros((10, 4), np.float32)),
    "doubles": lambda path: np.save(path, np.zeros((10, 3))),
    "whole-numbers": lambda path: np.save(path, np.zeros((10, 3), np.int32)),
}


@pytest.mark.parametrize("name", ["x0.npy", "x1.npy"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_files_without_pairs_are_refused(damage: Callable[[Path], object], name: str, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    damage(tmp_path / "pairs" / name)
    x0, x1, _ = batch(4)
    attempts = [lambda: pairs.check((3,), classes=0), pairs.fingerprint, lambda: pairs.pair(x0, x1, generator())]
    for attempt in attempts:
        with pytest.raises(ConfigError, match=r"^coupling\.path: .*pairs.*\. (Give|Make) "):
            attempt()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^coupling\.path: .*nowhere cannot be read .*No such file"):
        Pairs(path=str(tmp_path / "nowhere")).check((3,), classes=0)
    with pytest.raises(ConfigError, match=r"path: "):
        build("coupling", "pairs")
