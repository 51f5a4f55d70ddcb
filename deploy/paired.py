"""Bits of the same held-out scenes under two settings in, differences with intervals and verdicts out.

Every array of bits is [seeds, scenes]: a row is one training, a column one scene of the frozen exam. Seeds and scenes
cross (each training meets the same scenes), so a draw weighs seeds, then scenes, once for both settings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stages.intervals import DETECTABLE, holm

ALPHA = 0.05
WITHIN = 1.96  # standard errors to either side that hold all but ALPHA
ENOUGH_SEEDS = 3  # fewer trainings cannot tell a setting from its luck


class Difference(NamedTuple):
    """Bits per character of one setting minus another's: negative is better.

    `p` is two-sided, `detectable` the smallest true difference that this sample would show in 80 % of cases even as
    the first of all that are compared (Bonferroni's level), `by_seed` the difference of each pair of trainings.
    """

    estimate: float
    low: float
    high: float
    p: float
    detectable: float
    by_seed: tuple[float, ...]


def per_character(bits: np.ndarray, characters: np.ndarray) -> float:
    """The mean over seeds of all bits over all characters."""
    return float(bits.sum(axis=1).mean() / characters.sum())


def difference(
    one: np.ndarray, other: np.ndarray, characters: np.ndarray, draws: int, seed: int, comparisons: int = 1
) -> Difference:
    """`one` minus `other`, [seeds, scenes] each over [scenes] characters; `comparisons` are judged together."""
    gaps, total = one - other, characters.sum()
    seeds, scenes = gaps.shape
    rng = np.random.Generator(np.random.PCG64(seed))
    by_scene = weights(seeds, draws, rng) @ gaps
    means = by_scene.sum(axis=1) / total
    beyond = by_scene - means[:, None] * characters  # a ratio of sums over drawn scenes, to first order
    samples = means + scenes * (weights(scenes, draws, rng) * beyond).sum(axis=1) / total
    by_seed = gaps.sum(axis=1) / total
    low, high = interval(samples, ALPHA)
    strict = interval(samples, ALPHA / comparisons)
    reach = DETECTABLE / WITHIN * (strict[1] - strict[0]) / 2  # beyond chance, and with a margin for 80 % of cases
    return Difference(float(by_seed.mean()), low, high, p_value(samples), reach, tuple(by_seed.tolist()))


def weights(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Weights [draws, count], each draw's sum 1: a mean under them spreads as Student's t says for so few.

    Drawn with replacement, three trainings spread too little: by a third of the variance (Bessel), and with hardly a
    tail, where t with two degrees of freedom has a long one. Of such 95 % intervals, 73 to 91 in 100 held the truth.
    A normal direction over the root of a chi-square is t at every level, so also at those that Holm asks for.
    """
    if count == 1:
        return np.ones((draws, 1))
    normal = rng.standard_normal((draws, count))
    centred = normal - normal.mean(axis=1, keepdims=True)
    return 1 / count + centred / np.sqrt(count * rng.chisquare(count - 1, (draws, 1)))


def interval(samples: np.ndarray, alpha: float) -> tuple[float, float]:
    """What all but a share `alpha` of the samples lie in, as much left out on either side."""
    low, high = np.quantile(samples, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def p_value(samples: np.ndarray) -> float:
    """Two-sided: twice the share of draws on the far side of zero, never below one draw's worth."""
    tail = min(np.count_nonzero(samples <= 0), np.count_nonzero(samples >= 0)) + 1
    return min(1.0, 2 * tail / (len(samples) + 1))


def adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences with Holm's p values over all of them."""
    p_values = holm([one.p for one in differences])
    return [one._replace(p=p) for one, p in zip(differences, p_values, strict=True)]


def shows(one: Difference) -> str | None:
    """better or worse, if the adjusted p says so and every pair of trainings agrees; else None."""
    if one.p >= ALPHA or len({gap > 0 for gap in one.by_seed}) > 1 or one.estimate == 0:
        return None
    return "better" if one.estimate < 0 else "worse"


def verdict(against_baseline: Difference, against_control: Difference | None, controlled: bool) -> str:
    """In words; where a control of the same size belongs to it, only a gain over that counts as one of the cleaning."""
    if len(against_baseline.by_seed) < ENOUGH_SEEDS:
        return f"too few seeds to name a winner: {len(against_baseline.by_seed)} of {ENOUGH_SEEDS}"
    found = shows(against_baseline)
    if found is None:
        return f"no difference shown; one of {against_baseline.detectable:.3f} would have been"
    if found == "better" and controlled:
        return better_than_chance(against_control)
    return found


def better_than_chance(against_control: Difference | None) -> str:
    """What a gain over the baseline is worth beside the control's."""
    if against_control is None:
        return "better than the baseline; its control did not finish"
    return "better" if shows(against_control) == "better" else "better, but no better than dropping as much at random"
