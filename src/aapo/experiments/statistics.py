"""Scores of several seeds: means with intervals, paired differences by seed and problem, and what they allow to say.

Shapes: S seeds, P problems.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy  # whose parts are loaded when they are asked for

from aapo.evaluation import CONFIDENCE, Estimate, share_interval

POWER = 0.8
MAX_SEEDS = 1000
QUARTER = 0.25
# Scores that are closer differ by rounding.
SAME = 1e-12
# Quantiles of Student's t are found down to there.
LOG_LEAST_P = -600.0
Verdict = Literal["better", "worse", "cannot tell"]


def mean_over_seeds(scores_S: np.ndarray) -> Estimate:
    """The mean of the scores of S seeds, with its 95% interval over seeds: Student's on the scale of log odds.

    It is about further seeds on the same problems. A single seed, or seeds that all score alike, show no spread to
    tell from and have no interval: NaN.
    """
    if np.ptp(scores_S) < SAME:
        return _without_interval(scores_S.mean())
    low, high = share_interval(scores_S.mean(), scipy.stats.sem(scores_S), len(scores_S) - 1)
    return Estimate(float(scores_S.mean()), float(low), float(high))


def interquartile_mean(scores_S: np.ndarray) -> Estimate:
    """The mean without the lowest and highest quarter of the scores (arXiv 2108.13264), with its 95% interval.

    The interval is the one of Tukey and McLaughlin (1963), from the winsorized spread and the degrees of freedom of
    the scores that are left, on the scale of log odds. Of under 4 seeds both are those of the mean.
    """
    if len(scores_S) < 4:
        return mean_over_seeds(scores_S)
    mean = float(scipy.stats.trim_mean(scores_S, QUARTER))
    error = float(scipy.stats.mstats.trimmed_stde(scores_S, (QUARTER, QUARTER)))
    if error < SAME:
        return _without_interval(mean)
    low, high = share_interval(mean, error, len(scores_S) - 2 * int(QUARTER * len(scores_S)) - 1)
    return Estimate(mean, float(low), float(high))


def _without_interval(mean: float) -> Estimate:
    return Estimate(float(mean), float("nan"), float("nan"))


class Difference(NamedTuple):
    """The mean difference between two algorithms.

    Attributes:
        difference: One minus other; scores are fractions.
        low: Lower end of the 95% interval.
        high: Upper end.
        p_value: Of the hypothesis that there is no difference, two-sided, uncorrected; NaN with a single seed. It is
            below 0.05 just where the interval holds no zero.
        seed_variance: What of the squared standard error more seeds would lower.
        problem_variance: What of it only more problems would lower; 0 where problems are not known.
        num_seeds: Seeds that both have.
        num_problems: Problems that all of them have a score on; 1 for scores of whole seeds.
    """

    difference: float
    low: float
    high: float
    p_value: float
    seed_variance: float
    problem_variance: float
    num_seeds: int
    num_problems: int


def paired_difference(one_SP: np.ndarray, other_SP: np.ndarray) -> Difference:
    """The difference of scores that are paired by seed and problem, of shape (S, P); P = 1 for scores of whole seeds.

    Seeds and problems are crossed random effects: D_sp = d + a_s + b_p + e_sp. With mean squares of seeds, problems and
    rest, the squared standard error of the mean is (MS_s + MS_p - MS_e) / (S P), at least each one's own share. Of it
    MS_s / (S P) has the S - 1 degrees of freedom of the seeds, and what only problems add has P - 1; the squares of the
    two Student's half widths add (Howe 1974). Satterthwaite's freedom for the sum takes a spread that few seeds show by
    chance for the true one. Resampling only problems, as for one model, would take the seeds at hand for all there
    are; resampling only seeds, the problems.

    Degenerate cases: NaN scores are left out with their problem. With one seed the p-value is NaN and the interval
    holds everything, since the spread over seeds is unknown. Where nothing varies, the difference may be another on as
    large a share of problems (with P = 1, of seeds) as may go unseen.
    """
    difference_SP = one_SP - other_SP
    difference_SP = difference_SP[:, ~np.isnan(difference_SP).any(0)]
    num_seeds, num_problems = difference_SP.shape
    if not num_problems:
        nan = float("nan")
        return Difference(nan, nan, nan, nan, 0.0, 0.0, num_seeds, 0)
    mean = float(difference_SP.mean())
    if num_seeds < 2:
        nan = float("nan")
        return Difference(mean, -1.0, 1.0, nan, nan, nan, num_seeds, num_problems)
    seeds, problems = _variances(difference_SP)
    if seeds + problems < SAME**2:
        count = num_problems if num_problems > 1 else num_seeds
        reach, p_value = 1 - (1 - CONFIDENCE) ** (1 / count), (1 - min(abs(mean), 1.0)) ** count
    else:
        reach = float(_reach(1 - CONFIDENCE, seeds, problems, num_seeds, num_problems))
        p_value = _p_value(mean, seeds, problems, num_seeds, num_problems)
    low, high = max(-1.0, mean - reach), min(1.0, mean + reach)
    return Difference(mean, low, high, p_value, seeds, problems, num_seeds, num_problems)


def _variances(difference_SP: np.ndarray) -> tuple[float, float]:
    """What seeds give to the squared standard error of the mean, and what problems add to it."""
    num_seeds, num_problems = difference_SP.shape
    by_seed_S, by_problem_P = difference_SP.mean(1), difference_SP.mean(0)
    seeds = float(by_seed_S.var(ddof=1)) / num_seeds
    if num_problems == 1:
        return seeds, 0.0
    residual_SP = difference_SP - by_seed_S[:, None] - by_problem_P[None] + difference_SP.mean()
    freedom = (num_seeds - 1) * (num_problems - 1)
    rest = float((residual_SP**2).sum()) / freedom / (num_seeds * num_problems)
    problems = float(by_problem_P.var(ddof=1)) / num_problems
    # Rest is in both means, hence counted twice in the sum.
    return seeds, max(seeds + problems - rest, seeds, problems) - seeds


def _reach(
    level: float,
    seeds: float | np.ndarray,
    problems: float,
    num_seeds: int | np.ndarray,
    num_problems: int,
) -> np.ndarray:
    """Half the width of the interval that misses with probability `level`."""
    by_seeds = scipy.stats.t.isf(level / 2, num_seeds - 1) * np.sqrt(seeds)
    by_problems = scipy.stats.t.isf(level / 2, num_problems - 1) * np.sqrt(problems) if num_problems > 1 else 0.0
    return np.hypot(by_seeds, by_problems)


def _p_value(mean: float, seeds: float, problems: float, num_seeds: int, num_problems: int) -> float:
    """The level at which the interval just reaches zero."""

    def beyond(logarithm: float) -> float:
        return float(_reach(np.exp(logarithm), seeds, problems, num_seeds, num_problems)) - abs(mean)

    if mean == 0:
        return 1.0
    if beyond(LOG_LEAST_P) < 0:
        return float(np.exp(LOG_LEAST_P))
    return float(np.exp(scipy.optimize.brentq(beyond, LOG_LEAST_P, 0.0, xtol=1e-12)))  # type: ignore[arg-type]


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number by Holm's step-down method; NaN stays NaN and does not count.

    With p_(1) <= ... <= p_(m), the i-th becomes max over j <= i of min(1, (m - j + 1) p_(j)). Rejecting those below
    0.05 keeps the probability of any false rejection below 0.05, whatever the dependence. scipy has no
    Holm, and statsmodels 0.15 would bring six packages, 77 MB and 0.4 seconds of imports for these lines.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not np.isnan(p))
    corrected, highest = list(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[place] = highest
    return corrected


def probability_of_improvement(one_S: np.ndarray, other_S: np.ndarray) -> Estimate:
    """The probability that a run of one algorithm scores higher than one of the other, ties counted half.

    The Mann-Whitney statistic over all pairs of runs, as in arXiv 2108.13264; with Newcombe's interval (2006, method
    5), which keeps its width where all runs of one are above all of the other and the bootstrap has none.
    """
    above = (one_S[:, None] > other_S).mean() + (one_S[:, None] == other_S).mean() / 2
    m, n = len(one_S), len(other_S)
    z = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2)

    def excess(theta: float) -> float:
        weight = (m + n) / 2 - 1
        spread = 1 + weight * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (above - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (m * n)

    tiny = 1e-9
    inside = min(max(float(above), tiny), 1 - tiny)
    low = 0.0 if inside == tiny else scipy.optimize.brentq(excess, tiny**2, inside)
    high = 1.0 if inside == 1 - tiny else scipy.optimize.brentq(excess, inside, 1 - tiny**2)
    return Estimate(float(above), float(low), float(high))  # type: ignore[arg-type]


def judge(difference: Difference, corrected_p: float) -> Verdict:
    """`better` or `worse` where the corrected p-value is below 0.05, else `cannot tell`."""
    if np.isnan(corrected_p) or corrected_p >= 1 - CONFIDENCE:
        return "cannot tell"
    return "better" if difference.difference > 0 else "worse"


def seeds_needed(difference: Difference, num_comparisons: int) -> int | None:
    """How many seeds would show a difference of this size with probability 0.8 at the corrected level, all counted.

    The smallest S whose interval at Bonferroni's level for the number of comparisons has a half width of at most
    |d| - z_power sqrt(v_seed / S + v_problem). None where no number of seeds would do on these problems, or over
    1000; the estimate takes the observed difference and spread for the true ones, so it is rough.
    """
    if np.isnan(difference.seed_variance) or difference.difference == 0:
        return None
    level = (1 - CONFIDENCE) / max(num_comparisons, 1)
    sizes = np.arange(difference.num_seeds + 1, MAX_SEEDS + 1)
    seeds, problems = difference.seed_variance * difference.num_seeds / sizes, difference.problem_variance
    reach = _reach(level, seeds, problems, sizes, difference.num_problems)
    shown = abs(difference.difference) >= reach + scipy.stats.norm.ppf(POWER) * np.sqrt(seeds + problems)
    return int(sizes[shown.argmax()]) if shown.any() else None


def area_under_curve(positions: Sequence[float], values: Sequence[float], end: float) -> float:
    """The mean height of a curve from 0 to `end` by the trapezoidal rule; its first and last value are held.

    Args:
        positions: Rising, in steps, tokens or seconds.
        values: The score there.
        end: Where the curve ends for all that are compared; what lies beyond is not counted.
    """
    assert end > 0 and len(positions) == len(values) > 0
    inside = [position for position in positions if 0 < position < end]
    grid = np.array([0.0, *inside, end])
    return float(np.trapezoid(np.interp(grid, positions, values), grid) / end)
