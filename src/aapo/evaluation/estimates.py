"""Accuracies with 95% intervals.

Shapes: P problems, K samples per problem.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A fraction in [0, 1] with the ends of its 95% interval."""

    estimate: float
    low: float
    high: float


def average_accuracy(correct_PK: np.ndarray, seed: int = 0) -> Estimate:
    """avg@K, the mean over problems of the share of right samples, with its 95% interval.

    Problems are the unit that is drawn: samples of one problem are not independent (arXiv 2411.00640). For K > 1 the
    interval is the percentile bootstrap over problems, which carries the noise of the K samples with it, since each
    problem's mean already varies by it; for K = 1 it is Wilson's. Unscored samples are NaN and left out; problems
    without any scored sample too.

    Degenerate cases: without problems all three are NaN. When all problem means are equal, where the bootstrap would
    have no width, the interval is Wilson's on the number of problems.
    """
    scored_PK = correct_PK[~np.isnan(correct_PK).all(1)]
    if not len(scored_PK):
        return Estimate(float("nan"), float("nan"), float("nan"))
    means_P = np.nanmean(scored_PK, axis=1)
    mean = float(means_P.mean())
    if scored_PK.shape[1] == 1 or np.ptp(means_P) == 0:
        return _wilson(mean, len(means_P))
    draws = np.random.default_rng(seed).integers(len(means_P), size=(NUM_RESAMPLES, len(means_P)))
    low, high = np.quantile(means_P[draws].mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(mean, float(low), float(high))


def _wilson(mean: float, count: int) -> Estimate:
    """Wilson's score interval for `count` independent trials of which the share `mean` succeeded."""
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    centre = (mean + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(mean * (1 - mean) / count + z**2 / (4 * count**2))
    return Estimate(mean, max(0.0, float(centre - half)), min(1.0, float(centre + half)))
