"""Sums by scene in, intervals and tests out.

Scenes are drawn, not turns: turns of one scene resemble each other, and an interval over turns would be too narrow.
Few scenes vary too little when drawn, so their percentiles are taken further out, as Student's t asks for (Hesterberg,
"What Teachers Should Know About the Bootstrap", 2015); of fewer than FEWEST nothing can be said.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from math import comb, sqrt
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

OUTSIDE = 0.05  # of true values may lie outside of an interval
FEWEST = 6  # scenes: where all of fewer agree, chance alone does so in more than one case of twenty
DETECTABLE = 1.96 + 0.84  # standard errors that a two-sided 5 % test finds with a chance of 80 %


class Interval(NamedTuple):
    """An estimate, its 95 % bootstrap interval, and the smallest true effect that this sample would show.

    Of fewer than FEWEST scenes the estimate alone.
    """

    estimate: float
    low: float | None = None
    high: float | None = None
    detectable: float | None = None


class Ratio(NamedTuple):
    """One number an item over another: bits over characters, a hit over one. `groups` name the scene of each item."""

    groups: Sequence[Hashable]
    numerators: Sequence[float]
    denominators: Sequence[float]


def ratio(of: Ratio) -> float | None:
    """The ratio of the sums: the corpus figure, never the mean of the items' own."""
    total = float(np.sum(of.denominators))
    return float(np.sum(of.numerators)) / total if total else None


def interval(terms: Sequence[tuple[float, Ratio]], draws: int, seed: int) -> Interval | None:
    """A bootstrap interval of a weighted sum of ratios, all drawn over the same scenes each time.

    One ratio: [(1, a)]; a paired difference: [(1, a), (-1, b)]. None where a ratio has nothing to divide by.
    """
    estimates = [ratio(of) for _, of in terms]
    if any(estimate is None for estimate in estimates):
        return None
    groups = list(dict.fromkeys(group for _, of in terms for group in of.groups))
    estimate = sum(weight * estimate for (weight, _), estimate in zip(terms, estimates, strict=True))
    if len(groups) < FEWEST:
        return Interval(estimate)
    samples = sum(weight * _resampled(of, groups, draws, seed) for weight, of in terms)
    return _interval(estimate, samples, share_below(len(groups)))


def share_below(groups: int) -> float:
    """The share of draws to leave out on either side: 0.025 of many scenes, less of few."""
    reach = sqrt(groups / (groups - 1)) * t.isf(OUTSIDE / 2, groups - 1)
    return float(norm.sf(reach))


def _resampled(of: Ratio, groups: list[Hashable], draws: int, seed: int) -> np.ndarray:
    """The ratio in each draw, [draws]; NaN where a draw holds nothing to divide by."""
    place = {group: i for i, group in enumerate(groups)}
    at = [place[group] for group in of.groups]
    sums = np.zeros((len(groups), 2))
    np.add.at(sums, at, np.column_stack([of.numerators, of.denominators]).astype(float))
    drawn = _draws(len(groups), draws, seed) @ sums
    return np.divide(drawn[:, 0], drawn[:, 1], out=np.full(draws, np.nan), where=drawn[:, 1] > 0)


@lru_cache(maxsize=32)
def _draws(groups: int, draws: int, seed: int) -> np.ndarray:
    """How often each of so many scenes is drawn, [draws, groups]; the same for every figure, so that figures pair."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(np.float32)


def _interval(estimate: float, samples: np.ndarray, below: float) -> Interval:
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return Interval(estimate, estimate, estimate, 0.0)
    low, high = np.quantile(samples, [below, 1 - below])
    return Interval(estimate, float(low), float(high), DETECTABLE * float(samples.std()))


def mcnemar(only_one: int, only_other: int) -> float:
    """Exact two-sided McNemar p of paired passes: how many passed by one alone, how many by the other alone."""
    total, fewer = only_one + only_other, min(only_one, only_other)
    return min(1.0, 2 * sum(comb(total, k) for k in range(fewer + 1)) / 2**total)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
