"""Regular fractions of a product of axes: published designs, and their aliases by brute force."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from harness.ablation.design import fractions
from harness.core.errors import UserError

RESOLUTIONS = {
    (3, 1): 3, (4, 1): 4, (5, 1): 5, (5, 2): 3, (6, 1): 6, (6, 2): 4, (6, 3): 3, (7, 1): 7, (7, 2): 4, (7, 3): 4,
    (7, 4): 3, (8, 2): 5, (8, 3): 4, (8, 4): 4,
}  # fmt: skip
"""{(axes, p): resolution of the best 2^(axes - p)}, Box, Hunter & Hunter 2005, table 6.22"""
LENGTHS = {(5, 2): [3, 3, 4], (6, 2): [4, 4, 4], (6, 3): [3] * 4 + [4] * 3, (7, 2): [4, 5, 5], (8, 2): [5, 5, 6]}
"""{(axes, p): axes of the words of the minimum aberration design}, Fries & Hunter 1980; Wu & Hamada 2009, table 5A"""


def combinations(of: Sequence[fractions.Word], s: int) -> np.ndarray:
    """Return the numbers of the levels [runs, axes]."""
    every = itertools.product(range(s), repeat=len(of[0]))
    return np.array([x for x in every if fractions.solves(x, of, s)])


def test_half_of_four_axes_aliases_as_in_the_literature() -> None:
    """I = ABCD (Box, Hunter & Hunter 2005, chapter 6): AB = CD, AC = BD, AD = BC; no main effect is
    aliased with these.
    """
    (word,) = fractions.equations([2] * 4, 1 / 2)
    assert word == (1, 1, 1, 1)
    assert fractions.aliases([word], 2) == [[(0, 1), (2, 3)], [(0, 2), (1, 3)], [(0, 3), (1, 2)]]


@pytest.mark.parametrize(("axes", "number"), RESOLUTIONS)
def test_two_levels_have_the_published_resolution(axes: int, number: int) -> None:
    of = fractions.equations([2] * axes, 0.5**number)
    assert len(combinations(of, 2)) == 2 ** (axes - number)
    assert fractions.resolution(of, 2) == RESOLUTIONS[axes, number]
    lengths = sorted(np.count_nonzero(fractions.words(of, 2), axis=1).tolist())
    assert lengths == LENGTHS.get((axes, number), lengths)


@pytest.mark.parametrize(("s", "axes", "number"), [(2, 7, 4), (3, 3, 1), (3, 4, 2), (5, 4, 2)])
def test_every_two_axes_have_each_pair_of_levels_as_often(s: int, axes: int, number: int) -> None:
    """An orthogonal array of strength two: Latin squares for three levels, Taguchi's L9 for four axes. The run with all
    first levels is in it.
    """
    runs = combinations(fractions.equations([s] * axes, s**-number), s)
    assert not runs[0].any()
    for one, other in itertools.combinations(range(axes), 2):
        counts = Counter(map(tuple, runs[:, [one, other]].tolist()))
        assert counts == dict.fromkeys(itertools.product(range(s), repeat=2), s ** (axes - number - 2))


@pytest.mark.parametrize(("s", "axes", "number"), [(2, 5, 1), (2, 5, 2), (2, 6, 2), (3, 3, 1), (3, 4, 1), (3, 4, 2)])
def test_aliased_effects_are_those_that_are_not_orthogonal(s: int, axes: int, number: int) -> None:
    """The test compares the spaces of functions on the runs that belong to each effect, without equations."""
    of = fractions.equations([s] * axes, s**-number)
    runs = combinations(of, s)
    sums = np.vstack([np.eye(s - 1), -np.ones(s - 1)])
    codes: dict[tuple[int, ...], np.ndarray] = {(axis,): sums[runs[:, axis]] for axis in range(axes)}
    for one, other in itertools.combinations(range(axes), 2):
        product = codes[one,][:, :, None] * codes[other,][:, None, :]
        codes[one, other] = product.reshape(len(runs), -1)
    for a, b in itertools.combinations(codes, 2):
        aliased = any(a in group and b in group for group in fractions.aliases(of, s))
        assert aliased == (np.abs(codes[a].T @ codes[b]).max() > 1e-9), (a, b)


@pytest.mark.parametrize(
    ("levels", "fraction", "why"),
    [
        ([2] * 4, 0.3, r"0\.3 is not 1/2, 1/4 and so on"),
        ([3] * 3, 1 / 2, r"0\.5 is not 1/3, 1/9 and so on"),
        ([2] * 4, 2.0, r"2 is not 1/2"),
        ([2] * 4, 0.0, r"0 is not 1/2"),
        ([2] * 4, 1 / 4, r"1/4 of 4 axes cannot tell their main effects apart"),
        ([2] * 2, 1 / 2, r"1/2 of 2 axes cannot tell"),
        ([2, 3, 2], 1 / 2, r"the axes have 2, 3, 2 levels"),
        ([4] * 3, 1 / 4, r"the axes have 4, 4, 4 levels"),
        ([2] * 12, 1 / 16, r"there are too many of 1/16"),
    ],
)
def test_a_fraction_that_is_not_regular_is_refused(levels: list[int], fraction: float, why: str) -> None:
    with pytest.raises(UserError, match=f"^fraction: {why}"):
        fractions.equations(levels, fraction)
