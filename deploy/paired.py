"""Bits of the same held-out scenes under two settings in, differences with intervals and verdicts out.

Every array of bits is [seeds, scenes]: a row is one training, a column one scene of the frozen exam. Seeds and scenes
cross (each training meets the same scenes), so a bootstrap draw takes seeds, then scenes, once for both settings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stages.intervals import DETECTABLE, LEVEL, holm

ALPHA = 0.05
ENOUGH_SEEDS = 3  # fewer trainings cannot tell a setting from its luck


class Difference(NamedTuple):
    """Bits per character of one setting minus another's: negative is better.

    `p` is two-sided, `detectable` the smallest true difference that this sample would show in 80 % of cases,
    `by_seed` the difference of each pair of trainings.
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


def difference(one: np.ndarray, other: np.ndarray, characters: np.ndarray, draws: int, seed: int) -> Difference:
    """`one` minus `other`, [seeds, scenes] each over [scenes] characters, by a paired bootstrap."""
    gaps = one - other
    seeds, scenes = gaps.shape
    rng = np.random.Generator(np.random.PCG64(seed))
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    of_scenes = rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=draws)
    samples = np.einsum("ds,sg,dg->d", of_seeds, gaps, of_scenes, optimize=True) / (of_scenes @ characters)
    low, high = np.percentile(samples, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    by_seed = gaps.sum(axis=1) / characters.sum()
    spread = DETECTABLE * float(samples.std())
    return Difference(float(by_seed.mean()), float(low), float(high), p_value(samples), spread, tuple(by_seed.tolist()))


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


def verdict(against_baseline: Difference, against_control: Difference | None) -> str:
    """In words; only a gain over a control of the same size counts as one of the cleaning."""
    if len(against_baseline.by_seed) < ENOUGH_SEEDS:
        return f"too few seeds to name a winner: {len(against_baseline.by_seed)} of {ENOUGH_SEEDS}"
    found = shows(against_baseline)
    if found is None:
        return f"no difference shown; one of {against_baseline.detectable:.3f} would have been"
    if found == "better" and against_control is not None and shows(against_control) != "better":
        return "better, but no better than dropping as much at random"
    return found
