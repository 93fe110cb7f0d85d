"""Scores with 95% intervals: avg@n, pass@k, maj@k, averages over tasks, paired differences.

Every score is a mean over problems of one number a problem, so one interval serves all: Student's, for a score on the
scale of log odds. Problems are the unit that is drawn: a problem's samples belong together, and its number already
varies by their noise (arXiv 2411.00640). Percentiles of a bootstrap cannot leave the range of the values, so on few
problems they are too narrow.

Shapes: P problems, K samples per problem.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # whose parts are loaded when they are asked for

CONFIDENCE = 0.95
NUM_SUBSETS = 500


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


def student_reach(error: np.ndarray | float, freedom: np.ndarray | float) -> np.ndarray:
    """Half the width of Student's 95% interval of a mean with this standard error."""
    return scipy.special.stdtrit(freedom, (1 + CONFIDENCE) / 2) * error


def share_interval(
    mean: np.ndarray | float, error: np.ndarray | float, freedom: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a 95% interval of means of values in [0, 1]: Student's on the scale of log odds.

    logit(mean) -+ t * error / (mean (1 - mean)), by the delta method. The interval stays inside [0, 1] and reaches
    further away from the nearer end of the scale, to which side values near an end are skewed. A mean of 0 or 1 has no
    error, and both ends are the mean.

    Args:
        mean: Means in [0, 1].
        error: Their standard errors.
        freedom: Degrees of freedom of the errors.
    """
    mean = np.asarray(mean, float)
    slope = mean * (1 - mean)
    reach = np.divide(student_reach(error, freedom), slope, out=np.zeros(np.shape(slope)), where=slope > 0)
    return scipy.special.expit(scipy.special.logit(mean) - reach), scipy.special.expit(
        scipy.special.logit(mean) + reach
    )


def score(values_P: np.ndarray) -> Estimate:
    """The mean over problems of values in [0, 1], with its interval: Student's on the scale of log odds.

    Values that are all 0 or 1, such as single samples, or all equal have the interval of Clopper and Pearson, which
    is exact: theirs is a binomial count, or no spread to estimate an error from. NaN is left out; without problems all
    three are NaN.
    """
    values_P = values_P[~np.isnan(values_P)]
    if not len(values_P):
        return UNKNOWN
    mean = float(values_P.mean())
    if _constant(values_P) or bool(np.isin(values_P, (0.0, 1.0)).all()):
        return Estimate(mean, *_exact(mean, len(values_P)))
    low, high = share_interval(mean, _error(values_P), len(values_P) - 1)
    return Estimate(mean, float(low), float(high))


def score_over_tasks(values: Sequence[np.ndarray]) -> Estimate:
    """The mean over tasks of their means over problems, tasks weighing alike, with its interval.

    NaN where a task has no problem with a value.
    """
    return _average([score(values_P) for values_P in values])


def difference(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> Estimate:
    """The mean over tasks of the mean difference `one - other`, paired by problem, with Student's interval.

    Args:
        one: Of each task, one value a problem.
        other: The same problems in the same order; a problem that is NaN on one side is left out.

    Degenerate case: where all problems differ alike, such as not at all, an unseen one may still differ: the interval
    is as wide as the share of problems of which none was seen may be, by Clopper and Pearson.
    """
    return _average([_gap(mine - theirs) for mine, theirs in zip(one, other, strict=True)])


def _gap(gap_P: np.ndarray) -> Estimate:
    """The mean difference over one task's problems."""
    gap_P = gap_P[~np.isnan(gap_P)]
    if not len(gap_P):
        return UNKNOWN
    mean = float(gap_P.mean())
    reach = _exact(0.0, len(gap_P))[1] if _constant(gap_P) else float(student_reach(_error(gap_P), len(gap_P) - 1))
    return Estimate(mean, max(-1.0, mean - reach), min(1.0, mean + reach))


def _average(tasks: Sequence[Estimate]) -> Estimate:
    """The mean over tasks, which are independent: the squares of their intervals' half widths add.

    So each task's own skewness and degrees of freedom are kept (Zou and Donner, doi:10.1002/sim.3095).
    """
    if not tasks:
        return UNKNOWN
    mean_T, low_T, high_T = np.array(tasks).T
    mean = float(mean_T.mean())
    below, above = (float(np.linalg.norm(side_T)) / len(tasks) for side_T in (mean_T - low_T, high_T - mean_T))
    return Estimate(mean, mean - below, mean + above)


def single_sample_error(mean: float, count: int) -> float:
    """The standard error of a share `mean` of `count` problems with one sample each, sqrt(mean (1 - mean) / count)."""
    return float(np.sqrt(mean * (1 - mean) / count))


def _constant(values_P: np.ndarray) -> bool:
    return len(values_P) < 2 or float(np.ptp(values_P)) < 1e-12


def _error(values_P: np.ndarray) -> float:
    """The standard error of the mean."""
    return float(values_P.std(ddof=1)) / len(values_P) ** 0.5


def _exact(mean: float, count: int) -> tuple[float, float]:
    """Clopper and Pearson's interval for `count` independent trials of which the share `mean` succeeded."""
    found = scipy.stats.binomtest(round(mean * count), count).proportion_ci(CONFIDENCE)
    return float(found.low), float(found.high)
