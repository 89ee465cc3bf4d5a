"""Regular fractions of a full product of axes: which combinations run, and which effects they cannot tell apart.

Every axis has s levels, s a prime, numbered 0 to s - 1; the baseline's is 0. A fraction 1 / s^p holds the combinations
x that solve p equations `word . x = 0 mod s`. The sums of these words are the defining words. The number of axes in
the shortest one is the resolution. At III, main effects are aliased with interactions of two axes; at IV, only these
interactions with each other; from V on, neither (Box & Hunter 1961, Technometrics 3, 311; for s > 2 Wu & Hamada 2009,
chapter 6).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from harness.core.errors import UserError

Word = tuple[int, ...]
"""One coefficient per axis, mod s."""
Effect = tuple[int, ...]
"""Indices of the axes of an effect: one for a main effect, two for an interaction."""
MOST_CHOICES = 100_000
"""Largest number of sets of equations that are compared; it takes seconds."""


def equations(levels: Sequence[int], fraction: float) -> list[Word]:
    """Return the equations of the fraction with the least aliasing, for axes with these numbers of levels.

    It has minimum aberration: the fewest words of three axes, then of four, and so on (Fries & Hunter 1980,
    Technometrics 22, 601). Empty for a fraction of 1. `UserError` if no regular fraction has this size, or if every one
    aliases main effects with each other.
    """
    if fraction == 1:
        return []
    s = _prime(levels)
    number = round(math.log(1 / fraction, s)) if 0 < fraction < 1 else 0
    if number < 1 or abs(fraction * s**number - 1) > 1e-6:
        raise UserError(f"fraction: {fraction:g} is not 1/{s}, 1/{s**2} and so on. Write it like 1/{s}.")
    free = len(levels) - number
    others = [word for word in itertools.product(range(s), repeat=max(free, 0)) if _leading(word) == 1]
    others = [word for word in others if sum(map(bool, word)) > 1]
    if len(others) < number:
        raise UserError(
            f"fraction: 1/{s**number} of {len(levels)} axes cannot tell their main effects apart. Take a larger one."
        )
    if math.comb(len(others), number) > MOST_CHOICES:
        raise UserError(f"fraction: there are too many of 1/{s**number} to choose from. Take fewer axes.")
    added = np.eye(number, dtype=int) * (s - 1)  # each equation computes one of the last axes from the free ones

    def aliased(chosen: Iterable[Word]) -> list[int]:
        lengths = np.count_nonzero(words(np.hstack([np.array(list(chosen)), added]), s), axis=1)
        return np.bincount(lengths, minlength=len(levels) + 1).tolist()

    best = min(itertools.combinations(others, number), key=aliased)
    return [tuple(row) for row in np.hstack([np.array(best), added]).tolist()]


def words(of: Sequence[Word] | np.ndarray, s: int) -> np.ndarray:
    """Return the defining words [number, axes] of equations; of a word's multiples, only one."""
    sums = [weights for weights in itertools.product(range(s), repeat=len(of)) if _leading(weights) == 1]
    return np.array(sums) @ np.asarray(of) % s


def resolution(of: Sequence[Word], s: int) -> int:
    """Return the resolution: the number of axes in the shortest defining word."""
    return int(np.count_nonzero(words(of, s), axis=1).min())


def solves(combination: Sequence[int], of: Sequence[Word], s: int) -> bool:
    """Whether a combination, given as the numbers of its levels, belongs to the fraction."""
    return all(sum(a * x for a, x in zip(word, combination, strict=True)) % s == 0 for word in of)


def aliases(of: Sequence[Word], s: int) -> list[list[Effect]]:
    """Return groups of main effects and two-axis interactions that the fraction cannot tell apart.

    With three levels or more, an interaction has several parts, and each part can be in a group.
    """
    axes = len(of[0])
    runs = np.array([x for x in itertools.product(range(s), repeat=axes) if solves(x, of, s)])
    groups: dict[Word, list[Effect]] = {}
    for size in (1, 2):
        for places in itertools.combinations(range(axes), size):
            for last in range(1, s) if size == 2 else [1]:
                part = runs[:, places] @ np.array([1, last][:size]) % s
                groups.setdefault(_scaled(part.tolist(), s), []).append(places)
    return [group for group in groups.values() if len(group) > 1]


def _prime(levels: Sequence[int]) -> int:
    """Return the number of levels of every axis; `UserError` if the numbers differ or are not prime."""
    s = levels[0]
    if len({*levels}) > 1 or any(s % divisor == 0 for divisor in range(2, s)):
        told = ", ".join(map(str, levels))
        raise UserError(
            f"fraction: the axes have {told} levels, and a regular fraction needs the same prime number of each. Leave "
            "it out for all combinations, or change the levels."
        )
    return s


def _leading(word: Sequence[int]) -> int:
    """Return the first coefficient that is not 0; 0 if all are 0."""
    return next(filter(None, word), 0)


def _scaled(word: Sequence[int], s: int) -> Word:
    """Return the multiple of a word whose first coefficient that is not 0 is 1."""
    return tuple(pow(_leading(word), -1, s) * x % s for x in word)
