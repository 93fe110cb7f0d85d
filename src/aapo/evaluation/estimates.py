"""Scores with 95% intervals: avg@n, pass@k, maj@k, averages over tasks, paired differences.

Every score is a mean over problems of one number a problem, so one interval serves all. Problems are the unit that is
drawn: a problem's samples belong together, and its number already varies by their noise (arXiv 2411.00640).

Shapes: P problems, K samples per problem.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
NUM_SUBSETS = 500
_CHUNK = 500


class Estimate(NamedTuple):
    """A number with the ends of its 95% interval; a score is a fraction in [0, 1], a difference lies in [-1, 1]."""

    estimate: float
    low: float
    high: float


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


def average_P(correct_PK: np.ndarray) -> np.ndarray:
    """avg@n: each problem's share of right samples. Unscored samples, NaN, are left out; NaN where all are."""
    count_P = (~np.isnan(correct_PK)).sum(1)
    return np.where(count_P > 0, np.nansum(correct_PK, 1) / np.maximum(count_P, 1), np.nan)


def pass_at_k_P(correct_PK: np.ndarray, k: int) -> np.ndarray:
    """pass@k: the probability that k of a problem's samples, drawn without replacement, hold a right one.

    1 - C(n - c, k) / C(n, k) with c right of n scored samples, the unbiased estimator of arXiv 2107.03374, eq. 1; NaN
    where n < k.
    """
    scored_P, right_P = (~np.isnan(correct_PK)).sum(1), np.nansum(correct_PK, 1)
    drawn_k = np.arange(k)
    # C(n - c, k) / C(n, k) is the product of (n - c - i) / (n - i), which stays exact where factorials would overflow.
    factors_Pk = np.maximum(scored_P[:, None] - right_P[:, None] - drawn_k, 0) / np.maximum(
        scored_P[:, None] - drawn_k, 1
    )
    return np.where(scored_P >= k, 1 - factors_Pk.prod(1), np.nan)


def majority_P(classes_PK: np.ndarray, correct_PK: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """maj@k: the probability that the most frequent answer of k samples, drawn without replacement, is right.

    Answers that are equal have equal classes (arXiv 2203.11171). Ties are broken evenly. A sample without an answer has
    class -1 and no vote; without any vote the problem counts as wrong. For k < K the mean over 500 random subsets.

    Args:
        classes_PK: Class of each sample's answer within its problem, -1 without an answer.
        correct_PK: 1 right, 0 wrong; NaN unscored, and a problem with such a sample is NaN.
        k: Voters.
        seed: Of the subsets.
    """
    rng = np.random.default_rng(seed)
    values = np.full(len(classes_PK), np.nan)
    for p, (classes_K, correct_K) in enumerate(zip(classes_PK, correct_PK, strict=True)):
        if np.isnan(correct_K).any() or len(classes_K) < k:
            continue
        every = k == len(classes_K)
        order = np.arange(k)[None] if every else rng.random((NUM_SUBSETS, len(classes_K))).argsort(1)[:, :k]
        values[p] = np.mean([_vote(classes_K[chosen], correct_K[chosen]) for chosen in order])
    return values


def _vote(classes: np.ndarray, correct: np.ndarray) -> float:
    """The share of the most frequent classes that are right."""
    found, first, counts = np.unique(classes, return_index=True, return_counts=True)
    voted = found >= 0
    if not voted.any():
        return 0.0
    winners = first[voted][counts[voted] == counts[voted].max()]
    return float(correct[winners].mean())


def score(values_P: np.ndarray, *, single: bool = False, seed: int = 0) -> Estimate:
    """The mean over problems of values in [0, 1], with its interval.

    Args:
        values_P: One value a problem; NaN is left out.
        single: The values are single samples, 0 or 1: the interval is Wilson's.
        seed: Of the bootstrap.

    Degenerate cases: without problems all three are NaN; where all values are equal, and the bootstrap would have no
    width, the interval is Wilson's on the number of problems.
    """
    values_P = values_P[~np.isnan(values_P)]
    if not len(values_P):
        return UNKNOWN
    if single or _constant(values_P):
        return _wilson(float(values_P.mean()), len(values_P))
    return _within(_bootstrap([values_P], seed), 0.0, 1.0)


def score_over_tasks(values: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """The mean over tasks of their means over problems, tasks weighing alike, with its interval.

    Problems are drawn within each task. NaN where a task has no problem with a value. A task whose values are all equal
    adds the width of Wilson's interval, since the bootstrap sees none.
    """
    values = [values_P[~np.isnan(values_P)] for values_P in values]
    if not values or not all(map(len, values)):
        return UNKNOWN
    margins = [_wilson(float(values_P.mean()), len(values_P)) for values_P in values if _constant(values_P)]
    low, high = (
        [abs(end - item.estimate) for item, end in zip(margins, ends, strict=True)]
        for ends in ([item.low for item in margins], [item.high for item in margins])
    )
    return _within(_widened(_bootstrap(values, seed), low, high, len(values)), 0.0, 1.0)


def difference(one: Sequence[np.ndarray], other: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """The mean over tasks of the mean difference `one - other`, paired by problem, with its interval.

    Args:
        one: Of each task, one value a problem.
        other: The same problems in the same order; a problem that is NaN on one side is left out.
        seed: Of the bootstrap.

    Degenerate case: where no problem differs, an unseen problem may still: the interval is as wide as the share of
    differing problems that Wilson's interval allows for.
    """
    pairs = [mine - theirs for mine, theirs in zip(one, other, strict=True)]
    gaps = [gap_P[~np.isnan(gap_P)] for gap_P in pairs]
    if not gaps or not all(map(len, gaps)):
        return UNKNOWN
    margins = [_wilson(0.0, len(gap_P)).high for gap_P in gaps if _constant(gap_P)]
    return _within(_widened(_bootstrap(gaps, seed), margins, margins, len(gaps)), -1.0, 1.0)


def _widened(estimate: Estimate, low: Sequence[float], high: Sequence[float], count: int) -> Estimate:
    """The interval of a mean over `count` tasks, with the half widths of those tasks whose values are all equal."""
    ends = [
        float(np.hypot(abs(end - estimate.estimate), np.linalg.norm(widths) / count))
        for end, widths in ((estimate.low, low), (estimate.high, high))
    ]
    return Estimate(estimate.estimate, estimate.estimate - ends[0], estimate.estimate + ends[1])


def single_sample_error(mean: float, count: int) -> float:
    """The standard error of a share `mean` of `count` problems with one sample each, sqrt(mean (1 - mean) / count)."""
    return float(np.sqrt(mean * (1 - mean) / count))


def _constant(values_P: np.ndarray) -> bool:
    return len(values_P) < 2 or float(np.ptp(values_P)) < 1e-12


def _within(estimate: Estimate, low: float, high: float) -> Estimate:
    return Estimate(estimate.estimate, max(low, estimate.low), min(high, estimate.high))


def _bootstrap(strata: Sequence[np.ndarray], seed: int) -> Estimate:
    """The mean of the strata's means, with the BCa interval of the bootstrap within strata.

    The bootstrap is hierarchical: tasks are kept, problems are drawn with replacement, and each keeps its samples.
    Drawing samples again within problems would count their noise twice (Davison and Hinkley 1997, section 3.8). BCa
    (Efron 1987) corrects bias and skewness, which matter on hard and easy benchmarks; its quantiles are widened as
    those of Student's t are (Hesterberg, arXiv 1411.5279), which matters for 30 problems.
    """
    mean = float(np.mean([values.mean() for values in strata]))
    if all(map(_constant, strata)):
        return Estimate(mean, mean, mean)
    rng = np.random.default_rng(seed)
    means = np.concatenate([_resampled(strata, rng) for _ in range(NUM_RESAMPLES // _CHUNK)])
    below = np.mean(means < mean) + np.mean(means == mean) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / NUM_RESAMPLES, 1 - 1 / NUM_RESAMPLES))
    influence = np.concatenate([(values - values.mean()) / (len(strata) * len(values)) for values in strata])
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    wide = _student(strata)
    ends = []
    for z in (-wide, wide):
        shifted = bias + z
        ends.append(stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)))
    low, high = np.quantile(means, ends)
    return Estimate(mean, float(low), float(high))


def _resampled(strata: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Means of some resamples."""
    drawn = [values[rng.integers(len(values), size=(_CHUNK, len(values)))].mean(1) for values in strata]
    return np.mean(drawn, axis=0)


def _student(strata: Sequence[np.ndarray]) -> float:
    """By how many bootstrap standard errors Student's interval reaches, with Welch and Satterthwaite's freedom."""
    sizes = np.array([len(values) for values in strata])
    bootstrap = np.array([values.var() / len(values) for values in strata])
    unbiased = bootstrap * sizes / np.maximum(sizes - 1, 1)
    freedom = unbiased.sum() ** 2 / (unbiased**2 / np.maximum(sizes - 1, 1)).sum()
    return float(np.sqrt(unbiased.sum() / bootstrap.sum()) * stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def _wilson(mean: float, count: int) -> Estimate:
    """Wilson's score interval for `count` independent trials of which the share `mean` succeeded."""
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    centre = (mean + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(mean * (1 - mean) / count + z**2 / (4 * count**2))
    return Estimate(mean, max(0.0, float(centre - half)), min(1.0, float(centre + half)))
