"""Scores of several seeds: means with intervals, paired differences by seed and problem, and what they allow to say.

Shapes: S seeds, P problems.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize, stats

from aapo.evaluation import Estimate

CONFIDENCE = 0.95
POWER = 0.8
NUM_RESAMPLES = 5000
MAX_SEEDS = 1000
Verdict = Literal["better", "worse", "cannot tell"]


def interquartile_mean(values_S: np.ndarray) -> float:
    """The mean without the lowest and highest quarter of the values (arXiv 2108.13264); of under 4 it is the mean."""
    return float(stats.trim_mean(values_S, 0.25))


def over_seeds(
    strata: Sequence[np.ndarray], statistic: Callable[[np.ndarray], float] = lambda values_S: float(values_S.mean())
) -> Estimate:
    """A statistic of scores of shape (S,), averaged over strata, with its 95% stratified bootstrap interval over seeds.

    Seeds are drawn with replacement within each stratum, such as a task (arXiv 2108.13264). Percentiles of 3 to 10
    seeds are too narrow: the variance of a resample lacks the factor S / (S - 1), and the tails are Student's. Both are
    put right by taking wider percentiles (Hesterberg, arXiv 1411.5279). A single seed has no interval: NaN.
    """
    value = float(np.mean([statistic(values_S) for values_S in strata]))
    size = min(map(len, strata))
    if size < 2:
        return Estimate(value, float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    drawn = [
        [statistic(values_S[rng.integers(len(values_S), size=len(values_S))]) for _ in range(NUM_RESAMPLES)]
        for values_S in strata
    ]
    wide = float(np.sqrt(size / (size - 1)) * stats.t.ppf((1 + CONFIDENCE) / 2, size - 1))
    low, high = np.quantile(np.mean(drawn, axis=0), stats.norm.cdf([-wide, wide]))
    return Estimate(value, float(low), float(high))


class Difference(NamedTuple):
    """The mean difference between two algorithms.

    Attributes:
        difference: One minus other; scores are fractions.
        low: Lower end of the 95% interval.
        high: Upper end.
        p_value: Of the hypothesis that there is no difference, two-sided, uncorrected; NaN with a single seed.
        seed_variance: What of the squared standard error more seeds would lower.
        problem_variance: What of it only more problems would lower; 0 where problems are not known.
        num_seeds: Seeds that both have.
    """

    difference: float
    low: float
    high: float
    p_value: float
    seed_variance: float
    problem_variance: float
    num_seeds: int


def paired_difference(one_SP: np.ndarray, other_SP: np.ndarray) -> Difference:
    """The difference of scores that are paired by seed and problem, of shape (S, P); P = 1 for scores of whole seeds.

    Seeds and problems are crossed random effects: D_sp = d + a_s + b_p + e_sp. With mean squares of seeds, problems and
    rest, the squared standard error of the mean is (MS_s + MS_p - MS_e) / (S P), at least each one's own share, and the
    interval is Student's with Satterthwaite's degrees of freedom. Resampling only problems, as for one model, would
    take the seeds at hand for all there are; resampling only seeds, the problems.

    Degenerate cases: NaN scores are left out with their problem; with one seed, or one problem and no spread, the
    p-value is NaN and the interval holds everything, since the spread over seeds is unknown.
    """
    difference_SP = one_SP - other_SP
    difference_SP = difference_SP[:, ~np.isnan(difference_SP).any(0)]
    num_seeds, num_problems = difference_SP.shape
    if not num_problems:
        return Difference(float("nan"), float("nan"), float("nan"), float("nan"), 0.0, 0.0, num_seeds)
    mean = float(difference_SP.mean())
    if num_seeds < 2:
        return Difference(mean, -1.0, 1.0, float("nan"), float("nan"), float("nan"), num_seeds)
    by_seed_S, by_problem_P = difference_SP.mean(1), difference_SP.mean(0)
    seeds = float(by_seed_S.var(ddof=1)) / num_seeds
    if num_problems == 1:
        problems = rest = 0.0
    else:
        residual_SP = difference_SP - by_seed_S[:, None] - by_problem_P[None] + mean
        freedom = (num_seeds - 1) * (num_problems - 1)
        rest = float((residual_SP**2).sum()) / freedom / (num_seeds * num_problems)
        problems = float(by_problem_P.var(ddof=1)) / num_problems
    # Rest is in both means, hence counted twice in the sum.
    variance = max(seeds + problems - rest, seeds, problems)
    only_problems = max(variance - seeds, 0.0)
    if variance == 0:
        # No seed and no problem differs: as little as a share of 0 in that many trials tells.
        reach = 1 - (1 - CONFIDENCE) ** (1 / (num_seeds * num_problems))
        return Difference(mean, mean - reach, mean + reach, 1.0 if mean == 0 else 0.0, 0.0, 0.0, num_seeds)
    freedom = variance**2 / (
        seeds**2 / (num_seeds - 1) + (problems**2 / (num_problems - 1) if num_problems > 1 else 0.0)
    )
    error = float(np.sqrt(variance))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    low, high = max(-1.0, mean - reach), min(1.0, mean + reach)
    return Difference(mean, low, high, p_value, variance - only_problems, only_problems, num_seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number by Holm's step-down method; NaN stays NaN and does not count.

    With p_(1) <= ... <= p_(m), the i-th becomes max over j <= i of min(1, (m - j + 1) p_(j)). Rejecting those below
    0.05 keeps the probability of any false rejection below 0.05, whatever the dependence.
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
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)

    def excess(theta: float) -> float:
        weight = (m + n) / 2 - 1
        spread = 1 + weight * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (above - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (m * n)

    tiny = 1e-9
    inside = min(max(float(above), tiny), 1 - tiny)
    low = 0.0 if inside == tiny else optimize.brentq(excess, tiny**2, inside)
    high = 1.0 if inside == 1 - tiny else optimize.brentq(excess, inside, 1 - tiny**2)
    return Estimate(float(above), float(low), float(high))  # type: ignore[arg-type]


def judge(difference: Difference, corrected_p: float) -> Verdict:
    """`better` or `worse` where the corrected p-value is below 0.05, else `cannot tell`."""
    if np.isnan(corrected_p) or corrected_p >= 1 - CONFIDENCE:
        return "cannot tell"
    return "better" if difference.difference > 0 else "worse"


def seeds_needed(difference: Difference, num_comparisons: int) -> int | None:
    """How many seeds would show a difference of this size with probability 0.8 at the corrected level, all counted.

    By the normal approximation: the smallest S with d^2 >= (z_alpha + z_power)^2 (v_seed / S + v_problem), with
    Bonferroni's level for the number of comparisons. None where no number of seeds would do on these problems, or over
    1000; the estimate takes the observed difference and spread for the true ones, so it is rough.
    """
    if np.isnan(difference.seed_variance) or difference.difference == 0:
        return None
    level = (1 - CONFIDENCE) / 2 / max(num_comparisons, 1)
    reach = float(stats.norm.isf(level) + stats.norm.ppf(POWER)) ** 2
    room = difference.difference**2 / reach - difference.problem_variance
    if room <= 0:
        return None
    needed = ceil(difference.seed_variance * difference.num_seeds / room)
    return max(needed, difference.num_seeds + 1) if needed <= MAX_SEEDS else None


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
